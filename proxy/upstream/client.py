"""The HTTP client: how requests leave, and the edge where aiohttp's exceptions become ours."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from proxy.errors import (
    TooLargeToShareError,
    TruncatedError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
)
from proxy.mlflow_api.headers import end_to_end

_LARGEST_FIELD = 64 * 1024
"""Bytes. Signed URLs in Location fields outgrow aiohttp's default of 8 KiB."""
_CHUNK = 128 * 1024
"""Bytes read ahead of a slow client at most, times two (aiohttp's high-water mark)."""

Body = bytes | aiohttp.StreamReader | None
Sent = Callable[[], None]


class HttpClient:
    """One pool of connections to one peer.

    ``peer`` names it in error messages, which never show a URL, since storage URLs carry signatures.
    Redirects are not followed, cookies not kept, bodies not decoded: a proxy does none of that.
    """

    def __init__(self, peer: str, *, connect_timeout: float, read_timeout: float, connections: int) -> None:
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(_note_connection)
        trace.on_request_headers_sent.append(_report_sent)
        self._peer = peer
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=connect_timeout, sock_read=read_timeout
        )
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            trace_configs=[trace],
            max_line_size=_LARGEST_FIELD,
            max_field_size=_LARGEST_FIELD,
            read_bufsize=_CHUNK,
        )

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
        decode: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and yield its response once the header is there.

        ``url`` is absolute and goes out exactly as given. ``on_sent`` is called when the request has
        left, once per attempt: when its header was written, or, over a new connection, when the answer's
        header is there, since how long the other side took to accept it is not known before.
        ``within`` bounds the whole exchange in seconds, body included; ``decode`` undoes its content
        coding. Leaving the context before the body was read closes the connection.

        Raises UpstreamUnavailableError and UpstreamTimeoutError.
        """
        timeout = self._timeout
        if within is not None:
            timeout = aiohttp.ClientTimeout(
                total=max(within, 0.001), sock_connect=timeout.sock_connect, sock_read=timeout.sock_read
            )
        context = SimpleNamespace(on_sent=on_sent, connected=False, unreported=False)
        with self._mapped_errors(), _reported(context):
            response = await self._session.request(
                method,
                URL(url, encoded=True),
                headers=_spelled_alike(headers),
                data=body,
                allow_redirects=False,
                timeout=timeout,
                auto_decompress=decode,
                trace_request_ctx=context,
            )
        try:
            yield response
        finally:
            response.release()

    @contextmanager
    def _mapped_errors(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise UpstreamTimeoutError(f"{self._peer} did not answer in time.") from error
        except aiohttp.ClientConnectorDNSError as error:
            raise UpstreamUnavailableError(f"The host name of {self._peer} could not be resolved.") from error
        except aiohttp.ClientConnectorError as error:
            reason = error.os_error.strerror or "connection failed"
            raise UpstreamUnavailableError(f"{self._peer} could not be reached: {reason}.") from error
        except aiohttp.ServerDisconnectedError as error:
            raise UpstreamUnavailableError(f"{self._peer} hung up before it answered.") from error
        except aiohttp.ClientResponseError as error:
            raise UpstreamUnavailableError(
                f"{self._peer} answered with something that is not HTTP."
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UpstreamUnavailableError(
                f"The connection to {self._peer} broke: {type(error).__name__}."
            ) from error


async def chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the body as it arrives. Raises TruncatedError if it breaks off or stalls."""
    try:
        async for chunk in response.content.iter_any():
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


async def _report_sent(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestHeadersSentParams
) -> None:
    attempt = context.trace_request_ctx
    if attempt.connected:
        attempt.unreported = True
    elif attempt.on_sent is not None:
        attempt.on_sent()


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
