"""A proxy's queue, the network, a workspace that counts, and others who call it too, in virtual time.

What belongs here: the world around the real pacer and queue. A run is a function of its scenario: the same
seed gives the same arrivals to the last bit.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import quantiles

from mlflow_proxy.budget.congestion import Congestion, Cubic
from mlflow_proxy.budget.fair_queue import Priority
from mlflow_proxy.budget.interface import Limits
from mlflow_proxy.budget.pacer import Pacer
from mlflow_proxy.budget.queue import Queue
from mlflow_proxy.demo.journal import most_within
from mlflow_proxy.demo.limiters import Limiter, SlidingWindow
from mlflow_proxy.errors import OverBudgetError
from tests.virtual_time import run

LIMIT = 40
MARGIN = 0.04

Steps = Sequence[tuple[float, float]]
"""Calls a second of others, each from a moment (seconds) on."""


@dataclass(frozen=True)
class Scenario:
    """What the proxy meets; times in seconds.

    `travel` is the shortest way to the workspace and back, `jitter` what each way may take longer; `outside`
    are the others' calls, evenly spaced or (`poisson`) at random; `clients` maps each client to the number of
    calls it always has waiting, and `refused` those that the workspace refuses whatever the others do, asking
    for so many seconds.
    """

    seconds: float
    limiter: Callable[[], Limiter] = lambda: SlidingWindow(LIMIT)
    limit: int = LIMIT
    floor: float = 1.0
    travel: float = 0.015
    jitter: float = 0.025
    outside: Steps = ()
    poisson: bool = False
    retry_after: bool = False
    clients: Mapping[str, int] = field(default_factory=lambda: {"one": 100})
    refused: Mapping[str, float] = field(default_factory=dict)
    patience: float = 40.0
    limits: Limits = field(default_factory=Limits)
    congestion: Callable[[float, float], Congestion] = Cubic
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A call at the workspace; `client` is None for the others'."""

    time: float
    client: str | None
    admitted: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """A call of ours from its wish to its answer; `retry_after` if it was sent away."""

    began: float
    ended: float
    client: str
    retry_after: int | None = None


@dataclass
class Record:
    """Everything that happened."""

    scenario: Scenario
    arrivals: list[Arrival] = field(default_factory=list)
    calls: list[Ended] = field(default_factory=list)
    most_waiting: int = 0

    def between(self, start: float, end: float, ours: bool = True) -> list[Arrival]:
        """Return the arrivals from `start` until before `end`."""
        return [
            each for each in self.arrivals if start <= each.time < end and (each.client is not None) == ours
        ]

    def refused(self, start: float = 0.0, end: float = float("inf"), ours: bool = True) -> float:
        """Return the share of calls that the workspace refused."""
        arrivals = self.between(start, end, ours)
        return sum(not each.admitted for each in arrivals) / max(1, len(arrivals))

    def utilisation(self, start: float, end: float) -> float:
        """Return how much of what others leave of the limit was used."""
        left = sum(
            max(0.0, min(end, until) - max(start, since)) * (self.scenario.limit - qps)
            for since, until, qps in _spans(self.scenario.outside, end)
        )
        return sum(each.admitted for each in self.between(start, end)) / left

    def busiest_second(self) -> int:
        """Return the most calls of ours that arrived within any second."""
        return most_within(each.time for each in self.arrivals if each.client is not None)

    def waits(self) -> list[float]:
        """Return 50th, 90th and 99th percentile of the time from wish to answer."""
        cuts = quantiles([call.ended - call.began for call in self.calls], n=100)
        return [cuts[49], cuts[89], cuts[98]]


class World:
    """One run; its methods are for scenarios with clients of their own."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.random = random.Random(scenario.seed)
        self.record = Record(scenario)
        self._limiter = scenario.limiter()
        pacer = Pacer(scenario.limit, 1.0 + MARGIN, scenario.congestion(scenario.limit, scenario.floor))
        self.pacer = pacer
        self.queue = Queue(lambda line: pacer, lambda wait: None, self.random.random, scenario.limits)

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return asyncio.get_running_loop().time()

    async def call(self, client: str, priority: Priority = Priority.INTERACTIVE) -> Ended:
        """Make one call of the proxy's, as its pipeline does: again after a 429, until patience ends."""
        began = self.now
        deadline = began + self.scenario.patience
        retry_after = None
        returned = False
        while True:
            self.record.most_waiting = max(self.record.most_waiting, len(self.queue) + 1)
            try:
                slot = await self.queue.acquire(
                    lambda: deadline, client=client, priority=priority, returned=returned
                )
            except OverBudgetError as error:
                retry_after = error.retry_after
                break
            with slot:
                slot.sent()
                await self._travel()
                wait = self._arrive(client)
                await self._travel()
                if wait is None:
                    slot.answered()
                    break
                slot.refused(max(1, round(wait)) if self.scenario.retry_after else None)
                returned = True
        ended = Ended(began, self.now, client, retry_after)
        self.record.calls.append(ended)
        return ended

    async def others(self) -> None:
        """Make the others' calls, who do not look at the answers."""
        async with asyncio.TaskGroup() as group:
            for since, until, qps in _spans(self.scenario.outside, self.scenario.seconds):
                await asyncio.sleep(max(0.0, since - self.now))
                moment = since
                while qps > 0 and moment < until:
                    await asyncio.sleep(moment - self.now)
                    group.create_task(self._other())
                    moment += self.random.expovariate(qps) if self.scenario.poisson else 1 / qps

    async def saturate(self) -> None:
        """Keep as many calls of each client waiting as the scenario says."""

        async def again(client: str) -> None:
            while True:
                ended = await self.call(client)
                if ended.retry_after is not None:
                    await asyncio.sleep(ended.retry_after)

        async with asyncio.TaskGroup() as group:
            for client, parallel in self.scenario.clients.items():
                for _ in range(parallel):
                    group.create_task(again(client))

    async def _other(self) -> None:
        await self._travel()
        self._arrive(None)

    def _arrive(self, client: str | None) -> float | None:
        refused = self.scenario.refused.get(client or "")
        wait = self._limiter.admit(self.now) if refused is None else refused
        self.record.arrivals.append(Arrival(self.now, client, wait is None))
        return wait

    async def _travel(self) -> None:
        await asyncio.sleep(self.scenario.travel + self.random.random() * self.scenario.jitter)


Play = Callable[[World], Awaitable[object]]


def simulate(scenario: Scenario, play: Play = World.saturate) -> Record:
    """Run `play` beside the others for as long as the scenario lasts, or until it ends by itself."""

    async def main() -> Record:
        world = World(scenario)
        others = asyncio.create_task(world.others())
        with suppress(TimeoutError):
            async with asyncio.timeout(scenario.seconds):
                await play(world)
        others.cancel()
        with suppress(asyncio.CancelledError):
            await others
        return world.record

    return run(main())


def fairness(shares: Sequence[float]) -> float:
    """Return Jain's index of fairness: 1 when all are equal, 1/n when one has everything."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def _spans(steps: Steps, end: float) -> list[tuple[float, float, float]]:
    """Return (since, until, qps) for each step, the time before the first one included."""
    steps = [(0.0, 0.0), *steps]
    until = [since for since, _ in steps[1:]] + [end]
    return [(since, stop, qps) for (since, qps), stop in zip(steps, until, strict=True) if stop > since]
