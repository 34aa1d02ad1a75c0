"""An HTTP proxy as companies have them: tunnels (CONNECT) and absolute-form requests, on asyncio streams.

Whatever host is asked for, what it leads to is on this machine: names need not resolve.
"""

import asyncio
import base64
from urllib.parse import urlsplit

from tests.integration.support import Head
from tests.streams import StreamServer, relay


class ForwardProxy(StreamServer):
    """``credentials`` (USER:PASSWORD) are demanded if given; ``silent`` lets every request wait for ever."""

    def __init__(self, credentials: str = "", *, silent: bool = False) -> None:
        super().__init__()
        self.requests: list[tuple[str, Head]] = []
        """Request lines and header fields, as they came."""
        self._expected = "Basic " + base64.b64encode(credentials.encode()).decode() if credentials else None
        self._silent = silent

    @property
    def host(self) -> str:
        """With its port."""
        return f"127.0.0.1:{self.port}"

    @property
    def lines(self) -> list[str]:
        return [line for line, _ in self.requests]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await relay(reader, writer, port, first)
