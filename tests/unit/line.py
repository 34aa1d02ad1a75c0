"""A queue in front of a budget under observation, in virtual time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from mlflow_proxy.budget.congestion import Cubic
from mlflow_proxy.budget.fair_queue import Priority
from mlflow_proxy.budget.interface import Limits
from mlflow_proxy.budget.pacer import Pacer
from mlflow_proxy.budget.queue import Queue
from mlflow_proxy.party import Party
from tests.virtual_time import TICK, now

LIMIT, WINDOW = 3, 256 * TICK


def pacer(limit: int, window: float) -> Pacer:
    return Pacer(limit, window, Cubic(limit, 1))


@dataclass
class Line:
    """A queue under observation."""

    pacer: Pacer = field(default_factory=lambda: pacer(LIMIT, WINDOW))
    limits: Limits = field(default_factory=Limits)
    jitter: Callable[[], float] = lambda: 0.0
    waits: list[float] = field(default_factory=list)
    departures: list[float] = field(default_factory=list)
    order: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.queue = Queue(lambda line: self.pacer, self.waits.append, self.jitter, self.limits)

    async def call(
        self,
        name: object = None,
        *,
        deadline: float = 1e6,
        connect: float = 0.0,
        client: str = "",
        party: Party | None = None,
        priority: Priority = Priority.INTERACTIVE,
        returned: bool = False,
    ) -> None:
        """Take a place, open a connection for a while, send."""
        with await self.queue.acquire(
            lambda: deadline, client=client, party=party, priority=priority, returned=returned
        ) as slot:
            self.order.append(name)
            await asyncio.sleep(connect)
            slot.sent()
            self.departures.append(now())

    async def refused_call(self, retry_after: float | None = None) -> None:
        """Take a place, send, and hear from the workspace that it was one too many."""
        with await self.queue.acquire(lambda: 1e6) as slot:
            slot.sent()
            slot.refused(retry_after)

    async def repeated(
        self,
        name: str,
        client: str,
        *,
        deadline: float = 1e6,
        takes: float = 0.0,
        refuses: Callable[[], bool] = lambda: False,
        retry_after: float | None = None,
    ) -> None:
        """Call until the workspace answers, each time in a place of its own."""
        returned = False
        while True:
            with await self.queue.acquire(lambda: deadline, client=client, returned=returned) as slot:
                slot.sent()
                self.order.append(name)
                self.departures.append(now())
                await asyncio.sleep(takes)
                if not refuses():
                    slot.answered()
                    return
                slot.refused(retry_after)
            returned = True

    def idle(self) -> bool:
        return len(self.queue) == 0 and self.pacer.in_window(now() + WINDOW) == 0


@asynccontextmanager
async def waiting(calls: Iterable[Coroutine[Any, Any, None]]) -> AsyncIterator[list["asyncio.Task[None]"]]:
    """Have calls waiting, in this order, that leave in the end if they did not have their turn."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    for _ in range(5):  # until those whom the budget has room for have left
        await asyncio.sleep(0)
    yield tasks
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
