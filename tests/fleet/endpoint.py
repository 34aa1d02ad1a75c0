"""A stable endpoint in front of a Redis that changes: what a name or a load balancer is to its clients."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.fleet.redis_server import NetworkRedisServer, until


class Endpoint:
    """Lets new connections through to the server that it stands for now; those that there are stay theirs."""

    def __init__(self, server: NetworkRedisServer) -> None:
        self.server = server
        self._connections: dict[asyncio.Task[None], NetworkRedisServer] = {}

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.close()
        while self._connections:  # its clients close theirs
            await asyncio.wait(self._connections)
        await self._listener.wait_closed()

    @property
    def url(self) -> str:
        """For redis-py."""
        return f"redis://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"

    async def until_left(self, server: NetworkRedisServer) -> None:
        """Wait until no connection to a server is left."""

        async def condition() -> bool:
            return server not in self._connections.values()

        await until(condition)

    def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._serve(reader, writer))
        self._connections[connection] = self.server
        connection.add_done_callback(self._connections.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        ways: list[asyncio.Task[None]] = []
        try:
            with suppress(OSError):
                there, back = await asyncio.open_connection("127.0.0.1", self.server.port)
                writers.append(back)
                ways = [asyncio.create_task(_carry(*way)) for way in ((reader, back), (there, writer))]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for each in writers:
                each.close()
                with suppress(OSError):
                    await each.wait_closed()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
