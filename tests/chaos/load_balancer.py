"""The least that makes two proxies one address: a connection goes to the next one that takes it."""

import asyncio
import itertools
import time
from collections.abc import Sequence

from tests.streams import StreamServer, relay


class LoadBalancer(StreamServer):
    """Passes bytes between clients and the ports of this machine that accept connections.

    `none_up` are the moments (monotonic seconds) at which a connection found nobody.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        super().__init__()
        self._ports = ports
        self._turns = itertools.count()
        self.none_up: list[float] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        turn = next(self._turns)
        for number in range(len(self._ports)):
            try:
                await relay(reader, writer, self._ports[(turn + number) % len(self._ports)])
            except OSError:
                continue
            return
        self.none_up.append(time.monotonic())
