"""The limit of concurrent requests, and their deadline once the proxy stops.

What belongs here: requests of clients as such, whatever they ask. Connections are bounded by their listener,
waiting calls by their queues, stored answers by the store.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
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
            loop = asyncio.get_running_loop()
            self._ends_at = loop.time() + grace
            loop.call_at(self._ends_at, self._end)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Be one of them, in the current task.

        Raises OverloadedError if there are too many, StoppingError when time is up.
        """
        if self.full():
            raise OverloadedError(f"{self._most} requests are being answered (connections.max_requests).")
        if self._ends_at is not None and asyncio.get_running_loop().time() >= self._ends_at:
            raise _stopping()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - requests are answered in tasks
        cancelling = task.cancelling()
        self._tasks.add(task)
        try:
            yield
        except asyncio.CancelledError:
            # As asyncio.timeout does it, which is too slow for a cache hit: the client may have gone as well.
            if task in self._overdue and task.uncancel() <= cancelling:
                raise _stopping() from None
            raise
        finally:
            self._tasks.discard(task)
            self._overdue.discard(task)

    def _end(self) -> None:
        for task in self._tasks:
            self._overdue.add(task)
            task.cancel()


def _stopping() -> StoppingError:
    return StoppingError("The proxy is stopping; ask again.")
