"""Taking connections from a socket that listens, as many as there is room for.

asyncio's own server goes on where the system refuses it a descriptor: on CPython 3.11 it tries, and logs a
traceback, as many times in a row as its backlog is long, every second. Nor does it say how many TLS
handshakes are under way. Both matter when descriptors run out, and there is no seam in it for either.
"""

import asyncio
import socket
import ssl
import time

import structlog
from aiohttp import web

from mlflow_proxy.descriptors import is_exhaustion
from mlflow_proxy.listener.runner import BoundedRunner

log = structlog.get_logger(__name__)

_PAUSE = 1.0
"""Seconds until the system is asked again that had no descriptor left."""
_SILENCE = 60.0
"""Seconds between two lines of the log that say so."""
_AT_ONCE = 16
"""Connections taken in one turn of the event loop; others that are ready have theirs in between."""


class Complaints:
    """Counts what would be said too often. ``now`` is monotonic seconds."""

    def __init__(self) -> None:
        self._unsaid = 0
        self._silent_until = float("-inf")

    def note(self, now: float) -> int | None:
        """Count one more; returns the number to log now, None while logging is paused."""
        self._unsaid += 1
        if now < self._silent_until:
            return None
        count, self._unsaid = self._unsaid, 0
        self._silent_until = now + _SILENCE
        return count


class Site(web.BaseSite):
    """Serves a runner's clients from one socket, by TLS if there is a ``context``.

    A site that is ``alone`` accepts several connections at once; others leave simultaneous connections to the
    workers that accept from the same socket.
    """

    def __init__(
        self,
        runner: BoundedRunner,
        listening: socket.socket,
        context: ssl.SSLContext | None = None,
        *,
        alone: bool,
    ) -> None:
        super().__init__(runner, ssl_context=context)
        self._bounded = runner
        self._context = context
        self._listening = listening
        self._most = _AT_ONCE if alone else 1
        self._resuming: asyncio.TimerHandle | None = None
        self._complaints = Complaints()

    @property
    def name(self) -> str:
        """Its URL."""
        return url(self._listening, self._context)

    async def start(self) -> None:
        """Begin to take connections."""
        await super().start()
        self._listening.setblocking(False)
        try:
            self._resume()
        except NotImplementedError:  # Windows' loop does not tell which socket is ready
            loop, server = asyncio.get_running_loop(), self._bounded.server
            assert server is not None  # noqa: S101 - super has looked
            self._server = await loop.create_server(server, sock=self._listening, ssl=self._context)

    async def stop(self) -> None:
        """Take no more, and listen no more."""
        await super().stop()
        if self._resuming is not None:
            self._resuming.cancel()
        if self._server is None:
            asyncio.get_running_loop().remove_reader(self._listening)
        self._listening.close()

    def _resume(self) -> None:
        self._resuming = None
        asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        for _ in range(self._most):
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # What waits keeps the socket ready, so that it must not be looked at for a while.
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._listening)
                self._resuming = loop.call_later(_PAUSE, self._resume)
                self._complain(error)
                return
            self._bounded.take(connection, self._context)

    def _complain(self, error: OSError) -> None:
        times = self._complaints.note(time.monotonic())
        if times is not None:
            log.warning(
                "clients' connections have to wait: none can be accepted at the moment",
                reason=error.strerror,
                url=self.name,
                times=times,
                remedy="raise the limit of open files (ulimit -n)" if is_exhaustion(error) else "",
            )


def url(listening: socket.socket, context: ssl.SSLContext | None) -> str:
    """Return the URL that a socket listens for, with the address that it is bound to."""
    host, port, *_ = listening.getsockname()
    scheme = "http" if context is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
