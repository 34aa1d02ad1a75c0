"""What the budget promises, over minutes of virtual time against each kind of limiter.

The figures are promises about deterministic runs; how fast this machine is has no part in them.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_proxy.budget.interface import Limits
from mlflow_proxy.budget.singled_out import SingledOut
from mlflow_proxy.demo.limiters import BatchReported, FixedWindow, Limiter, SlidingWindow, TokenBucket
from tests.simulation.world import LIMIT, Record, Scenario, World, fairness, simulate

LIMITERS: dict[str, Callable[[], Limiter]] = {
    "sliding": lambda: SlidingWindow(LIMIT),
    "fixed": lambda: FixedWindow(LIMIT),
    "token-bucket": lambda: TokenBucket(LIMIT, LIMIT),
    "batch-reported": lambda: BatchReported(LIMIT, LIMIT),
}
each_limiter = pytest.mark.parametrize("limiter", LIMITERS.values(), ids=LIMITERS)


@each_limiter
def test_alone_it_is_never_refused_and_uses_nearly_all(limiter: Callable[[], Limiter]) -> None:
    record = simulate(Scenario(600, limiter))
    assert record.refused() == 0
    assert record.busiest_second() <= LIMIT
    assert record.utilisation(0, 600) >= 0.95


def test_a_smaller_bucket_than_the_first_burst_is_learnt_once() -> None:
    record = simulate(Scenario(600, lambda: TokenBucket(LIMIT, LIMIT // 2)))
    assert record.refused(0, 1) > 0
    assert record.refused(1, 600) == 0
    assert record.utilisation(0, 600) >= 0.95


@each_limiter
def test_it_makes_room_for_others_and_takes_it_back(limiter: Callable[[], Limiter]) -> None:
    steps = ((60, 10), (120, 30), (180, 5))
    records = [simulate(Scenario(240, limiter, outside=steps, seed=seed)) for seed in range(4)]
    assert all(record.refused() < 0.03 for record in records)
    for since, _ in ((0, 0), *steps):
        used = [record.utilisation(since + 10, since + 60) for record in records]
        assert mean(used) >= 0.9, f"10 s after the step at {since} s"
    for since, _ in steps:
        lost = [record.refused(since, since + 60, ours=False) for record in records]
        assert mean(lost) < 0.06, "the others lose next to nothing"


@settings(max_examples=20, deadline=None)
@given(
    limiter=st.sampled_from(list(LIMITERS.values())),
    outside=st.lists(st.tuples(st.integers(0, 15), st.integers(0, 60)), max_size=3, unique_by=lambda s: s[0]),
    travel=st.floats(0, 0.3),
    retry_after=st.booleans(),
    parallel=st.integers(1, 200),
    seed=st.integers(0, 9),
)
def test_whatever_others_do_the_limit_holds_and_every_call_is_answered(
    limiter: Callable[[], Limiter],
    outside: list[tuple[int, int]],
    travel: float,
    retry_after: bool,
    parallel: int,
    seed: int,
) -> None:
    scenario = Scenario(
        20,
        limiter,
        travel=travel,
        outside=sorted(outside),
        poisson=True,
        retry_after=retry_after,
        clients={"one": parallel},
        patience=10,
        seed=seed,
    )
    record = simulate(scenario)
    assert record.busiest_second() <= LIMIT
    slack = 2 * (scenario.travel + scenario.jitter)
    assert all(call.ended - call.began <= scenario.patience + slack + 1e-6 for call in record.calls)


TWENTY = {f"client-{number}": 5 for number in range(20)}


class Never(SingledOut):
    """Holds every refusal for the group's."""

    def refused(
        self, client: Hashable, sent_at: float, now: float, retry_after: float | None, *, others_wait: bool
    ) -> bool:
        return False


@each_limiter
@pytest.mark.parametrize("retry_after", [False, True])
def test_refusals_that_hit_clients_at_random_are_the_groups(
    limiter: Callable[[], Limiter], retry_after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenarios = [
        Scenario(
            60,
            limiter,
            outside=((10, 10), (25, 30), (45, 5)),
            poisson=seed > 0,
            retry_after=retry_after,
            clients=TWENTY,
            seed=seed,
        )
        for seed in range(3)
    ]
    records = [simulate(scenario) for scenario in scenarios]
    monkeypatch.setattr("mlflow_proxy.budget.queue.SingledOut", Never)
    expected = [simulate(scenario) for scenario in scenarios]

    def used(records: list[Record]) -> float:
        return mean(record.utilisation(0, 60) for record in records)

    def refused(records: list[Record]) -> float:
        return mean(record.refused() for record in records)

    assert used(records) >= used(expected) - 0.02
    assert refused(records) <= refused(expected) + 0.005
    assert all(call.retry_after is None for record in records for call in record.calls)


@each_limiter
@pytest.mark.parametrize("asked", [1.0, 20.0])
@pytest.mark.parametrize("retry_after", [False, True])
def test_a_client_that_is_always_refused_costs_the_others_next_to_nothing(
    limiter: Callable[[], Limiter], asked: float, retry_after: bool
) -> None:
    record = simulate(
        Scenario(120, limiter, clients=TWENTY, refused={"client-0": asked}, retry_after=retry_after)
    )
    good = [call for call in record.calls if call.client != "client-0"]
    assert all(call.retry_after is None for call in good)
    assert record.busiest_second() <= LIMIT
    # Its first refusal is everyone's: it costs them one pause and some of the rate.
    assert record.utilisation(30, 120) >= 0.9
    assert sum(each.client == "client-0" for each in record.between(30, 120)) <= 10


def test_a_crowd_does_not_wait_for_the_one_with_thousands() -> None:
    scenario = Scenario(1e6, patience=1e6, limits=Limits(per_client=5_000))
    small = [f"small-{number}" for number in range(20)]
    finished: dict[str, float] = {}

    async def download(world: World, client: str) -> None:
        await asyncio.gather(*(world.call(client) for _ in range(10)))
        finished[client] = world.now

    async def play(world: World) -> None:
        large = asyncio.gather(*(world.call("large") for _ in range(5_000)))
        await asyncio.sleep(2)
        began = world.now
        await asyncio.gather(*(download(world, client) for client in small))
        ideal = (len(small) + 1) * 10 / (LIMIT / (1 + 0.04))
        assert max(finished.values()) - began <= 1.3 * ideal
        shares = Counter(each.client for each in world.record.between(began + 0.5, min(finished.values())))
        assert len(shares) == 21
        assert fairness(list(shares.values())) >= 0.95
        large.cancel()
        await asyncio.gather(large, return_exceptions=True)

    simulate(scenario, play)


def test_ten_times_too_much_is_answered_in_time_and_truthfully() -> None:
    scenario = Scenario(120, clients={f"client-{number}": 0 for number in range(50)})

    async def play(world: World) -> None:
        async with asyncio.TaskGroup() as calls:
            while world.now < 90:
                await asyncio.sleep(world.random.expovariate(10 * LIMIT))
                calls.create_task(world.call(world.random.choice(list(scenario.clients))))

    record = simulate(scenario, play)
    slack = 4 * (scenario.travel + scenario.jitter)
    assert all(call.ended - call.began <= scenario.patience + slack for call in record.calls)
    assert record.most_waiting <= 1.1 * scenario.patience * LIMIT
    shed = [call for call in record.calls if call.retry_after is not None]
    assert len(shed) > 0.8 * len(record.calls)
    for client in scenario.clients:
        queued = sorted((c.began, c.ended) for c in record.calls if c.client == client and c.ended > c.began)
        for call in (c for c in shed if c.client == client and c.ended < 60):
            # Its turn would have come once those of its client that waited before it were gone.
            turn = max((ended for began, ended in queued if began < call.ended < ended), default=call.ended)
            assert call.retry_after is not None
            assert 0.75 <= call.retry_after / (turn - call.ended) <= 1.25
