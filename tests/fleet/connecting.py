"""Connections to a Redis, and calls that are repeated until they work or fail."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest

from mlflow_proxy.errors import FleetUnavailableError
from mlflow_proxy.fleet.connection import Connection

Result = TypeVar("Result")

ADD = "return redis.call('XADD', KEYS[1], '*', 'bytes', ARGV[1])"
ECHO = "return ARGV[1]"
SECRET = "geheim"
ANY_BYTES = bytes(range(256))


async def take_turns(count: int) -> None:
    """Let all others run so many times: from before a call begins to when it waits for its answer."""
    for _ in range(count):
        await asyncio.sleep(0)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    connection = Connection(url)
    try:
        yield connection
    finally:
        await connection.close()


async def until_it_works(call: Callable[[], Awaitable[Result]]) -> Result:
    """Call again while that fails, as it may on a busy machine; each time it has to end soon."""
    async with asyncio.timeout(50):
        while True:
            try:
                async with asyncio.timeout(40):
                    return await call()
            except FleetUnavailableError:
                await asyncio.sleep(0.05)


async def fails(url: str, *reasons: str, script: str = ECHO) -> str:
    """Return why a script cannot be run there."""
    async with connected(url) as connection:
        run = connection.script(script)
        return await until_it_fails(lambda: run(["key"], ["value"]), *reasons)


async def until_it_fails(call: Callable[[], Awaitable[object]], *reasons: str) -> str:
    """Return why a call fails, which it always does; on a busy machine it may say so only when repeated."""
    while True:
        async with asyncio.timeout(40):
            with pytest.raises(FleetUnavailableError) as caught:
                await call()
        text = str(caught.value)
        assert "\n" not in text
        assert SECRET not in text
        if all(each in text for each in reasons):
            return text


PASSWORD = "p@ss/word"
QUOTED = "p%40ss%2Fword"
NOWHERE = "127.0.0.1:1"
"""No server may listen there."""


async def works(url: str) -> None:
    async with connected(url) as connection:
        reading = asyncio.create_task(
            until_it_works(lambda: connection.read_stream("stream", "0", 30)), name=url
        )
        add = connection.script(ADD)
        await until_it_works(lambda: add(["stream"], [ANY_BYTES]))
        assert (await reading)[0][1] == {b"bytes": ANY_BYTES}
