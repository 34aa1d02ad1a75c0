"""The line in front of a budget: first in, first out, each with a deadline, and free to leave.

One queue per budget group and workspace, across every credential and endpoint.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from proxy.budget.pacer import Grant, SlidingWindow
from proxy.errors import OverBudgetError

Deadline = Callable[[], float]
"""The event loop's time at which a call stops being wanted. It may move while the call waits, since
others can join the wait."""


class Slot:
    """A place in the budget, held by one call while it is on its way out (a context manager)."""

    def __init__(self, queue: "Queue", grant: Grant) -> None:
        self._queue = queue
        self._grant = grant

    def sent(self) -> None:
        """Note that the call's header left this machine: its second at the workspace begins."""
        self._queue.sent(self._grant)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._queue.give_up(self._grant)


class Queue:
    """Grants places of one budget group in order of arrival.

    ``observe_wait`` is told how many seconds each granted call had to wait.
    """

    def __init__(self, window: SlidingWindow, observe_wait: Callable[[float], None]) -> None:
        self._window = window
        self._observe_wait = observe_wait
        self._waiting: deque[asyncio.Future[Grant]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    async def acquire(self, deadline: Deadline, *, front: bool = False) -> Slot:
        """Wait for a place.

        ``front`` puts a call first that had its place already and was refused by the workspace.
        Raises OverBudgetError at once when the predicted wait ends after the deadline, and later if the
        prediction proved too hopeful. Cancelling the wait leaves the queue.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        wait = self._window.wait(0 if front else len(self._waiting), began)
        if began + wait > deadline():
            raise self._over_budget(wait)
        place: asyncio.Future[Grant] = loop.create_future()
        (self._waiting.appendleft if front else self._waiting.append)(place)
        self._serve()
        try:
            while not place.done():
                left = deadline() - loop.time()
                if left <= 0:
                    raise self._over_budget(self._window.wait(self._waiting.index(place), loop.time()))
                await asyncio.wait((place,), timeout=left)
        except BaseException:
            self._leave(place)
            raise
        self._observe_wait(loop.time() - began)
        return Slot(self, place.result())

    def sent(self, grant: Grant) -> None:
        """See SlidingWindow.sent."""
        self._window.sent(grant, asyncio.get_running_loop().time())
        self._serve()

    def give_up(self, grant: Grant) -> None:
        """See SlidingWindow.give_up; whoever is next in line moves up."""
        self._window.give_up(grant)
        self._serve()

    def _leave(self, place: "asyncio.Future[Grant]") -> None:
        if place.done():
            self.give_up(place.result())
        else:
            self._waiting.remove(place)

    def _serve(self) -> None:
        """Grant all that the window has room for, and come back when it next has."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        while self._waiting and (grant := self._window.try_grant(loop.time())) is not None:
            self._waiting.popleft().set_result(grant)
        if self._waiting and (moment := self._window.next_place()) is not None:
            self._timer = loop.call_at(moment, self._serve)

    def _over_budget(self, wait: float) -> OverBudgetError:
        return OverBudgetError(
            f"The workspace's request budget is spent: {len(self._waiting)} calls are waiting, "
            f"and this one could not leave for {wait:.1f} s.",
            retry_after=wait,
        )
