"""The control law: what a refusal costs, and how the rate climbs back."""

from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.budget.congestion import DECREASE, GROWTH, Cubic
from tests.virtual_time import TICK, ticks

LIMIT, FLOOR = 40, 1
MINUTE = 60.0

passing = st.floats(0, 2 * LIMIT)
events = st.lists(st.tuples(ticks(0, 20 * 1024), passing), max_size=12)
"""Congestion events: the time since the one before, and what got through."""


def cubic() -> Cubic:
    return Cubic(LIMIT, FLOOR)


def after(law: Cubic, happened: list[tuple[float, float]]) -> float:
    """Let it all happen, from 0 on; return the moment of the last event."""
    now = 0.0
    for gap, through in happened:
        now += gap
        law.refused(through, now)
    return now


def plateau(peak: float) -> float:
    """Seconds until the rate is back at its peak (RFC 9438's K)."""
    return float((peak * (1 - DECREASE) / GROWTH) ** (1 / 3))


@given(ticks(0, 10**9))
def test_starts_at_the_limit(now: float) -> None:
    assert cubic().rate(now) == cubic().sustained(now) == LIMIT


@given(st.floats(LIMIT / 2, LIMIT), ticks(0, 10**6))
def test_falls_below_what_got_through_and_is_back_there_after_the_plateau_time(
    peak: float, now: float
) -> None:
    law = cubic()
    law.refused(peak, now)
    assert law.rate(now) == pytest.approx(DECREASE * peak)
    assert law.rate(now + plateau(peak)) == pytest.approx(peak)
    assert law.sustained(now) == peak


def test_climbs_fast_then_slowly_then_ever_faster() -> None:
    law = cubic()
    law.refused(30, 0.0)
    back = plateau(30)
    rates = [law.rate(back * thirds / 3) for thirds in range(7)]
    steps = [later - earlier for earlier, later in pairwise(rates)]
    assert steps == pytest.approx([(1 - DECREASE) * 30 / 27 * share for share in (19, 7, 1, 1, 7, 19)])


@given(events, st.lists(ticks(0, 30 * 1024), max_size=20))
def test_stays_between_floor_and_limit_and_never_falls_between_events(
    happened: list[tuple[float, float]], gaps: list[float]
) -> None:
    law = cubic()
    now = after(law, happened)
    moments = list(accumulate(gaps, initial=now))
    rates = [law.rate(moment) for moment in moments]
    assert all(FLOOR <= rate <= LIMIT for rate in rates)
    assert rates == sorted(rates)
    for moment, rate in zip(moments, rates, strict=True):
        assert rate <= law.sustained(moment) <= LIMIT


@given(events, passing, ticks(1, 20 * 1024))
def test_a_refusal_costs_a_tenth_of_what_passed_but_never_more_than_half_again(
    happened: list[tuple[float, float]], through: float, gap: float
) -> None:
    law = cubic()
    now = after(law, happened) + gap
    before = law.rate(now)
    law.refused(through, now)
    counted = min(before, max(through, before / 2))
    assert law.rate(now) == pytest.approx(max(FLOOR, DECREASE * max(FLOOR, counted)))


@pytest.mark.parametrize(
    ("through", "rate"),
    [
        (0, DECREASE * LIMIT / 2),
        (LIMIT / 2 - 1, DECREASE * LIMIT / 2),
        (LIMIT / 2 + 1, DECREASE * (LIMIT / 2 + 1)),
        (LIMIT, DECREASE * LIMIT),
        (LIMIT + 1, DECREASE * LIMIT),
    ],
)
def test_passing_counts_from_half_the_rate_to_the_whole(through: float, rate: float) -> None:
    law = cubic()
    law.refused(through, 0.0)
    assert law.rate(0.0) == pytest.approx(rate)


def test_the_floor_is_kept_up_however_often_the_workspace_refuses() -> None:
    law = cubic()
    now = after(law, [(TICK, 0.0)] * 100)
    assert law.rate(now) == law.sustained(now) == FLOOR
    assert law.rate(now + plateau(FLOOR) + 5) == pytest.approx(FLOOR + GROWTH * 5**3)


@given(events, events)
def test_an_old_event_no_longer_matters(
    old: list[tuple[float, float]], recent: list[tuple[float, float]]
) -> None:
    law, fresh = cubic(), cubic()
    moved = after(law, old) + MINUTE
    assert law.rate(moved) == law.sustained(moved) == LIMIT
    recent = [(0.0, LIMIT), *recent]
    now = after(fresh, [(moved, LIMIT), *recent[1:]])
    for gap, through in recent:
        moved += gap
        law.refused(through, moved)
    assert moved == now
    assert [law.rate(now + ago) for ago in range(20)] == [fresh.rate(now + ago) for ago in range(20)]


def test_above_the_plateau_the_rate_itself_is_sustained() -> None:
    law = cubic()
    law.refused(30, 0.0)
    later = plateau(30) + 3
    assert law.sustained(later) == law.rate(later) == pytest.approx(30 + GROWTH * 27)
