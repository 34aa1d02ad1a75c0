"""When the next call of a group may leave, with times in ticks so that the arithmetic is exact."""

from copy import deepcopy
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from mlflow_proxy.budget.congestion import DECREASE, Cubic
from mlflow_proxy.budget.pacer import CALM, LONGEST_PAUSE, SLACK, Pacer
from mlflow_proxy.budget.sliding_window import Grant
from tests.virtual_time import TICK, ticks

from .test_sliding_window import arrival_times, limits, most_within, windows

LIMIT, WINDOW = 8, 2048 * TICK


class Told:
    """A control law that says what it is told, and remembers what it heard."""

    def __init__(self, rate: float, sustained: float | None = None) -> None:
        self.value = rate
        self.lasting = sustained
        self.heard: list[tuple[float, float]] = []

    def rate(self, now: float) -> float:
        return self.value

    def sustained(self, now: float) -> float:
        return self.value if self.lasting is None else self.lasting

    def refused(self, passing: float, now: float) -> None:
        self.heard.append((passing, now))


def told(rate: float = LIMIT) -> Pacer:
    return Pacer(LIMIT, WINDOW, Told(rate))


def send(pacer: Pacer, now: float) -> Grant:
    """Let one call leave that is known to be free to."""
    grant = pacer.try_grant(now)
    assert grant is not None
    pacer.sent(grant, now)
    return grant


def refusal(pacer: Pacer, now: float, retry_after: float | None = None) -> None:
    """Have one call sent and refused at once."""
    pacer.refused(send(pacer, now), now, retry_after)


def next_grant(pacer: Pacer, now: float) -> tuple[Grant, float]:
    """Ask again whenever the pacer says so, until it lets a call leave."""
    while (grant := pacer.try_grant(now)) is None:
        moment = pacer.next_moment(now)
        assert moment is not None, "somebody would have to call"
        assert moment > now
        now = moment
    return grant, now


def spend(pacer: Pacer, arrivals: list[float]) -> list[float]:
    """Send every call as soon as the pacer lets it, in order; return the departures."""
    departures: list[float] = []
    for arrival in arrivals:
        grant, now = next_grant(pacer, max([arrival, *departures[-1:]]))
        pacer.sent(grant, now)
        departures.append(now)
    return departures


class PacerMachine(RuleBasedStateMachine):
    """Any interleaving of grants, late departures, repetitions, give-ups and refusals."""

    held = Bundle("held")
    sent = Bundle("sent")

    def __init__(self) -> None:
        super().__init__()
        self.limit, self.window = 3, 256 * TICK
        self.pacer = Pacer(self.limit, self.window, Cubic(self.limit, 0.5))
        self.now = 0.0
        self.on_hold = 0
        self.first: list[float] = []
        self.departures: list[float] = []
        self.refusals: list[float] = []
        self.pause = 0.0
        self.evenly = 0.0

    def counted(self) -> int:
        return self.on_hold + sum(moment + self.window > self.now for moment in self.departures)

    def leaves(self, grant: Grant) -> Grant:
        if grant.held:
            self.on_hold -= 1
            self.first.append(self.now)
        self.departures.append(self.now)
        self.pacer.sent(grant, self.now)
        return grant

    @rule(gap=st.one_of(ticks(0, 300), ticks(0, 80 * 1024)))
    def time_passes(self, gap: float) -> None:
        self.now += gap

    @rule(target=held)
    def ask(self) -> Grant:
        before = self.counted()
        grant = self.pacer.try_grant(self.now)
        if grant is None:
            return Grant(held=False)
        assert before < self.limit
        assert self.now >= self.pause
        if self.refusals and self.now < self.refusals[-1] + CALM:
            assert self.now >= self.evenly - SLACK
        self.evenly = self.now + self.window / self.pacer.rate(self.now)
        self.on_hold += 1
        return grant

    @rule(target=sent, grant=consumes(held), gap=ticks(0, 300))
    def connects_and_leaves(self, grant: Grant, gap: float) -> Grant:
        if grant.held:
            self.now += gap
            self.leaves(grant)
        return grant

    @rule(grant=sent)
    def leaves_again(self, grant: Grant) -> None:
        if grant.sent_at is not None:
            self.leaves(grant)

    @rule(grant=st.one_of(consumes(held), sent))
    def is_given_up(self, grant: Grant) -> None:
        if grant.held:
            self.on_hold -= 1
            self.evenly = 0.0  # its turn goes to whoever asks next
        self.pacer.give_up(grant)
        self.pacer.give_up(grant)

    @rule(
        grant=consumes(sent),
        retry_after=st.one_of(st.none(), ticks(0, 4096), st.sampled_from([30.0, 1e9])),
    )
    def is_refused(self, grant: Grant, retry_after: float | None) -> None:
        if grant.sent_at is not None:
            self.refusals.append(self.now)
            self.pause = max(self.pause, self.now + min(retry_after or 0.0, LONGEST_PAUSE))
            self.pacer.refused(grant, self.now, retry_after)

    @invariant()
    def counts_what_is_held_and_what_left(self) -> None:
        assert self.pacer.in_window(self.now) == self.counted()

    @invariant()
    def first_departures_stay_within_the_limit(self) -> None:
        assert most_within(self.first[-20:], self.window) <= self.limit

    @invariant()
    def asking_again_when_told_to_ends_with_a_grant(self) -> None:
        if not self.on_hold:
            next_grant(deepcopy(self.pacer), self.now)

    @invariant()
    def prediction_covers_the_pause_and_never_decreases(self) -> None:
        waits = [self.pacer.wait(ahead, self.now) for ahead in range(12)]
        assert waits[0] >= self.pacer.pause(self.now) == max(0.0, self.pause - self.now)
        assert all(earlier <= later for earlier, later in pairwise(waits))


TestPacerMachine = PacerMachine.TestCase


@given(limits, windows, arrival_times, st.integers(0, 30))
def test_the_predicted_wait_is_exact_as_long_as_nothing_is_refused(
    limit: int, window: float, arrivals: list[float], ahead: int
) -> None:
    pacer = Pacer(limit, window, Cubic(limit, 1))
    now = max(spend(pacer, arrivals), default=0.0)
    predicted = now + pacer.wait(ahead, now)
    assert spend(pacer, [now] * (ahead + 1))[-1] == pytest.approx(predicted, abs=1e-9)


@given(limits, windows, arrival_times)
def test_an_idle_budget_is_spent_at_once(limit: int, window: float, arrivals: list[float]) -> None:
    pacer = Pacer(limit, window, Cubic(limit, 1))
    idle = max(spend(pacer, arrivals), default=0.0) + 2 * window
    assert spend(pacer, [idle] * limit) == [idle] * limit


def test_from_the_moment_that_a_call_has_to_wait_calls_are_spaced() -> None:
    """Or who makes one call after the other would get one in each window, beside those who leave together."""
    pacer = Pacer(LIMIT, WINDOW, Cubic(LIMIT, 1))
    departures = [0.0] * LIMIT + [WINDOW + count * WINDOW / LIMIT for count in range(3 * LIMIT)]
    assert spend(pacer, [0.0] * 4 * LIMIT) == departures


def test_a_late_timer_costs_nothing() -> None:
    pacer = Pacer(LIMIT, WINDOW, Cubic(LIMIT, 1))
    spend(pacer, [0.0] * LIMIT)
    assert pacer.try_grant(0.0) is None
    send(pacer, WINDOW + SLACK)
    assert pacer.try_grant(WINDOW + SLACK) is None
    assert pacer.next_moment(WINDOW + SLACK) == WINDOW + WINDOW / LIMIT


@pytest.mark.parametrize("rate", [1, 2, 4, 8])
@pytest.mark.parametrize("before", [0, 1])
def test_after_a_refusal_calls_are_spaced_and_the_prediction_knows(rate: int, before: int) -> None:
    pacer = told(rate)
    spend(pacer, [0.0] * before)
    moment = before * WINDOW / rate
    refusal(pacer, moment)
    departures = [moment + count * WINDOW / rate for count in range(1, 20)]
    for now in (moment, departures[0]):
        assert [now + pacer.wait(ahead, now) for ahead in range(19)] == departures
    assert spend(pacer, [moment] * 19) == departures


def test_spacing_begins_where_the_burst_before_the_refusal_would_have_ended() -> None:
    pacer = told()
    for _ in range(4):
        send(pacer, 0.0)
    refusal(pacer, 0.0)
    assert spend(pacer, [0.0] * 3) == [WINDOW * eighths / 8 for eighths in (5, 6, 7)]


def test_spacing_follows_the_rate_as_it_is_when_a_call_leaves() -> None:
    law = Told(2)
    pacer = Pacer(LIMIT, WINDOW, law)
    refusal(pacer, 0.0)
    law.value = 4
    assert spend(pacer, [0.0] * 2) == [WINDOW / 2, WINDOW / 2 + WINDOW / 4]


def test_waits_are_predicted_with_the_rate_that_lasts() -> None:
    pacer = Pacer(LIMIT, WINDOW, Told(2, sustained=4))
    refusal(pacer, 0.0)
    assert [pacer.wait(ahead, 0.0) for ahead in range(3)] == [
        WINDOW / 2,
        WINDOW / 2 + WINDOW / 4,
        WINDOW / 2 + WINDOW / 2,
    ]
    assert pacer.outside(0.0) == LIMIT - 4


def test_spacing_ends_when_it_was_calm_for_long_enough() -> None:
    pacer = told()
    refusal(pacer, 1.0)
    last = send(pacer, 3.0)
    pacer.refused(last, 4.0)
    send(pacer, 4.0 + CALM - TICK)
    assert pacer.try_grant(4.0 + CALM - TICK) is None
    calm = 4.0 + CALM + 2 * WINDOW  # no call had to wait since
    assert spend(pacer, [calm] * LIMIT) == [calm] * LIMIT


def test_a_rate_between_two_whole_numbers_counts_as_the_higher() -> None:
    pacer = told(2.5)
    assert spend(pacer, [0.0] * 4) == pytest.approx([0.0, 0.0, 0.0, 3 * WINDOW / 2.5])


def test_the_rate_falls_once_for_calls_that_were_under_way_together() -> None:
    law = Told(LIMIT)
    pacer = Pacer(LIMIT, WINDOW, law)
    early, also_early, late = (send(pacer, moment) for moment in (0.0, 0.25, 0.5))
    pacer.refused(early, 0.5)
    pacer.refused(also_early, 0.75)
    pacer.refused(late, 0.75)
    assert law.heard == [(2, 0.5)]
    pacer.refused(send(pacer, 0.75), 0.875)
    assert [moment for _, moment in law.heard] == [0.5, 0.875]


def test_a_call_that_was_sent_again_since_the_rate_fell_counts_as_sent_since() -> None:
    law = Told(LIMIT)
    pacer = Pacer(LIMIT, WINDOW, law)
    repeated = send(pacer, 0.0)
    pacer.refused(send(pacer, 0.0), 0.5)
    pacer.sent(repeated, 0.75)
    pacer.refused(repeated, 0.875)
    assert [moment for _, moment in law.heard] == [0.5, 0.875]


def test_passing_is_what_of_the_last_window_was_not_refused() -> None:
    law = Told(LIMIT)
    pacer = Pacer(LIMIT, WINDOW, law)
    calls = [send(pacer, 0.0) for _ in range(5)]
    for call in calls[:2]:
        pacer.refused(call, 0.25)
    pacer.refused(send(pacer, 0.75 * WINDOW), WINDOW - TICK)
    pacer.refused(send(pacer, WINDOW), WINDOW)
    # 5 less the first; 6 less three; 2 since the window moved past the first five, both refused.
    assert [through for through, _ in law.heard] == [4, 3, 0]


def test_refusals_that_overtake_each_other_are_forgotten_all_the_same() -> None:
    law = Told(LIMIT)
    pacer = Pacer(LIMIT, WINDOW, law)
    slow, quick = send(pacer, 0.0), send(pacer, 0.5 * WINDOW)
    pacer.refused(quick, 0.75 * WINDOW)
    pacer.refused(slow, 0.875 * WINDOW)
    passed, refused = send(pacer, WINDOW), send(pacer, 1.25 * WINDOW)
    assert passed.sent_at == WINDOW
    pacer.refused(refused, 1.375 * WINDOW)
    # In the window are `quick`, `passed` and `refused`.
    assert law.heard[-1] == (1, 1.375 * WINDOW)


@pytest.mark.parametrize(
    ("asked", "pause"),
    [((None,), 0), ((0,), 0), ((7,), 7), ((1e9,), LONGEST_PAUSE), ((7, 2), 7), ((2, 7), 7), ((7, None), 7)],
)
def test_nobody_leaves_before_what_the_workspace_asked_for(
    asked: tuple[float | None, ...], pause: float
) -> None:
    pacer = told(4)
    calls = [send(pacer, 0.0) for _ in asked]
    for call, retry_after in zip(calls, asked, strict=True):
        pacer.refused(call, 0.0, retry_after)
    assert pacer.pause(0.0) == pause
    assert pacer.pause(100.0) == 0
    first = max(pause, len(asked) * WINDOW / 4)
    assert pacer.wait(0, 0.0) == first
    assert spend(pacer, [0.0]) == [first]


def test_after_a_pause_calls_are_spaced_and_the_prediction_knows() -> None:
    pacer = told(4)
    refusal(pacer, 0.0, 7)
    departures = [7 + quarters * WINDOW / 4 for quarters in range(9)]
    assert [pacer.wait(ahead, 0.0) for ahead in range(9)] == departures
    assert spend(pacer, [0.0] * 9) == departures


def test_the_rate_climbs_from_the_end_of_a_pause_since_nothing_is_learnt_during_it() -> None:
    law = Told(LIMIT)
    refusal(Pacer(LIMIT, WINDOW, law), 1.0, retry_after=5.0)
    assert [moment for _, moment in law.heard] == [6.0]


def test_after_the_longest_pause_calls_are_spaced_too() -> None:
    pacer = told(4)
    refusal(pacer, 0.0, LONGEST_PAUSE)
    assert spend(pacer, [0.0] * 2) == [LONGEST_PAUSE, LONGEST_PAUSE + WINDOW / 4]


def test_a_held_call_in_the_way_is_looked_at_again() -> None:
    pacer = told(1)
    assert pacer.try_grant(0.0) is not None
    assert pacer.try_grant(5.0) is None
    assert pacer.next_moment(5.0) == 5.0 + WINDOW


def test_held_calls_do_not_stop_those_who_wait_for_the_rate_to_climb() -> None:
    pacer = Pacer(LIMIT, 1.0, Cubic(LIMIT, 1))
    now = 0.0
    for _ in range(20):
        grant, now = next_grant(pacer, now)
        pacer.sent(grant, now)
        pacer.refused(grant, now)
    now += 1.0
    for _ in range(3):
        _, now = next_grant(pacer, now)


def test_calls_that_were_given_up_leave_no_debt() -> None:
    pacer = told()
    for _ in range(100 * LIMIT):
        grant = pacer.try_grant(0.0)
        assert grant is not None
        pacer.give_up(grant)
    refusal(pacer, 0.0)
    assert pacer.wait(0, 0.0) <= WINDOW
    assert spend(pacer, [0.0])[0] <= WINDOW


def test_a_lull_after_a_refusal_does_not_make_the_prediction_too_hopeful() -> None:
    pacer = told()
    refusal(pacer, 0.0)
    predicted = [10.0 + pacer.wait(ahead, 10.0) for ahead in range(2 * LIMIT)]
    assert spend(pacer, [10.0] * 2 * LIMIT) == predicted


def test_says_what_it_knows() -> None:
    pacer = Pacer(LIMIT, WINDOW, Cubic(LIMIT, 1))
    assert (pacer.last_refusal, pacer.rate(0.0), pacer.outside(0.0)) == (None, LIMIT, 0)
    for _ in range(5):
        send(pacer, 0.0)
    refusal(pacer, 0.0)
    assert (pacer.limit, pacer.window, pacer.last_refusal, pacer.in_window(0.0)) == (LIMIT, WINDOW, 0.0, 6)
    assert pacer.rate(0.0) == pytest.approx(DECREASE * 5)
    assert pacer.outside(0.0) == LIMIT - 5
