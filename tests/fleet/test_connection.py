"""The way to Redis: what it carries, and what becomes of it when something goes wrong."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.errors import FleetUnavailableError
from proxy.fleet.connection import PATIENCE, Connection
from tests.fleet.redis_server import RedisServer

ADD = "return redis.call('XADD', KEYS[1], '*', 'bytes', ARGV[1])"
ECHO = "return ARGV[1]"
ANY_BYTES = bytes(range(256))


async def take_turns(count: int) -> None:
    """Let all others run so many times: from before a call begins to when it waits for its answer."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
async def connection(redis: RedisServer) -> AsyncIterator[Connection]:
    connection = Connection(redis.url)
    yield connection
    await connection.close()


async def test_a_script_takes_and_gives_any_bytes(connection: Connection) -> None:
    everything = connection.script("return {KEYS[1], ARGV[1], 7, false, {}}")
    assert await everything(["é"], [ANY_BYTES]) == ["é".encode(), ANY_BYTES, 7, None, []]


async def test_a_stream_is_read_from_where_one_was(connection: Connection) -> None:
    add = connection.script(ADD)
    assert await connection.read_stream("stream", "0", 0.001) == []
    waiting = asyncio.create_task(connection.read_stream("stream", "0", 30))
    first = await add(["stream"], [ANY_BYTES])
    [(after, fields)] = await waiting
    assert isinstance(first, bytes)
    assert (after, fields) == (first.decode(), {b"bytes": ANY_BYTES})
    await add(["stream"], [b"2"])
    await add(["stream"], [b"3"])
    assert [each for _, each in await connection.read_stream("stream", after, 30)] == [
        {b"bytes": b"2"},
        {b"bytes": b"3"},
    ]


async def test_waiting_for_a_stream_may_take_longer_than_any_other_answer(connection: Connection) -> None:
    assert await connection.read_stream("stream", "0", 2 * PATIENCE) == []


async def test_one_script_waits_for_no_stream(connection: Connection) -> None:
    reading = [asyncio.create_task(connection.read_stream("stream", "0", 30)) for _ in range(3)]
    echo = connection.script(ECHO)
    await asyncio.gather(*(echo([], [str(number)]) for number in range(50)))
    assert not any(task.done() for task in reading)
    await connection.script(ADD)(["stream"], ["1"])
    assert [len(entries) for entries in await asyncio.gather(*reading)] == [1, 1, 1]


async def test_a_cancelled_read_ends_at_once_and_leaves_no_answer_to_others(connection: Connection) -> None:
    add = connection.script(ADD)
    for turns in range(60):
        key = f"stream-{turns}"
        reading = asyncio.create_task(connection.read_stream(key, "0", 30))
        await take_turns(turns)
        reading.cancel()
        async with asyncio.timeout(20):
            with pytest.raises(asyncio.CancelledError):
                await reading
        await add([key], [key])
        [(_, fields)] = await connection.read_stream(key, "0", 30)
        assert fields == {b"bytes": key.encode()}


async def test_a_cancelled_script_ends_at_once_and_leaves_no_answer_to_others(connection: Connection) -> None:
    echo = connection.script(ECHO)
    for turns in range(60):
        calls = [asyncio.ensure_future(echo([], [f"{turns}-{each}"])) for each in range(5)]
        await take_turns(turns)
        running = {call for call in calls if not call.done()}
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        assert {call for call in calls if call.cancelled()} == running
        answers = await asyncio.gather(*(echo([], [str(each)]) for each in range(8)))
        assert answers == [str(each).encode() for each in range(8)]


async def test_a_redis_that_does_not_answer_is_not_waited_for(
    redis: RedisServer, connection: Connection
) -> None:
    redis.stop()
    for call in (connection.script(ECHO)([], ["1"]), connection.read_stream("stream", "0", 0.001)):
        async with asyncio.timeout(30):
            with pytest.raises(FleetUnavailableError, match="Timeout"):
                await call
    redis.resume()
    assert await connection.script(ECHO)([], ["2"]) == b"2"
