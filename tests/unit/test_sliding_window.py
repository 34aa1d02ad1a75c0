"""The sliding window, with times in ticks so that the arithmetic is exact."""

from itertools import accumulate, pairwise

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from mlflow_proxy.budget.sliding_window import Grant, SlidingWindow
from tests.virtual_time import TICK, ticks

limits = st.integers(1, 6)
windows = ticks(64, 1100)


def most_within(moments: list[float], window: float) -> int:
    """Return the largest number of moments in any half-open interval of that length."""
    ordered = sorted(moments)
    return max((sum(start <= moment < start + window for moment in ordered) for start in ordered), default=0)


def spend(pacer: SlidingWindow, arrivals: list[float], limit: int | None = None) -> list[float]:
    """Send every call as soon as the pacer lets it under a lower limit, in order; return the departures."""
    now = 0.0
    departures = []
    for arrival in arrivals:
        now = max(now, arrival)
        while (grant := pacer.try_grant(now, limit)) is None:
            moment = pacer.next_place()
            assert moment is not None
            assert moment > now
            now = moment
        pacer.sent(grant, now)
        departures.append(now)
    return departures


arrival_times = st.lists(ticks(0, 400), max_size=60).map(lambda gaps: list(accumulate(gaps)))


@given(limits, windows, arrival_times)
def test_never_more_than_the_limit_leave_in_any_window(
    limit: int, window: float, arrivals: list[float]
) -> None:
    assert most_within(spend(SlidingWindow(limit, window), arrivals), window) <= limit


@given(limits, windows, arrival_times)
def test_no_call_waits_without_need(limit: int, window: float, arrivals: list[float]) -> None:
    departures = spend(SlidingWindow(limit, window), arrivals)
    for index, (arrival, departure) in enumerate(zip(arrivals, departures, strict=True)):
        earlier = departures[index - limit] + window if index >= limit else 0.0
        assert departure == max(arrival, earlier)


@given(
    limits,
    st.integers(0, 200),
    st.lists(st.tuples(ticks(0, 400), st.integers(0, 200)), max_size=60),
)
def test_jitter_up_to_the_margin_never_brings_more_than_the_limit_into_a_second(
    limit: int, margin: int, calls: list[tuple[float, int]]
) -> None:
    departures = spend(SlidingWindow(limit, 1.0 + margin * TICK), list(accumulate(gap for gap, _ in calls)))
    arrivals = [
        departure + min(delay, margin) * TICK for departure, (_, delay) in zip(departures, calls, strict=True)
    ]
    assert most_within(arrivals, 1.0) <= limit


@given(st.integers(1, 60), windows, st.integers(1, 5))
def test_an_idle_window_is_spent_at_once_and_sustained_use_is_limit_per_window(
    limit: int, window: float, rounds: int
) -> None:
    departures = spend(SlidingWindow(limit, window), [0.0] * (limit * rounds))
    assert departures == [window * (index // limit) for index in range(limit * rounds)]


def test_the_margin_in_use_costs_less_than_5_percent() -> None:
    departures = spend(SlidingWindow(40, 1.03), [0.0] * 400)
    rate = len(departures) / (departures[-1] + 1.03)
    assert 0.95 * 40 <= rate <= 40


@given(limits, windows, arrival_times, st.integers(0, 30))
def test_the_predicted_wait_is_exact_when_everything_is_sent_at_once(
    limit: int, window: float, arrivals: list[float], ahead: int
) -> None:
    pacer = SlidingWindow(limit, window)
    now = max(spend(pacer, arrivals), default=0.0)
    predicted = now + pacer.wait(ahead, now)
    assert spend(pacer, [now] * (ahead + 1))[-1] == predicted


@given(limits, windows, arrival_times, st.integers(1, 12), st.integers(0, 20))
def test_the_predicted_wait_is_exact_after_calls_were_sent_again(
    limit: int, window: float, arrivals: list[float], again: int, ahead: int
) -> None:
    pacer = SlidingWindow(limit, window)
    now = max(spend(pacer, [*arrivals, 0.0]), default=0.0)
    for _ in range(again):
        pacer.sent(Grant(held=False), now)
    predicted = now + pacer.wait(ahead, now)
    assert spend(pacer, [now] * (ahead + 1))[-1] == predicted


@given(limits, windows, arrival_times, st.integers(1, 8))
def test_a_lower_limit_holds_as_long_as_it_is_given_and_a_higher_one_never(
    limit: int, window: float, arrivals: list[float], given: int
) -> None:
    pacer = SlidingWindow(limit, window)
    departures = spend(pacer, [*arrivals, 0.0], given)
    assert departures == spend(SlidingWindow(min(limit, given), window), [*arrivals, 0.0])
    free = limit - pacer.in_window(departures[-1])
    assert spend(pacer, departures[-1:] * free) == departures[-1:] * free


@given(limits, windows, arrival_times, st.integers(1, 8), st.integers(0, 6), st.integers(0, 20))
def test_the_predicted_wait_is_exact_under_a_lower_limit_that_lasts(
    limit: int, window: float, arrivals: list[float], lower: int, held: int, ahead: int
) -> None:
    pacer = SlidingWindow(limit, window)
    now = max(spend(pacer, arrivals), default=0.0)
    grants = [grant for _ in range(held) if (grant := pacer.try_grant(now)) is not None]
    predicted = now + pacer.wait(ahead, now, lower)
    for grant in grants:
        pacer.sent(grant, now)
    assert spend(pacer, [now] * (ahead + 1), lower)[-1] == predicted


@given(limits, windows, st.integers(1, 12))
def test_a_call_that_is_sent_again_spends_again(limit: int, window: float, again: int) -> None:
    pacer = SlidingWindow(limit, window)
    grant = pacer.try_grant(0.0)
    assert grant is not None
    for _ in range(1 + again):
        pacer.sent(grant, 0.0)
    assert pacer.in_window(0.0) == 1 + again
    pacer.give_up(grant)
    assert pacer.in_window(0.0) == 1 + again
    assert pacer.in_window(window - TICK) == 1 + again
    assert pacer.in_window(window) == 0


def test_a_held_call_counts_however_long_its_connection_takes() -> None:
    pacer = SlidingWindow(1, 1.0)
    grant = pacer.try_grant(0.0)
    assert grant is not None
    assert pacer.try_grant(100.0) is None
    assert pacer.next_place() is None
    pacer.sent(grant, 100.0)
    assert pacer.next_place() == 101.0
    assert pacer.try_grant(101.0 - TICK) is None
    assert pacer.try_grant(101.0) is not None


class PacerMachine(RuleBasedStateMachine):
    """Any interleaving of grants, late departures, repetitions and give-ups."""

    grants = Bundle("grants")

    def __init__(self) -> None:
        super().__init__()
        self.limit, self.window = 3, 256 * TICK
        self.pacer = SlidingWindow(self.limit, self.window)
        self.now = 0.0
        self.held = 0
        self.first: list[float] = []
        self.departures: list[float] = []

    @rule(gap=ticks(0, 300))
    def time_passes(self, gap: float) -> None:
        self.now += gap

    @rule(target=grants)
    def ask(self) -> Grant:
        full = self.counted() >= self.limit
        grant = self.pacer.try_grant(self.now)
        assert (grant is None) == full
        if grant is None:
            return Grant(held=False)
        self.held += 1
        return grant

    @rule(grant=consumes(grants), gap=ticks(0, 300))
    def send_later(self, grant: Grant, gap: float) -> None:
        if grant.held:
            self.now += gap
            self.pacer.sent(grant, self.now)
            self.pacer.give_up(grant)  # leaving the context after sending changes nothing
            self.held -= 1
            self.first.append(self.now)
            self.departures.append(self.now)

    @rule(grant=grants)
    def send_and_send_again(self, grant: Grant) -> None:
        if grant.held:
            self.held -= 1
            self.first.append(self.now)
            self.departures.append(self.now)
            self.pacer.sent(grant, self.now)
            self.departures.append(self.now)
            self.pacer.sent(grant, self.now)

    @rule(grant=consumes(grants))
    def give_up(self, grant: Grant) -> None:
        if grant.held:
            self.held -= 1
        self.pacer.give_up(grant)
        self.pacer.give_up(grant)

    def counted(self) -> int:
        return self.held + sum(moment + self.window > self.now for moment in self.departures)

    @invariant()
    def counts_what_is_held_and_what_left(self) -> None:
        assert self.pacer.in_window(self.now) == self.counted()

    @invariant()
    def first_departures_stay_within_the_limit(self) -> None:
        assert most_within(self.first[-20:], self.window) <= self.limit

    @invariant()
    def prediction_is_never_negative_nor_decreasing(self) -> None:
        waits = [self.pacer.wait(ahead, self.now) for ahead in range(8)]
        assert waits[0] >= 0
        assert all(earlier <= later for earlier, later in pairwise(waits))


TestPacerMachine = PacerMachine.TestCase
