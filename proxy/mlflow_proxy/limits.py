"""The limit of concurrent requests, and their deadline once the proxy stops.

What belongs here: requests of clients as such, whatever they ask. Connections are bounded by their listener,
waiting calls by their queues, stored answers by the store.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mlflow_proxy.errors import OverloadedError, StoppingError


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
        """Whether the proxy is stopping."""
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
