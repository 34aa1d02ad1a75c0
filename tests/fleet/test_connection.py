"""The way to Redis: what it carries, and what becomes of it when something goes wrong."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from mlflow_proxy.errors import FleetUnavailableError, InvalidSettingsError
from mlflow_proxy.fleet.address import parse
from mlflow_proxy.fleet.connection import PATIENCE, Connection
from tests.fleet.endpoint import Endpoint
from tests.fleet.redis_server import (
    SYNCHRONISED,
    Certificate,
    ClusterServer,
    NetworkRedisServer,
    RedisServer,
    SentinelServer,
    running,
    until,
)

pytestmark = pytest.mark.impatient

Server = TypeVar("Server", bound=RedisServer)
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


# -- where Redis may be ----------------------------------------------------------------------------


PASSWORD = "p@ss/word"
QUOTED = "p%40ss%2Fword"
NOWHERE = "127.0.0.1:1"
"""No server may listen there."""


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


async def works(url: str) -> None:
    async with connected(url) as connection:
        reading = asyncio.create_task(
            until_it_works(lambda: connection.read_stream("stream", "0", 30)), name=url
        )
        add = connection.script(ADD)
        await until_it_works(lambda: add(["stream"], [ANY_BYTES]))
        assert (await reading)[0][1] == {b"bytes": ANY_BYTES}


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


async def test_after_a_failover_the_new_master_is_used(tmp_path: Path) -> None:
    async with (
        running(NetworkRedisServer(tmp_path / "master", "--repl-diskless-sync-delay", "0")) as master,
        running(
            NetworkRedisServer(tmp_path / "replica", "--replicaof", "127.0.0.1", str(master.port))
        ) as replica,
    ):

        async def replicating() -> bool:
            return bool((await replica.ask("INFO", "replication"))["master_link_status"] == "up")

        await until(replicating)
        async with (
            running(SentinelServer(tmp_path / "sentinel", master)) as sentinel,
            connected(f"redis+sentinel://{sentinel.host}/main") as connection,
        ):

            async def replaceable() -> bool:
                return bool(await sentinel.ask("SENTINEL", "REPLICAS", "main"))

            await until(replaceable)
            add = connection.script(ADD)
            await until_it_works(lambda: add(["stream"], ["before"]))
            [(after, _), *_] = await until_it_works(lambda: connection.read_stream("stream", "0", 30))
            reading = asyncio.create_task(connection.read_stream("stream", "9999999999999-0", 30))
            await asyncio.sleep(0)
            await master.kill()
            with pytest.raises(FleetUnavailableError):
                await reading
            with pytest.raises(FleetUnavailableError):
                await add(["stream"], ["lost"])
            reread = asyncio.create_task(until_it_works(lambda: connection.read_stream("stream", after, 30)))
            await until_it_works(lambda: add(["stream"], ["after"]))
            assert (await reread)[0][1] == {b"bytes": b"after"}
            assert (await replica.ask("ROLE"))[0] == b"master"


async def test_a_primary_that_was_demoted_behind_its_endpoint_is_left(tmp_path: Path) -> None:
    async with (
        running(NetworkRedisServer(tmp_path / "one", *SYNCHRONISED)) as one,
        running(NetworkRedisServer(tmp_path / "two", *SYNCHRONISED)) as two,
        Endpoint(one) as endpoint,
        connected(endpoint.url) as connection,
    ):
        await two.replicate(one)
        add = connection.script(ADD)
        await asyncio.gather(*(add(["stream"], ["before"]) for _ in range(5)))
        assert len(await connection.read_stream("stream", "0", 1)) == 5
        await one.hand_over(two)
        # As long as the endpoint stands for the one that is a replica now, nothing is to be found anywhere.
        for _ in range(3):
            with pytest.raises(FleetUnavailableError, match="read only replica"):
                await add(["stream"], ["refused"])
        endpoint.server = two
        last = await until_it_works(lambda: add(["stream"], ["after"]))
        assert isinstance(last, bytes)
        # Whoever reads has left as well, or would hear nothing if the old one heard nothing any more.
        await one.ask("REPLICAOF", "NO", "ONE")
        await until_it_works(lambda: add(["stream"], ["heard"]))
        [(_, fields)] = await connection.read_stream("stream", last.decode(), 1)
        assert fields == {b"bytes": b"heard"}
        await endpoint.until_left(one)


async def test_a_replica_that_lost_its_primary_is_left(tmp_path: Path) -> None:
    stale = ("--replicaof", *NOWHERE.split(":"), "--replica-serve-stale-data", "no")
    async with (
        running(NetworkRedisServer(tmp_path / "one", *stale)) as one,
        running(NetworkRedisServer(tmp_path / "two")) as two,
        Endpoint(one) as endpoint,
        connected(endpoint.url) as connection,
    ):
        with pytest.raises(FleetUnavailableError, match="Link with MASTER is down"):
            await connection.read_stream("stream", "0", 0.001)
        endpoint.server = two
        assert await until_it_works(lambda: connection.read_stream("stream", "0", 0.001)) == []


async def test_a_primary_that_lost_its_replicas_is_left(tmp_path: Path) -> None:
    async with (
        running(NetworkRedisServer(tmp_path / "one", "--min-replicas-to-write", "1")) as one,
        running(NetworkRedisServer(tmp_path / "two")) as two,
        Endpoint(one) as endpoint,
        connected(endpoint.url) as connection,
    ):
        add = connection.script(ADD)
        with pytest.raises(FleetUnavailableError, match="Not enough good replicas"):
            await add(["stream"], ["refused"])
        endpoint.server = two
        await until_it_works(lambda: add(["stream"], ["after"]))


async def test_a_silent_redis_is_left_with_all_connections(tmp_path: Path) -> None:
    """Or each of those that lie idle would be found dead on its own, when a crowd of calls comes."""
    async with (
        running(NetworkRedisServer(tmp_path / "one")) as one,
        running(NetworkRedisServer(tmp_path / "two")) as two,
        Endpoint(one) as endpoint,
        connected(endpoint.url) as connection,
    ):
        echo = connection.script(ECHO)

        async def crowd() -> None:
            await asyncio.gather(*(echo([], [str(number)]) for number in range(50)))

        await until_it_works(crowd)
        one.stop()
        endpoint.server = two
        with pytest.raises(FleetUnavailableError):
            await echo([], ["lost"])
        await endpoint.until_left(one)
        assert await until_it_works(lambda: echo([], ["found"])) == b"found"
        one.resume()


async def test_what_a_redis_refuses_of_one_is_no_reason_to_leave(tmp_path: Path) -> None:
    async with (
        running(NetworkRedisServer(tmp_path, "--maxmemory", "100kb")) as server,
        connected(server.url) as connection,
    ):
        for script in (ECHO, ADD, "return redis.call('GET')", ECHO):
            with suppress(FleetUnavailableError):
                await connection.script(script)(["key"], ["value"])
        statistics = await server.ask("INFO", "stats")
        # Of the test's own, one that asked whether it answers and this one.
        assert statistics["total_connections_received"] == 3


async def test_in_a_cluster_keys_are_looked_for_where_they_are(tmp_path: Path) -> None:
    here, there, moving = "stream-2", "stream-1", "stream"
    async with (
        running(ClusterServer(tmp_path / "one", slots=(0, 8191))) as one,
        running(ClusterServer(tmp_path / "two", slots=(8192, 16383))) as two,
        connected(f"redis+cluster://{one.host}") as connection,
    ):
        await one.meet(two)
        await asyncio.gather(one.whole(), two.whole())
        add = connection.script(ADD)

        async def carries(key: str, value: str) -> None:
            reading = asyncio.create_task(until_it_works(partial(connection.read_stream, key, "0", 30)))
            await until_it_works(partial(add, [key], [value]))
            assert (await reading)[0][1] == {b"bytes": value.encode()}

        for key in (here, there):
            await carries(key, key)
        assert (await one.ask("DBSIZE"), await two.ask("DBSIZE")) == (1, 1)

        # A slot moves while its stream is waited for.
        [slot] = {await node.ask("CLUSTER", "KEYSLOT", moving) for node in (one, two)}
        reading = asyncio.create_task(until_it_works(partial(connection.read_stream, moving, "0", 30)))
        new_owner = (await two.ask("CLUSTER", "MYID")).decode()
        for node in (two, one):
            await node.ask("CLUSTER", "SETSLOT", str(slot), "NODE", new_owner)
        await until_it_works(partial(add, [moving], ["moved"]))
        assert (await reading)[0][1] == {b"bytes": b"moved"}

        # A node is lost, and comes back empty where it was; meanwhile the other one goes on.
        await two.kill()
        for _ in range(3):
            with pytest.raises(FleetUnavailableError):
                await add([there], ["lost"])
            with pytest.raises(FleetUnavailableError):
                await connection.read_stream(there, "0", 30)
            await until_it_works(partial(add, [here], ["still here"]))
        await two.come_back()
        await carries(there, "again")


async def test_a_cluster_that_was_lost_as_a_whole(tmp_path: Path) -> None:
    async with (
        running(ClusterServer(tmp_path)) as cluster,
        connected(f"redis+cluster://{cluster.host}") as connection,
    ):
        read = partial(connection.read_stream, "stream", "0", 0.001)
        # One that has just begun answers that it is down; but it has told about its nodes.
        with suppress(FleetUnavailableError):
            await read()
        await cluster.kill()
        for _ in range(3):
            await until_it_fails(read, "Connect")
        await cluster.come_back()
        assert await until_it_works(read) == []


# -- what may be wrong with it ---------------------------------------------------------------------


async def test_tls_is_to_be_what_the_url_says(tmp_path: Path) -> None:
    own, other = Certificate(tmp_path, "own"), Certificate(tmp_path, "other")
    async with (
        running(NetworkRedisServer(tmp_path / "tls", certificate=own)) as tls,
        running(NetworkRedisServer(tmp_path / "plain")) as plain,
    ):
        await works(f"{tls.url}?ssl_ca_certs={own.file}")
        await works(f"{tls.url}?ssl_cert_reqs=none")
        await fails(tls.url, "CERTIFICATE_VERIFY_FAILED", "ssl_ca_certs")
        await fails(f"{tls.url}?ssl_ca_certs={other.file}", "CERTIFICATE_VERIFY_FAILED", "ssl_ca_certs")
        await fails(f"redis://{tls.host}", "begins with rediss instead of redis")
        await fails(f"rediss://{plain.host}", "begins with redis instead of rediss")
        for kind in ("rediss+cluster://{}", "rediss+sentinel://{}/main"):
            await fails(kind.format(plain.host))
            await fails(kind.format(tls.host))


async def test_a_wrong_password_is_told_but_not_which(tmp_path: Path) -> None:
    async with (
        running(RedisServer(tmp_path / "local", "--requirepass", PASSWORD)) as local,
        running(NetworkRedisServer(tmp_path / "redis", "--requirepass", PASSWORD)) as server,
        running(SentinelServer(tmp_path / "sentinel", server, f"requirepass {PASSWORD}")) as sentinel,
    ):
        await fails(f"{local.url}?password={SECRET}", "refuses its password or user")
        await fails(server.url, "refuses", "Authentication required")
        await fails(f"redis://:{SECRET}@{server.host}", "refuses its password or user")
        await fails(f"redis://somebody:{SECRET}@{server.host}", "refuses its password or user")
        await fails(f"redis+cluster://:{SECRET}@{server.host}", "refuses its password or user")
        await fails(f"redis+sentinel://{sentinel.host}/main?sentinel_password={SECRET}", "Authentication")


async def test_a_server_that_repeats_the_password_is_not_quoted() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(f"-ERR unknown command, with args beginning with: '{SECRET}'\r\n".encode())
        await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        await fails(f"redis://:{SECRET}@127.0.0.1:{server.sockets[0].getsockname()[1]}", "unknown command")


async def test_what_is_no_redis_at_all() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for url in (f"redis://{host}", f"redis+sentinel://{host}/main", f"redis+cluster://{host}"):
            await fails(url)


async def test_a_redis_that_is_full_says_so(tmp_path: Path) -> None:
    async with running(RedisServer(tmp_path, "--maxmemory", "100kb")) as server:
        await fails(server.url, "OutOfMemory", script=ADD)


async def test_a_replica_says_that_it_is_one(tmp_path: Path) -> None:
    async with running(RedisServer(tmp_path, "--replicaof", *NOWHERE.split(":"))) as server:
        await fails(server.url, "read only replica", script=ADD)


async def test_a_redis_that_still_loads_says_so(tmp_path: Path) -> None:
    server = RedisServer(
        tmp_path, "--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"
    )
    async with running(server):
        await server.ask("EVAL", "for key = 1, 10000 do redis.call('SET', key, ('.'):rep(100)) end", "0")
        await server.ask("SAVE")
        await server.kill()
        await server.start()
        await fails(server.url, "Redis is loading the dataset in memory")


async def test_a_service_that_sentinel_does_not_know(tmp_path: Path) -> None:
    async with (
        running(NetworkRedisServer(tmp_path / "redis")) as server,
        running(SentinelServer(tmp_path / "sentinel", server)) as sentinel,
    ):
        url = f"redis+sentinel://{NOWHERE},{sentinel.host}/none"
        assert "<" not in await fails(url, "Sentinel: No master found for 'none'; ")


async def test_a_redis_is_no_cluster(tmp_path: Path) -> None:
    async with running(NetworkRedisServer(tmp_path / "redis")) as server:
        await fails(f"redis+cluster://{server.host}", "Cluster mode is not enabled")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://geheim@localhost",
        "redis+other://localhost",
        "unix+sentinel://localhost/main",
        "unix://",
        "unix://localhost/redis.sock",
        "redis://",
        "redis://:geheim@",
        "redis://localhost:0",
        "redis://localhost:65536",
        "redis://localhost:geheim",
        "redis://:geheim/geheim@localhost",
        "redis://:geheim?geheim@localhost",
        "redis://:geheim#geheim@localhost",
        "redis://::1",
        "redis://localhost/geheim",
        "redis://localhost?db=geheim",
        "redis://localhost?geheim=1",
        "redis://localhost?decode_responses=yes",
        "redis://localhost?ssl_ca_certs=/geheim",
        "redis://one,two",
        "rediss://localhost?ssl_ca_certs=/geheim",
        "rediss://localhost?ssl_check_hostname=yes&ssl_cert_reqs=some",
        "redis+sentinel://localhost",
        "redis+sentinel://localhost/",
        "redis+sentinel:///main",
        "redis+sentinel://one,,two/main",
        "redis+sentinel://one:x/main",
        "redis+sentinel://one/main/geheim",
        "redis+cluster://",
        "redis+cluster://localhost/1",
        "redis+cluster://localhost?sentinel_password=geheim",
        "rediss+cluster://localhost?ssl_password=geheim",
    ],
)
def test_a_url_that_makes_no_sense(url: str) -> None:
    with pytest.raises(
        InvalidSettingsError, match=r"^redis: .+; give --redis a URL such as redis\S+$"
    ) as caught:
        Connection(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("redis://redis.example", [("redis.example", 6379)]),
        ("REDISS://[::1]:7000/", [("::1", 7000)]),
        ("redis+sentinel://a,[fe80::1]:1,c:2/main", [("a", 26379), ("fe80::1", 1), ("c", 2)]),
        ("redis+cluster://a:1,b/", [("a", 1), ("b", 6379)]),
        ("unix:///var/run/redis.sock", []),
    ],
)
def test_hosts_and_ports(url: str, hosts: list[tuple[str, int]]) -> None:
    assert parse(url).hosts == hosts
