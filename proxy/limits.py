"""How many requests there may be at once, and how long they go on once the proxy is told to stop.

What belongs here: requests of clients as such, whatever they ask, and the files they take. Connections are
bounded by their listener, waiting calls by their queues, stored answers by the store.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog

from proxy.errors import OverloadedError, StoppingError

if sys.platform != "win32":
    import resource

log = structlog.get_logger(__name__)

_OWN_DESCRIPTORS = 128
"""What a process needs beside its connections: logs, sockets that listen, Redis, questions about health."""


class InFlight:
    """The requests that are being answered, ``most`` at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._scopes: set[asyncio.Timeout] = set()
        self._ends_at: float | None = None

    def __len__(self) -> int:
        return len(self._scopes)

    @property
    def stopping(self) -> bool:
        """Whether it has been told to stop."""
        return self._ends_at is not None

    def stop(self, grace: float) -> None:
        """Let nothing take longer than ``grace`` seconds from now."""
        if self._ends_at is None:
            self._ends_at = asyncio.get_running_loop().time() + grace
            for scope in self._scopes:
                scope.reschedule(self._ends_at)

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Be one of them. Raises OverloadedError if there are too many, StoppingError when time is up."""
        if len(self._scopes) >= self._most:
            raise OverloadedError(f"{self._most} requests are being answered (connections.max_requests).")
        scope = asyncio.timeout_at(self._ends_at)
        try:
            async with scope:
                self._scopes.add(scope)
                try:
                    yield
                finally:
                    self._scopes.discard(scope)
        except TimeoutError:
            if not scope.expired():
                raise
            raise StoppingError("The proxy is stopping; ask again.") from None


def allow_descriptors(clients: int, upstream: int) -> None:
    """Raise this process's limit of open files to what so many connections take, as far as allowed."""
    if sys.platform == "win32":
        return  # has no such limit
    needed = clients + upstream + _OWN_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= needed:
        return
    granted = needed if hard == unlimited else min(needed, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (granted, hard))
        soft = granted
    if soft < needed:
        log.warning(
            "fewer open files are allowed than connections.max_clients needs (ulimit -n)",
            allowed=soft,
            needed=needed,
        )
