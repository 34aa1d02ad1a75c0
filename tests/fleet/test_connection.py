"""Scripts and streams over a member's connection, with every kind of Redis."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar

import pytest

from mlflow_proxy.errors import FleetUnavailableError
from mlflow_proxy.fleet.connection import PATIENCE, Connection
from tests.fleet.connecting import (
    ADD,
    ANY_BYTES,
    ECHO,
    NOWHERE,
    PASSWORD,
    QUOTED,
    connected,
    take_turns,
    works,
)
from tests.fleet.redis_server import (
    Certificate,
    ClusterServer,
    NetworkRedisServer,
    RedisServer,
    SentinelServer,
    running,
)

pytestmark = pytest.mark.impatient

Server = TypeVar("Server", bound=RedisServer)


@pytest.fixture
async def connection(redis: RedisServer) -> AsyncIterator[Connection]:
    async with connected(redis.url) as connection:
        yield connection


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


async def test_every_kind_of_redis_runs_scripts_and_has_streams(tmp_path: Path) -> None:
    own = Certificate(tmp_path, "own")
    trust = f"?ssl_ca_certs={own.file}"
    async with AsyncExitStack() as stack:

        async def start(server: Server) -> Server:
            return await stack.enter_async_context(running(server))

        local, plain, tls, cluster, tls_cluster = await asyncio.gather(
            start(RedisServer(tmp_path / "local", "--requirepass", PASSWORD)),
            start(NetworkRedisServer(tmp_path / "plain", "--requirepass", PASSWORD)),
            start(NetworkRedisServer(tmp_path / "tls", certificate=own)),
            start(ClusterServer(tmp_path / "cluster")),
            start(ClusterServer(tmp_path / "tls-cluster", certificate=own)),
        )
        silent = await start(NetworkRedisServer(tmp_path / "silent"))
        silent.stop()
        sentinel, tls_sentinel, *_ = await asyncio.gather(
            start(
                SentinelServer(
                    tmp_path / "sentinel", plain, f"sentinel auth-pass main {PASSWORD}", "requirepass other"
                )
            ),
            start(SentinelServer(tmp_path / "tls-sentinel", tls, certificate=own)),
            cluster.whole(),
            tls_cluster.whole(),
        )
        await asyncio.gather(
            works(f"{local.url}?password={QUOTED}&db=1"),
            works(f"redis://:{QUOTED}@{plain.host}/2"),
            works(f"redis://default:{QUOTED}@{plain.host}?db=3"),
            works(tls.url + trust),
            works(f"redis+sentinel://:{QUOTED}@{NOWHERE},{sentinel.host}/main/4?sentinel_password=other"),
            works(
                f"redis+sentinel://:{QUOTED}@{silent.host},{sentinel.host}/main?db=5&sentinel_password=other"
            ),
            works(f"rediss+sentinel://{tls_sentinel.host}/main/5{trust}"),
            works(f"redis+cluster://{NOWHERE},{cluster.host}"),
            works(f"rediss+cluster://{tls_cluster.host}/0{trust}"),
        )


async def test_a_server_without_the_client_command_is_used(tmp_path: Path) -> None:
    """As many a proxy in front of a Redis is, and a user who may run nothing but what is needed."""
    without = ("--rename-command", "CLIENT", "")
    async with (
        running(NetworkRedisServer(tmp_path / "redis", *without)) as server,
        running(SentinelServer(tmp_path / "sentinel", server)) as sentinel,
    ):
        await works(server.url)
        await works(f"redis+sentinel://{sentinel.host}/main")
    async with running(ClusterServer(tmp_path / "cluster", *without)) as cluster:
        await cluster.whole()
        await works(f"redis+cluster://{cluster.host}")
