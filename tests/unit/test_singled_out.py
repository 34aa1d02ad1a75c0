"""Whose a refusal is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.budget.singled_out import DOUBTFUL_PAUSE, FIRST_PAUSE, LONGEST_PAUSE, MEMORY, SingledOut


def refused(
    who: SingledOut,
    client: str,
    now: float,
    *,
    sent_at: float | None = None,
    retry_after: float | None = None,
    others_wait: bool = True,
) -> bool:
    sent_at = now - 0.01 if sent_at is None else sent_at
    return who.refused(client, sent_at, now, retry_after, others_wait=others_wait)


def singled_out(client: str = "bad", now: float = 2.0) -> SingledOut:
    """Return one that knows of a client that was refused twice while another was answered."""
    who = SingledOut()
    assert not refused(who, client, now - 1)
    who.answered("good", now - 0.5)
    assert refused(who, client, now)
    return who


def test_a_first_refusal_is_the_groups() -> None:
    who = SingledOut()
    who.answered("good", 0.5)
    assert not refused(who, "bad", 1.0)
    assert not who.gives_way("bad")
    assert who.until("bad") < 1.0


def test_a_second_one_is_the_clients_own_while_others_are_answered() -> None:
    who = singled_out()
    assert who.gives_way("bad")
    assert who.alone(2.0) == 1
    assert who.until("bad") == 2.0 + FIRST_PAUSE
    assert not who.gives_way("good")


def test_refusals_of_the_only_client_are_the_groups_however_many() -> None:
    who = SingledOut()
    who.answered("only", 0.5)
    assert not any(refused(who, "only", float(now), others_wait=False) for now in range(1, 50))
    assert who.alone(50.0) == 0


def test_an_answer_from_before_the_first_refusal_was_known_says_nothing() -> None:
    who = SingledOut()
    refused(who, "bad", 1.0)
    who.answered("good", 0.9)
    assert not refused(who, "bad", 2.0)
    assert who.gives_way("bad"), "the others go first, and bring word"
    who.answered("good", 2.1)
    assert refused(who, "bad", 3.0)


def test_calls_that_left_together_and_are_refused_together_are_one_refusal() -> None:
    who = SingledOut()
    who.answered("good", 0.5)
    refused(who, "many", 1.0, sent_at=0.9)
    who.answered("good", 1.1)
    assert not any(refused(who, "many", 1.0 + number / 100, sent_at=0.95) for number in range(5))
    assert not who.gives_way("many")


def test_an_answer_of_its_own_ends_it() -> None:
    who = singled_out()
    who.answered("bad", 2.5)
    assert who.alone(2.5) == 0
    assert not refused(who, "bad", 3.0)


def test_one_that_no_longer_comes_is_not_counted_for_ever() -> None:
    who = singled_out()
    held_until = who.until("bad")
    assert who.alone(held_until + MEMORY - 0.1) == 1
    assert who.alone(held_until + MEMORY) == 0


def test_as_soon_as_another_is_refused_they_are_the_groups_again() -> None:
    who = singled_out()
    assert not refused(who, "good", 3.0)
    assert not refused(who, "bad", 4.0)
    who.answered("good", 4.5)
    assert refused(who, "bad", 5.0)


def test_two_that_are_refused_each_time_are_told_from_all_others() -> None:
    who = SingledOut()
    seen = []
    for now in range(5):
        seen.append((refused(who, "bad", float(now)), refused(who, "worse", now + 0.1)))
        who.answered("good", now + 0.5)
    assert seen == [(False, False), *[(True, True)] * 4]


def test_a_long_pause_is_not_laid_upon_others_on_one_clients_word() -> None:
    for asked, others_wait, own in [
        (DOUBTFUL_PAUSE, True, False),
        (DOUBTFUL_PAUSE + 1, False, False),
        (DOUBTFUL_PAUSE + 1, True, True),
    ]:
        who = SingledOut()
        refused(who, "bad", 0.0)
        assert refused(who, "bad", 1.0, retry_after=asked, others_wait=others_wait) is own
        # They have gone first: if there is still no word of an answer, that is one of a refusal.
        assert not refused(who, "bad", 9.0, retry_after=asked, others_wait=others_wait)


@pytest.mark.parametrize("asked", [7.0, LONGEST_PAUSE, 3600.0])
def test_it_waits_for_as_long_as_the_workspace_asks_up_to_a_minute(asked: float) -> None:
    who = singled_out()
    refused(who, "bad", 10.0, retry_after=asked)
    assert who.until("bad") == 10.0 + min(asked, LONGEST_PAUSE)


def test_unasked_it_waits_twice_as_long_each_time() -> None:
    who, now, pauses = singled_out(), 2.0, []
    for _ in range(9):
        pauses.append(who.until("bad") - now)
        who.answered("good", who.until("bad"))
        now = who.until("bad") + 1
        assert refused(who, "bad", now)
    assert pauses == [min(LONGEST_PAUSE, FIRST_PAUSE * 2**number) for number in range(9)]


def test_after_its_pause_one_call_finds_out_for_all() -> None:
    who = singled_out()
    who.try_one("bad", 5.0)
    assert who.until("bad") == 5.0 + FIRST_PAUSE
    who.try_one("good", 5.0)
    assert who.until("good") < 5.0


def test_it_is_forgotten_after_a_while_and_so_is_what_became_of_others() -> None:
    who = singled_out()
    assert not refused(who, "bad", who.until("bad") + MEMORY)
    who = singled_out()
    assert not refused(who, "bad", 1.5 + MEMORY), "nothing was heard of others for long"


events = st.lists(
    st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 20), st.integers(0, 5)), max_size=40
)


@given(events)
def test_what_is_a_clients_own_was_refused_before_and_contradicted_by_an_answer(
    events: list[tuple[str, bool, int, int]],
) -> None:
    who, now = SingledOut(), 0.0
    first: dict[str, float] = {}
    answers: list[tuple[str, float]] = []
    for client, answered, passes, flies in events:
        now += passes
        sent_at = now - flies
        if answered:
            who.answered(client, sent_at)
            answers.append((client, sent_at))
            first.pop(client, None)
        elif refused(who, client, now, sent_at=sent_at, others_wait=False):
            assert client in first
            assert any(other != client and first[client] < moment for other, moment in answers)
            assert who.until(client) > now
        else:
            first.setdefault(client, now)
