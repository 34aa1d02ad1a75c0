"""The HTTP client: how requests leave, and the edge where aiohttp's exceptions become ours."""

import asyncio
import math
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import NamedTuple

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from mlflow_proxy.bodies import pieces
from mlflow_proxy.descriptors import is_exhaustion, nearly_exhausted
from mlflow_proxy.errors import (
    BadGatewayError,
    ConnectionEndedError,
    GatewayTimeoutError,
    OverloadedError,
    TooLargeToShareError,
    TruncatedError,
)
from mlflow_proxy.mlflow_api.headers import end_to_end
from mlflow_proxy.upstream.connector import Connector, RefusedAddressError, wanting
from mlflow_proxy.upstream.destination import Destinations
from mlflow_proxy.upstream.forward_proxy import ForwardProxies, without_credentials
from mlflow_proxy.upstream.malformed import problem

_LARGEST_FIELD = 64 * 1024
"""Bytes. Signed URLs in Location fields outgrow aiohttp's default of 8 KiB."""
_LONGEST_WAIT = 30.0
"""Seconds for one of the pool's connections to become free, beside the time to open one."""
_CHUNK = 128 * 1024
"""Bytes read ahead of a slow client at most, times two (aiohttp's high-water mark)."""

_ENDED = (aiohttp.ClientOSError, aiohttp.ClientConnectionResetError, aiohttp.ServerDisconnectedError)
"""What aiohttp raises when a connection ends in the middle of a request or before its answer."""


class Peer(NamedTuple):
    """The other side: its name in messages, and what says which host it is, for operators to correct."""

    name: str
    named_by: str

    @property
    def subject(self) -> str:
        """Its name as a sentence begins with it."""
        return self.name[0].upper() + self.name[1:]


WORKSPACE = Peer("the workspace", "the proxy's setting upstream")
STORAGE = Peer("the workspace's storage", "the workspace's answer")

Body = bytes | AsyncIterator[bytes] | None
Sent = Callable[[], None]
Tls = Callable[[], ssl.SSLContext | bool]


class HttpClient:
    """One pool of connections to one peer. Error messages never show a URL: storage URLs carry signatures.

    Redirects are not followed, cookies not kept, bodies not decoded: a proxy does none of that.
    ``limit`` says where the number of connections comes from, in the same messages.
    ``repeats`` is whether a request of an idempotent method is made once more, unasked, if its connection
    ends: not where each of them counts.
    ``tls`` gives the context for the next connection, True for the system's own. ``destinations`` are the
    places that may be asked, None for whatever the caller names.
    """

    def __init__(
        self,
        peer: Peer,
        *,
        connect_timeout: float,
        read_timeout: float,
        connections: int,
        repeats: bool,
        limit: str = "connections.max_connections",
        tls: Tls = lambda: True,
        forward_proxies: ForwardProxies | None = None,
        destinations: Destinations | None = None,
    ) -> None:
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(_note_connection)
        trace.on_request_headers_sent.append(_report_sent)
        trace.on_request_chunk_sent.append(_note_progress)
        self._peer = peer
        self._tls = tls
        self._forward_proxies = forward_proxies or ForwardProxies()
        trace.on_connection_queued_start.append(_note_queued)
        trace.on_connection_queued_end.append(_note_not_queued)
        self._connections = connections
        self._limit = limit
        self._destinations = destinations
        self._timeout = aiohttp.ClientTimeout(
            total=None,
            connect=connect_timeout + _LONGEST_WAIT,
            sock_connect=connect_timeout,
            sock_read=read_timeout,
        )
        self._session = aiohttp.ClientSession(
            connector=Connector(connections, destinations),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            trace_configs=[trace],
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
        """Send a request and yield its response once the header is there.

        ``url`` is absolute and goes out exactly as given. ``on_sent`` is called when the request has
        left, once per attempt: when its header was written, or, over a new connection, when the answer's
        header is there, since how long the other side took to accept it is not known before.
        ``within`` bounds the whole exchange in seconds, body included. Without it the header has to be there
        one read timeout after the last of the request left, whatever else is said meanwhile. ``idle`` is for
        how many seconds at most its connection may have been idle, 0 for a new one. Leaving the context
        before the body was read closes the connection.

        Raises BadGatewayError, RefusedDestinationError and ConnectionEndedError among it,
        GatewayTimeoutError, and OverloadedError if this proxy has no connection left or can open none.
        """
        timeout = self._timeout
        if within is not None:
            timeout = aiohttp.ClientTimeout(
                total=max(within, 0.001),
                connect=timeout.connect,
                sock_connect=timeout.sock_connect,
                sock_read=timeout.sock_read,
            )
        attempt = SimpleNamespace(
            on_sent=on_sent, connected=False, unreported=False, queued=False, progress=None
        )
        target = URL(url, encoded=True) if self._destinations is None else self._destinations.checked(url)
        proxy = self._forward_proxies.towards(target)
        with self._mapped_errors(attempt, proxy), _reported(attempt):
            async with asyncio.timeout(None) as header:
                with _watched(attempt, header, timeout.sock_read), self._noted_ends(idle):
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
        """Ask for a connection, and tell the end of one that had been used before from other failures."""
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
    def _mapped_errors(self, attempt: SimpleNamespace, proxy: URL | None) -> Iterator[None]:
        try:
            yield
        except (aiohttp.ClientOSError, aiohttp.ClientHttpProxyError) as error:
            refused = getattr(error, "os_error", None)
            if isinstance(refused, RefusedAddressError) and refused.__cause__ is not None:
                raise refused.__cause__ from None
            if _ran_out(error):
                raise OverloadedError(_no_descriptor(self._peer.name)) from error
            raise BadGatewayError(_no_connection(self._peer, proxy, error)) from error
        except TimeoutError as error:
            if attempt.queued:
                raise OverloadedError(
                    f"All {self._connections} connections to {self._peer.name} are in use ({self._limit})."
                ) from error
            raise GatewayTimeoutError(f"{self._peer.subject} did not answer in time.") from error
        except aiohttp.ServerDisconnectedError as error:
            raise BadGatewayError(f"{self._peer.subject} hung up before it answered.") from error
        except aiohttp.ClientResponseError as error:
            raise BadGatewayError(
                f"{self._peer.subject} answered with something that is not HTTP."
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if is_exhaustion(error):
                raise OverloadedError(_no_descriptor(self._peer.name)) from error
            raise BadGatewayError(
                f"The connection to {self._peer.name} broke: {type(error).__name__}."
            ) from error


def _ran_out(error: aiohttp.ClientError) -> bool:
    """Whether there is no connection because this machine has nothing left to make one of.

    Whoever resolves names or looks for a CA reads files and does not say that it could not.
    """
    cause = getattr(error, "os_error", error)
    if is_exhaustion(cause):
        return True
    unclear = isinstance(error, aiohttp.ClientConnectorDNSError | aiohttp.ClientConnectorCertificateError)
    # Of several addresses that failed differently, aiohttp makes one error without a number.
    return (unclear or getattr(cause, "errno", None) is None) and nearly_exhausted()


def _no_descriptor(peer: str) -> str:
    return (
        f"This proxy can open no connection to {peer} at the moment: it has reached its limit of open files "
        "(ulimit -n), or this machine has no room for more."
    )


def _no_connection(
    peer: Peer, proxy: URL | None, error: aiohttp.ClientOSError | aiohttp.ClientHttpProxyError
) -> str:
    """Say why there is no connection and what can be done about it."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"{peer.subject} is behind {_shown(proxy)}, which refused the connection: {error.status}."
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _no_trust(peer, error.certificate_error)
    # The alert that a certificate is missing comes after the handshake, from TLS 1.3 on.
    if isinstance(error.__cause__, ssl.SSLError):
        return _no_handshake(peer, error.__cause__.reason or "handshake failed")
    if not isinstance(error, aiohttp.ClientConnectorError):
        return f"The connection to {peer.name} broke: {type(error).__name__}."
    reason = error.os_error.strerror or "connection failed"
    if proxy is not None and error.host == proxy.host:
        variables = "HTTPS_PROXY, HTTP_PROXY and NO_PROXY say which"
        return f"{peer.subject} is behind {_shown(proxy)}, which could not be reached: {reason}; {variables}."
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return (
            f"The host name of {peer.name}, {error.host}, could not be resolved; {peer.named_by} says it: "
            "check it, and DNS on the proxy's machine."
        )
    return f"{peer.subject} could not be reached: {reason}."


def _shown(proxy: URL | None) -> str:
    return "a proxy" if proxy is None else f"the proxy {without_credentials(proxy)}"


_HOST_MISMATCH = frozenset({62, 63, 64})
"""X509_V_ERR_HOSTNAME_MISMATCH, _EMAIL_MISMATCH and _IP_ADDRESS_MISMATCH (OpenSSL's x509_vfy.h)."""
_EXPIRED = 10
"""X509_V_ERR_CERT_HAS_EXPIRED."""


def _no_trust(peer: Peer, error: Exception) -> str:
    code = getattr(error, "verify_code", None)
    reason = getattr(error, "verify_message", None) or "verification failed"
    if code in _HOST_MISMATCH:
        remedy = "the URL must name the host that the certificate is for"
    elif code == _EXPIRED:
        remedy = "it has to be renewed there, unless this machine's clock is wrong"
    else:
        remedy = "set connections.ca_file to a PEM file with the certificate of its CA"
    return f"{peer.subject}'s certificate is not trusted: {reason}; {remedy}."


def _no_handshake(peer: Peer, reason: str) -> str:
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason or "HANDSHAKE" in reason):
        return (
            f"{peer.subject} refused this proxy's TLS certificate, or wants one ({reason}); "
            "set connections.client_certificate and connections.client_key."
        )
    return f"{peer.subject} could not be spoken to by TLS: {reason}; check the scheme and port of its URL."


async def chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the body as it arrives. Raises TruncatedError if it breaks off or stalls."""
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
    """Spell repeated names as at first: aiohttp keeps only the last of ``X-Tag`` and ``x-tag``."""
    spelling: dict[str, str] = {}
    return CIMultiDict((spelling.setdefault(name.lower(), name), value) for name, value in fields)


@contextmanager
def _watched(attempt: SimpleNamespace, header: asyncio.Timeout, seconds: float | None) -> Iterator[None]:
    """Let a header take so many seconds, counted from the last of its request.

    aiohttp counts from the last byte that came, so that interim answers, or a header that comes byte by
    byte, would be waited for without end.
    """

    def progress() -> None:
        if seconds is not None and not header.expired():
            header.reschedule(asyncio.get_running_loop().time() + seconds)

    attempt.progress = progress
    try:
        yield
    finally:
        attempt.progress = None  # a body may still be on its way when it was answered early


async def _note_progress(
    session: aiohttp.ClientSession,
    context: SimpleNamespace,
    params: aiohttp.TraceRequestChunkSentParams,
) -> None:
    if context.trace_request_ctx.progress is not None:
        context.trace_request_ctx.progress()


async def _report_sent(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestHeadersSentParams
) -> None:
    attempt = context.trace_request_ctx
    if attempt.progress is not None:
        attempt.progress()
    if attempt.connected:
        attempt.unreported = True
    elif attempt.on_sent is not None:
        attempt.on_sent()


async def _note_queued(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceConnectionQueuedStartParams
) -> None:
    context.trace_request_ctx.queued = True


async def _note_not_queued(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceConnectionQueuedEndParams
) -> None:
    context.trace_request_ctx.queued = False


async def _note_connection(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceConnectionCreateEndParams
) -> None:
    context.trace_request_ctx.connected = True


@contextmanager
def _reported(attempt: SimpleNamespace) -> Iterator[None]:
    """Report what was sent over a new connection once it was answered, or failed to be."""
    try:
        yield
    finally:
        if attempt.unreported and attempt.on_sent is not None:
            attempt.on_sent()
