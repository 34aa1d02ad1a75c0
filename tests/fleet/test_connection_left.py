"""A Redis that is no longer the one that takes writes is left, and looked for anew."""

import asyncio
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from mlflow_proxy.errors import FleetUnavailableError
from tests.fleet.connecting import ADD, ECHO, NOWHERE, connected, until_it_fails, until_it_works
from tests.fleet.endpoint import Endpoint
from tests.fleet.redis_server import (
    SYNCHRONISED,
    ClusterServer,
    NetworkRedisServer,
    SentinelServer,
    running,
    until,
)

pytestmark = pytest.mark.impatient


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


async def test_a_silent_redis_is_left_with_all_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or each of those that lie idle would be found dead on its own, when a crowd of calls comes."""
    # A slow machine may have left the first one for being slow, a moment before it is stopped.
    monkeypatch.setattr("mlflow_proxy.fleet.connection.LOOK_AGAIN", 0.0)
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
