"""The cheapest HTTP/1.1 client that will do: GET over kept connections, answers with a Content-Length.

What belongs here: only what fifty emulated clients need on one machine. A complete client costs three times
the processor time, and then the storm would measure its own clients instead of what they call.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlsplit

_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class HttpError(Exception):
    """No answer, or one that this client does not understand."""


class Response(NamedTuple):
    """A whole answer; names of header fields are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class PlainClient:
    """Connections to any number of http origins, kept until the context is left.

    Cookies are kept as well, each for the origin that set it: of their attributes none is understood.
    """

    def __init__(self) -> None:
        self._idle: defaultdict[str, list[_Connection]] = defaultdict(list)
        self._cookies: defaultdict[str, dict[str, str]] = defaultdict(dict)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connections in self._idle.values():
            for _, writer in connections:
                writer.close()

    async def get(self, url: str, headers: Mapping[str, str]) -> Response:
        """Return the answer, whatever its status; `url` is sent as it is. Raises HttpError."""
        origin, target = _split(url)
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        if cookies := self._cookies[origin]:
            fields += f"Cookie: {'; '.join(f'{name}={value}' for name, value in cookies.items())}\r\n"
        head = f"GET {target} HTTP/1.1\r\nHost: {origin}\r\n{fields}\r\n".encode()
        idle = self._idle[origin]
        while idle:
            try:
                return await self._exchange(origin, idle.pop(), head)
            except HttpError:
                pass  # closed since it was used last
        host, _, port = origin.rpartition(":")
        try:
            connection = await asyncio.open_connection(host, int(port))
        except OSError as error:
            raise HttpError(f"{origin}: {error}") from error
        return await self._exchange(origin, connection, head)

    async def _exchange(self, origin: str, connection: _Connection, head: bytes) -> Response:
        reader, writer = connection
        try:
            writer.write(head)
            status_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            received = [_field(line) for line in lines if line]
            fields = dict(received)
            body = await reader.readexactly(int(fields["content-length"]))
        except (OSError, EOFError, KeyError, ValueError, asyncio.LimitOverrunError) as error:
            writer.close()
            raise HttpError(f"{origin}: {type(error).__name__} {error}") from error
        except BaseException:
            writer.close()
            raise
        if fields.get("connection", "").lower() == "close":
            writer.close()
        else:
            self._idle[origin].append(connection)
        if "set-cookie" in fields:
            set_cookies = (value for name, value in received if name == "set-cookie")
            self._cookies[origin].update(map(_cookie, set_cookies))
        return Response(int(status_line.split(" ", 2)[1]), fields, body)


def _split(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    target = parts.path or "/"
    return parts.netloc, f"{target}?{parts.query}" if parts.query else target


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.lower(), value.strip()


def _cookie(set_cookie: str) -> tuple[str, str]:
    name, _, value = set_cookie.partition(";")[0].partition("=")
    return name.strip(), value.strip()
