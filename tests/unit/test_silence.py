"""What a silent member spends, and that it is held for it."""

from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.budget.silence import LEAVE, MISSING, PRESUMED, STRANGERS, Promise, shares

WINDOW = 1.04


@given(
    share=st.floats(0, 40),
    floor=st.floats(0, 10),
    took=st.floats(0, 30),
    given_at=st.floats(0, 1),
    silence=st.floats(0, 60),
)
def test_no_window_holds_what_is_not_held_for_it(
    share: float, floor: float, took: float, given_at: float, silence: float
) -> None:
    promise = Promise(share, floor, 100.0, 100.0 + took)
    redis_said = 100.0 + took * given_at
    now = 100.0 + silence
    spends = promise.spends(now, WINDOW)
    # A window may hold what leaves now and what others granted themselves between these.
    for moment in (now - LEAVE - WINDOW, now + LEAVE + WINDOW):
        silent = moment - redis_said
        held = 0.0 if silent < MISSING else share if silent < PRESUMED else floor
        at_the_edge = min(abs(silent - MISSING), abs(silent - PRESUMED)) < 1e-9
        assert spends <= held or at_the_edge


def test_who_never_heard_of_redis_shares_with_strangers() -> None:
    assert Promise.to_a_stranger(40).spends(0.0, WINDOW) == 40 // STRANGERS
    assert Promise.to_a_stranger(7).spends(0.0, WINDOW) == 7 / STRANGERS


def test_something_is_promised_to_nobody() -> None:
    assert (shares(40), shares(127), shares(7), shares(1)) == (35, 112, 7, 1)
