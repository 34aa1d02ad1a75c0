"""Several workers serve one address, share one budget and answer as one."""

import asyncio
import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from mlflow_proxy.demo.workspace import EmulatedWorkspace
from tests.certificates import Authority
from tests.fleet.redis_server import RedisServer
from tests.fleet.workers import WORKERS, Running, answered, reads, serving
from tests.integration.support import MODEL, Api, refuses


async def test_nothing_is_lost_and_the_budget_is_one(running: Running, workspace: EmulatedWorkspace) -> None:
    assert set(await asyncio.gather(*reads(running, 60))) == {404}
    assert workspace.registry_arrivals.statuses() == {404: 60}
    assert workspace.registry_arrivals.max_in_window() <= 40
    assert sum(answered(await running.metrics()).values()) == 60


async def test_every_worker_serves(running: Running) -> None:
    burst = 0
    while min(answered(await running.metrics()).values()) == 0:
        burst += 1
        assert set(await asyncio.gather(*reads(running, 10, f"burst-{burst}"))) == {404}


async def test_they_serve_several_addresses(workspace: EmulatedWorkspace, redis: RedisServer) -> None:
    own = ("--admin.host", "127.0.0.3,127.0.0.4", "--admin.port", "0")
    async with serving(workspace.url, redis.url, "--host", "127.0.0.1,127.0.0.2", *own) as running:
        first, second = running.api.url.split()
        assert first.rpartition(":")[2] == second.rpartition(":")[2]
        for url in (first, second):
            assert (await Api(running.api.session, url).get(MODEL, name="absent")).status == 404
        for url in (await running.log.until("serving"))[0]["admin"].split():
            async with running.api.session.get(url + "/-/healthz") as response:
                assert response.status == 200


async def test_connections_wait_for_workers_that_are_busy(running: Running) -> None:
    pids = (await running.pids()).values()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    host, port = running.api.url.removeprefix("http://").split(":")
    # The kernel lets all in: its queue is as long as the parent made it, not as a worker's turn.
    waiting = [(await asyncio.open_connection(host, port))[1] for _ in range(50)]
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    for writer in waiting:
        writer.close()
    assert set(await asyncio.gather(*reads(running, 10))) == {404}


async def test_workers_ask_once_for_all(workspace: EmulatedWorkspace, redis: RedisServer) -> None:
    """Also without a secret of the fleet's: they have one of their own."""
    options = ("--cache.not-found-ttl", "600", "--connections.forwarded-fields", "never")
    async with serving(workspace.url, redis.url, *options) as running:
        while not all(each["fleet"]["answers_shared"] for each in (await running.statuses()).values()):
            pass
        while min(answered(await running.metrics()).values()) == 0:
            await asyncio.gather(*(running.api.get(MODEL, name="absent") for _ in range(10)))
        assert len(workspace.registry_arrivals) == 1


@pytest.mark.parametrize(
    ("accept", "parse"),
    [("", parse_text), ("application/openmetrics-text; version=1.0.0", parse_openmetrics)],
)
async def test_metrics_are_those_of_all_workers(
    running: Running, accept: str, parse: Callable[[str], Any]
) -> None:
    await asyncio.gather(*reads(running, 10))
    while True:
        families = {family.name: family for family in parse(await running.metrics(accept))}
        workers = families.pop("mlflow_proxy_workers").samples
        assert [sample.labels for sample in workers] == [{}]
        if workers[0].value == WORKERS:  # within its second, on a machine with better things to do
            break
    for family in families.values():
        assert all("worker" in sample.labels for sample in family.samples), family.name
    limits = [sample.labels for sample in families["mlflow_proxy_budget_limit"].samples]
    for number in range(WORKERS):
        assert {"group": "registry", "worker": str(number)} in limits


async def test_status_is_that_of_each_worker(workspace: EmulatedWorkspace, redis: RedisServer) -> None:
    async with serving(workspace.url, redis.url, "--access.sharing", "auto") as running:
        workers = await running.statuses()
        assert list(workers) == ["0", "1"]
        assert len({status["fleet"]["member"] for status in workers.values()}) == WORKERS
        assert {status["upstream"] for status in workers.values()} == {workspace.url}
        while {each["upstream_kind"]["kind"] for each in workers.values()} != {"databricks"}:
            workers = await running.statuses()  # each asks for itself


async def test_a_worker_that_hangs_is_left_out(running: Running) -> None:
    hanging = (await running.pids())["1"]
    os.kill(hanging, signal.SIGSTOP)
    try:
        while "mlflow_proxy_workers 1.0" not in (text := await running.metrics()):
            pass
        assert 'worker="0"' in text
        assert 'worker="1"' not in text
    finally:
        os.kill(hanging, signal.SIGCONT)
    await running.statuses()


async def test_workers_speak_tls_and_follow_their_certificate(
    workspace: EmulatedWorkspace, redis: RedisServer, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("first")
    options = ("--tls.certificate", str(pair.certificate), "--tls.key", str(pair.key))
    async with serving(workspace.url, redis.url, *options) as running:
        assert running.api.url.startswith("https://")
        connector = aiohttp.TCPConnector(force_close=True, ssl=authority.client())
        async with aiohttp.ClientSession(connector=connector) as session:
            running.api = Api(session, running.api.url)
            assert set(await asyncio.gather(*reads(running, 10))) == {404}
            assert len(await running.pids()) == WORKERS
            authority.issue("second").copy_to(pair)
            taken = await running.log.until("changed file read again", WORKERS)
            assert {line["worker"] for line in taken} == set(range(WORKERS))
            assert set(await asyncio.gather(*reads(running, 10))) == {404}
        assert await running.end() == 0


async def test_workers_have_one_listener_for_their_own_endpoints(
    workspace: EmulatedWorkspace, redis: RedisServer
) -> None:
    options = ("--admin.host", "127.0.0.1", "--admin.port", "0", "--cache.not-found-ttl", "600")
    async with serving(workspace.url, redis.url, *options) as running:
        clients = running.api
        own = {line["admin"] for line in await running.log.until("serving", WORKERS)}
        assert len(own) == 1
        assert (await clients.call("GET", "/-/healthz")).status == 404
        running.api = Api(clients.session, own.pop())
        while not all(each["fleet"]["answers_shared"] for each in (await running.statuses()).values()):
            pass
        while min(answered(await running.metrics()).values()) == 0:
            await asyncio.gather(*(clients.get(MODEL, name="absent") for _ in range(10)))
        purged = (await running.api.call("POST", "/-/purge", {"name": "absent"})).json()
        assert purged["fleet_told"] is True
        while any(each["cache"]["entries"] for each in (await running.statuses()).values()):
            pass
        assert await running.end() == 0
        assert await refuses(running.api.url)


async def test_workers_answer_to_their_own_hosts_only(
    workspace: EmulatedWorkspace, redis: RedisServer
) -> None:
    options = ("--admin.host", "127.0.0.1", "--admin.port", "0", "--allowed-hosts", "proxy.internal")
    async with serving(workspace.url, redis.url, *options) as running:
        clients = running.api
        own = Api(clients.session, (await running.log.until("serving", WORKERS))[0]["admin"])
        statuses = {"evil.example": 403, "proxy.internal": 200, "localhost": 200}
        for host, status in statuses.items():
            for _ in range(10):  # any worker may answer
                reply = await own.call("GET", "/-/healthz", headers={"Host": host})
                assert reply.status == status, host
                reply = await clients.call("GET", MODEL, {"name": "absent"}, headers={"Host": host})
                assert reply.status == (404 if status == 200 else status), host
        assert await running.end() == 0


@pytest.mark.parametrize("replaced", [True, False])
async def test_the_last_client_is_shut_out_of_every_worker(
    workspace: EmulatedWorkspace, redis: RedisServer, tmp_path: Path, replaced: bool
) -> None:
    clients, other, token = tmp_path / "clients.toml", tmp_path / "other.toml", tmp_path / "token"
    token.write_text("dapi-of-the-principal")
    known = f'[clients]\na = "sha256:{hashlib.sha256(b"token-a").hexdigest()}"\n'
    clients.write_text(known)

    def write(text: str) -> None:
        if replaced:
            other.write_text(text)
            other.replace(clients)
        else:
            clients.write_text(text)

    options = (
        "--access.sharing",
        "service",
        f"--access.token-file={token}",
        f"--access.clients-file={clients}",
    )
    async with serving(workspace.url, redis.url, *options) as running:

        async def ask_until(event: str) -> set[int]:
            """Ask until every worker has said so; return what is answered after that."""
            said = asyncio.create_task(running.log.until(event, WORKERS))
            while not said.done():
                await asyncio.gather(*reads(running, 10))
            return set(await asyncio.gather(*reads(running, 10)))

        assert set(await asyncio.gather(*reads(running, 10))) == {404}
        write("")
        assert await ask_until("changed file cannot be used; what it said before stays in force") == {404}
        write("[clients]\n")
        assert await ask_until("no client is named, so that all clients are refused") == {401}
        assert await running.end() == 0
