"""An HTTP proxy as companies have them: tunnels (CONNECT) and absolute-form requests, on asyncio streams.

Whatever host is asked for, what it leads to is on this machine: names need not resolve.
"""

import asyncio
import base64
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tests.integration.support import Head


class ForwardProxy:
    """``credentials`` (USER:PASSWORD) are demanded if given; ``silent`` lets every request wait for ever."""

    def __init__(self, credentials: str = "", *, silent: bool = False) -> None:
        self.host = ""
        """With its port; known once started."""
        self.requests: list[tuple[str, Head]] = []
        """Request lines and header fields, as they came."""
        self._expected = "Basic " + base64.b64encode(credentials.encode()).decode() if credentials else None
        self._silent = silent
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def lines(self) -> list[str]:
        return [line for line, _ in self.requests]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.host = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the other side has gone, or the test is over
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").removesuffix("\r\n\r\n")
        line, *lines = head.split("\r\n")
        fields = [(name, value.strip()) for name, _, value in (each.partition(":") for each in lines)]
        self.requests.append((line, fields))
        if self._silent:
            await reader.read()
            return
        given = [value for name, value in fields if name.lower() == "proxy-authorization"]
        if self._expected is not None and given != [self._expected]:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            return
        method, target, _ = line.split(" ")
        if method == "CONNECT":
            port, first = int(target.rpartition(":")[2]), b""
        else:
            parts = urlsplit(target)
            port = parts.port or 80
            path = target.partition("//")[2].partition("/")[2]
            rest = "\r\n".join(f"{name}: {value}" for name, value in (*fields, ("Connection", "close")))
            first = f"{method} /{path} HTTP/1.1\r\n{rest}\r\n\r\n".encode("latin-1")
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            there_writer.write(first)
            async with asyncio.TaskGroup() as both:
                both.create_task(_pump(reader, there_writer))
                both.create_task(_pump(there_reader, writer))
        finally:
            there_writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()
    except ConnectionError:
        writer.transport.abort()
