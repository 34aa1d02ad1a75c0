"""The limit of concurrent requests, and their deadline once the proxy stops.

What belongs here: requests of clients as such, whatever they ask. Connections are bounded by their listener,
waiting calls by their queues, stored answers by the store.
"""

import asyncio
from typing import Any

from mlflow_proxy.errors import OverloadedError, StoppingError


class InFlight:
    """The requests that are being answered, ``most`` at a time, each in a task of its own."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._tasks: set[asyncio.Task[Any]] = set()
        self._overdue: set[asyncio.Task[Any]] = set()
        """Those cancelled because time is up."""
        self._ends_at: float | None = None
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        return len(self._tasks)

    def full(self) -> bool:
        """Whether there are as many as may be."""
        return len(self._tasks) >= self._most

    @property
    def stopping(self) -> bool:
        """Whether the proxy is stopping."""
        return self._ends_at is not None

    def stop(self, grace: float) -> None:
        """Let nothing take longer than ``grace`` seconds from now."""
        if self._ends_at is None:
            self._ends_at = self._loop.time() + grace
            self._loop.call_at(self._ends_at, self._end)

    def admitted(self) -> "_Admitted":
        """Let the current task be one of them, for as long as the context lasts that is returned.

        Raises OverloadedError if there are too many, StoppingError when time is up. Leaving the context
        raises StoppingError if time was up meanwhile.
        """
        if self.full():
            raise OverloadedError(f"{self._most} requests are being answered (connections.max_requests).")
        if self._ends_at is not None and self._loop.time() >= self._ends_at:
            raise _stopping()
        task = asyncio.current_task(self._loop)
        assert task is not None  # noqa: S101 - the server answers each request in a task of its own
        return _Admitted(task, self._tasks, self._overdue)

    def _end(self) -> None:
        for task in self._tasks:
            self._overdue.add(task)
            task.cancel()


def _stopping() -> StoppingError:
    return StoppingError("The proxy is stopping; ask again.")


class _Admitted:
    """The context of one request: what ``asyncio.timeout`` does, in a third of the time (measured)."""

    __slots__ = ("_cancelling", "_overdue", "_task", "_tasks")

    def __init__(
        self, task: asyncio.Task[Any], tasks: set[asyncio.Task[Any]], overdue: set[asyncio.Task[Any]]
    ) -> None:
        self._task = task
        self._cancelling = task.cancelling()
        self._tasks = tasks
        self._overdue = overdue

    def __enter__(self) -> None:
        self._tasks.add(self._task)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._tasks.discard(self._task)
        if self._task not in self._overdue:
            return
        self._overdue.discard(self._task)
        # The client may have gone as well: then it is cancelled all the same.
        if self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise _stopping() from None
