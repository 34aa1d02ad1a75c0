"""The HTTP client: sends requests, and maps aiohttp's exceptions to the proxy's."""

import asyncio
import math
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from mlflow_proxy.bodies import pieces
from mlflow_proxy.descriptors import is_exhaustion
from mlflow_proxy.errors import (
    BadGatewayError,
    ConnectionEndedError,
    GatewayTimeoutError,
    OverloadedError,
    TooLargeToShareError,
    TruncatedError,
)
from mlflow_proxy.mlflow_api.headers import end_to_end
from mlflow_proxy.upstream.attempt import Attempt, Sent, tracing
from mlflow_proxy.upstream.connector import Connector, RefusedAddressError, wanting
from mlflow_proxy.upstream.destination import Destinations
from mlflow_proxy.upstream.failures import Peer, no_connection, no_descriptor, ran_out
from mlflow_proxy.upstream.forward_proxy import ForwardProxies
from mlflow_proxy.upstream.malformed import problem

_LARGEST_FIELD = 64 * 1024
"""Bytes. Signed URLs in Location fields outgrow aiohttp's default of 8 KiB."""
_LONGEST_WAIT = 30.0
"""Seconds for one of the pool's connections to become free, beside the time to open one."""
_CHUNK = 128 * 1024
"""Bytes read ahead of a slow client at most, times two (aiohttp's high-water mark)."""

_ENDED = (aiohttp.ClientOSError, aiohttp.ClientConnectionResetError, aiohttp.ServerDisconnectedError)
"""What aiohttp raises when a connection ends in the middle of a request or before its answer."""


Body = bytes | AsyncIterator[bytes] | None
Tls = Callable[[], ssl.SSLContext | bool]


@dataclass(frozen=True)
class Bounds:
    """Limits of one client: time-outs in seconds, and connections at a time.

    ``limit`` names, in messages, the setting that the number of connections comes from.
    """

    connect_timeout: float
    read_timeout: float
    connections: int
    limit: str = "connections.max_connections"


class HttpClient:
    """One pool of connections to one peer. Error messages never show a URL: storage URLs carry signatures.

    A proxy neither follows redirects, nor keeps cookies, nor decodes bodies.
    ``repeats`` is whether aiohttp repeats an idempotent request once if its connection ends; False where the
    budget counts every request.
    ``tls`` returns the context for the next connection, True for the system's own. ``destinations`` are the
    allowed destinations, None for any.
    """

    def __init__(
        self,
        peer: Peer,
        bounds: Bounds,
        *,
        repeats: bool,
        tls: Tls = lambda: True,
        forward_proxies: ForwardProxies | None = None,
        destinations: Destinations | None = None,
    ) -> None:
        self._peer = peer
        self._bounds = bounds
        self._tls = tls
        self._forward_proxies = forward_proxies or ForwardProxies()
        self._destinations = destinations
        self._timeout = aiohttp.ClientTimeout(
            total=None,
            connect=bounds.connect_timeout + _LONGEST_WAIT,
            sock_connect=bounds.connect_timeout,
            sock_read=bounds.read_timeout,
        )
        self._session = aiohttp.ClientSession(
            connector=Connector(bounds.connections, destinations),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            trace_configs=[tracing()],
            max_line_size=_LARGEST_FIELD,
            max_field_size=_LARGEST_FIELD,
            read_bufsize=_CHUNK,
        )
        self._session._retry_connection = repeats

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    @asynccontextmanager
    async def open(
        self,
        method: str,
        url: str,
        headers: Iterable[tuple[str, str]],
        body: Body = None,
        *,
        on_sent: Sent | None = None,
        within: float | None = None,
        idle: float = math.inf,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and yield its response once the response header is complete.

        ``url`` is absolute and sent exactly as given. ``on_sent`` is called once per attempt: when the
        request header was written, or, over a new connection, when the response header has arrived, since
        the time at which the peer accepted the connection is unknown. ``within`` bounds the whole exchange in
        seconds, body included. Without it the response header must arrive one read time-out after the last
        byte of the request. ``idle`` is the most seconds that the connection may have been idle, 0 for a new
        one. Leaving the context before the body was read closes the connection.

        Raises BadGatewayError (RefusedDestinationError and ConnectionEndedError included),
        GatewayTimeoutError, and OverloadedError if no connection is free or can be opened.
        """
        timeout = self._timeout
        if within is not None:
            timeout = aiohttp.ClientTimeout(
                total=max(within, 0.001),
                connect=timeout.connect,
                sock_connect=timeout.sock_connect,
                sock_read=timeout.sock_read,
            )
        attempt = Attempt(on_sent)
        target = URL(url, encoded=True) if self._destinations is None else self._destinations.checked(url)
        proxy = self._forward_proxies.towards(target)
        with self._mapped_errors(attempt, proxy), attempt.reported():
            async with asyncio.timeout(None) as header:
                with attempt.awaiting(header, timeout.sock_read), self._noted_ends(idle):
                    response = await self._session.request(
                        method,
                        target,
                        headers=_spelled_alike(headers),
                        data=body,
                        allow_redirects=False,
                        timeout=timeout,
                        trace_request_ctx=attempt,
                        ssl=self._tls(),
                        proxy=proxy,
                    )
        wrong = problem(response.status, response.version or (0, 9), response.headers.items())
        if wrong:
            response.close()
            raise BadGatewayError(f"{self._peer.subject} answered with something that is not HTTP: {wrong}.")
        try:
            yield response
        finally:
            response.release()

    @contextmanager
    def _noted_ends(self, idle: float) -> Iterator[None]:
        """Raise ConnectionEndedError if a reused connection ended, and other errors as they are."""
        with wanting(idle) as wanted:
            try:
                yield
            except _ENDED:
                if wanted.used is None:
                    raise
                raise ConnectionEndedError(
                    f"{self._peer.subject} hung up before it answered.", unread=wanted.unread
                ) from None

    @contextmanager
    def _mapped_errors(self, attempt: Attempt, proxy: URL | None) -> Iterator[None]:
        try:
            yield
        except (aiohttp.ClientOSError, aiohttp.ClientHttpProxyError) as error:
            refused = getattr(error, "os_error", None)
            if isinstance(refused, RefusedAddressError) and refused.__cause__ is not None:
                raise refused.__cause__ from None
            if ran_out(error):
                raise OverloadedError(no_descriptor(self._peer.name)) from error
            raise BadGatewayError(no_connection(self._peer, proxy, error)) from error
        except TimeoutError as error:
            if attempt.queued:
                inuse = f"All {self._bounds.connections} connections to {self._peer.name} are in use"
                raise OverloadedError(f"{inuse} ({self._bounds.limit}).") from error
            raise GatewayTimeoutError(f"{self._peer.subject} did not answer in time.") from error
        except aiohttp.ServerDisconnectedError as error:
            raise BadGatewayError(f"{self._peer.subject} hung up before it answered.") from error
        except aiohttp.ClientResponseError as error:
            raise BadGatewayError(
                f"{self._peer.subject} answered with something that is not HTTP."
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if is_exhaustion(error):
                raise OverloadedError(no_descriptor(self._peer.name)) from error
            raise BadGatewayError(
                f"The connection to {self._peer.name} broke: {type(error).__name__}."
            ) from error


async def chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the body as it arrives. Raises TruncatedError if it ends early or stalls."""
    try:
        async for chunk in pieces(response.content):
            yield chunk
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise TruncatedError(type(error).__name__) from error


async def read_whole(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Return the whole body, at most ``limit`` bytes.

    Raises TooLargeToShareError beyond that, TruncatedError if the body breaks off.
    """
    body = bytearray()
    async for chunk in chunks(response):
        body += chunk
        if len(body) > limit:
            raise TooLargeToShareError(f"more than {limit} bytes")
    return bytes(body)


def fields(response: aiohttp.ClientResponse) -> list[tuple[str, str]]:
    """Return the response's end-to-end header fields in order."""
    return end_to_end(response.headers.items())


def _spelled_alike(fields: Iterable[tuple[str, str]]) -> CIMultiDict[str]:
    """Return the fields, repeated names spelt like the first: aiohttp would drop ``X-Tag`` for ``x-tag``."""
    spelling: dict[str, str] = {}
    return CIMultiDict((spelling.setdefault(name.lower(), name), value) for name, value in fields)
