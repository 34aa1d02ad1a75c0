"""Several workers of one proxy, as the processes that a user starts."""

import asyncio
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from tests.certificates import Authority
from tests.fleet.redis_server import RedisServer
from tests.integration.support import MODEL, MUCH, Api, count, refuses, settle
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
WORKERS = 2


class Log:
    """What the processes of a proxy say, until the last of them has ended: the parent or any worker."""

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self.lines: list[dict[str, Any]] = []
        self._changed = asyncio.Condition()
        self.ended = asyncio.create_task(self._read(stream))

    async def until(self, event: str, times: int = 1) -> list[dict[str, Any]]:
        """Wait until it has been said so often; the test's time-out is the limit."""

        def said() -> list[dict[str, Any]]:
            return [line for line in self.lines if line.get("event") == event]

        async with self._changed:
            await self._changed.wait_for(lambda: len(said()) >= times or {} in self.lines)
        assert len(said()) >= times, self.lines
        return said()

    async def _read(self, stream: asyncio.StreamReader) -> None:
        try:
            async for line in stream:
                await self._add(json.loads(line))
        finally:
            await self._add({})

    async def _add(self, line: dict[str, Any]) -> None:
        async with self._changed:
            self.lines.append(line)
            self._changed.notify_all()


@dataclass
class Running:
    """A proxy that was started."""

    process: asyncio.subprocess.Process
    log: Log
    api: Api

    async def metrics(self, accept: str = "") -> str:
        async with self.api.session.get(self.api.url + "/-/metrics", headers={"Accept": accept}) as response:
            assert response.status == 200
            return await response.text()

    async def statuses(self) -> dict[str, dict[str, Any]]:
        """Return each worker's own status, once all answer."""
        while True:
            async with self.api.session.get(self.api.url + "/-/status.json") as response:
                workers: dict[str, dict[str, Any]] = (await response.json())["workers"]
            if len(workers) == WORKERS:
                return workers

    async def pids(self) -> dict[str, int]:
        """Return the process of each worker."""
        return {
            number: int(status["fleet"]["member"].split(":")[1])
            for number, status in (await self.statuses()).items()
        }

    async def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal to the parent; returns its exit status once every process has ended."""
        self.process.send_signal(number)
        await self.log.ended
        return await self.process.wait()


QUIET = {
    "MLFLOW_PROXY_ACCESS__SHARING": "credential",
    "MLFLOW_PROXY_CONNECTIONS__FORWARDED_FIELDS": "never",
}
"""Settings of workers that ask the workspace nothing of their own accord: tests count what arrives there."""


def command(upstream: str, *options: str) -> tuple[str, ...]:
    serve = ("serve", "--upstream", upstream, "--port", "0", "--log-format", "json")
    return (sys.executable, "-m", "mlflow_proxy", *serve, "--workers", str(WORKERS), *options)


@asynccontextmanager
async def serving(upstream: str, redis: str, *options: str) -> AsyncIterator[Running]:
    """Start it and wait until every worker serves; nothing of it is left."""
    process = await asyncio.create_subprocess_exec(
        *command(upstream, "--redis", redis, *options),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), **QUIET},
        start_new_session=True,  # so that all of it can be reached, like by Ctrl-C
    )
    assert process.stderr is not None
    log = Log(process.stderr)
    # A connection for each request, so that any worker may get it.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        try:
            url = (await log.until("serving", WORKERS))[0]["url"]
            yield Running(process, log, Api(session, url))
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await log.ended
            await process.wait()


@pytest.fixture
async def workspace() -> AsyncIterator[EmulatedWorkspace]:
    async with EmulatedWorkspace([], WorkspaceOptions(limit=MUCH, latency=0)) as workspace:
        yield workspace


@pytest.fixture
async def running(workspace: EmulatedWorkspace, redis: RedisServer) -> AsyncIterator[Running]:
    # The margin is as wide as can be: what a slow machine delays must not look like two budgets.
    async with serving(workspace.url, redis.url, "--budget.jitter-margin", "1") as running:
        yield running


def reads(running: Running, number: int, prefix: str = "absent") -> list["asyncio.Task[int]"]:
    """Begin so many distinct reads of the registry, each over a connection of its own."""

    async def one(name: str) -> int:
        return (await running.api.get(MODEL, name=name)).status

    return [asyncio.create_task(one(f"{prefix}-{each}")) for each in range(number)]


def answered(text: str) -> dict[str, float]:
    """Return how many requests each worker has answered."""
    found: dict[str, float] = dict.fromkeys(map(str, range(WORKERS)), 0.0)
    for family in parse_text(text):
        for sample in family.samples:
            if sample.name == "mlflow_proxy_requests_total":
                found[sample.labels["worker"]] += sample.value
    return found


# -- serving -------------------------------------------------------------------------------------------


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


# -- what they say of themselves -----------------------------------------------------------------------


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


# -- https and a listener for their own endpoints ------------------------------------------------------


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


# -- the end -------------------------------------------------------------------------------------------


async def test_stopping_finishes_what_is_in_flight(running: Running, workspace: EmulatedWorkspace) -> None:
    workspace.hold()
    calls = reads(running, 20)
    await workspace.until(count(20))
    end = asyncio.create_task(running.end())
    await running.log.until("stopping", WORKERS)
    assert not end.done()
    workspace.release()
    assert set(await asyncio.gather(*calls)) == {404}
    assert await end == 0
    assert await refuses(running.api.url)
    assert "error" not in {line.get("level") for line in running.log.lines}


async def test_no_one_is_let_in_while_stopping(running: Running, workspace: EmulatedWorkspace) -> None:
    workspace.hold()
    calls = reads(running, 1)
    await workspace.until(count(1))
    end = asyncio.create_task(running.end())
    await running.log.until("stopping", WORKERS)
    while not await refuses(running.api.url):
        pass  # a worker says so before it closes its socket
    assert not end.done()
    workspace.release()
    assert [await call for call in calls] == [404]
    assert await end == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
async def test_control_c_and_the_end_of_the_terminal_stop_them_quietly(
    running: Running, number: signal.Signals
) -> None:
    os.killpg(running.process.pid, number)
    await running.log.ended
    assert await running.process.wait() == 0
    assert "error" not in {line.get("level") for line in running.log.lines}


async def test_a_worker_that_is_killed_is_replaced(running: Running) -> None:
    before = await running.pids()
    os.kill(before["1"], signal.SIGKILL)
    [death] = await running.log.until("worker died")
    assert (death["worker"], death["pid"], death["status"]) == (1, before["1"], -signal.SIGKILL)
    assert set(await asyncio.gather(*reads(running, 10, "without"))) == {404}
    assert (await running.log.until("serving", WORKERS + 1))[-1]["worker"] == 1
    after = await running.pids()
    assert after["0"] == before["0"]
    assert after["1"] != before["1"]
    assert set(await asyncio.gather(*reads(running, 10, "with"))) == {404}
    assert await running.end() == 0


async def test_workers_do_not_outlive_their_parent(running: Running) -> None:
    assert await running.end(signal.SIGKILL) == -signal.SIGKILL
    assert await refuses(running.api.url)


async def test_a_log_that_nothing_reads_holds_up_no_process(
    workspace: EmulatedWorkspace, redis: RedisServer
) -> None:
    """Whatever waited for a line would hang: the test's time-out is the limit."""
    port = free_port()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    process = await asyncio.create_subprocess_exec(
        *command(workspace.url, "--redis", redis.url, "--port", str(port)),
        stderr=writer,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    os.close(writer)
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        running = Running(process, Log(asyncio.StreamReader()), Api(session, f"http://127.0.0.1:{port}"))
        try:
            while await refuses(running.api.url):
                await settle()
            before = await running.pids()
            assert set(await asyncio.gather(*reads(running, 10))) == {404}
            os.kill(before["1"], signal.SIGKILL)
            while (await running.pids())["1"] == before["1"]:
                await settle()
            process.terminate()
            assert await process.wait() == 0
        finally:
            running.log.ended.cancel()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    os.close(reader)


# -- what keeps them from starting ---------------------------------------------------------------------


def refused(*options: str) -> str:
    """Return the one line that it ends with."""
    done = subprocess.run(
        [*command("http://workspace.example"), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refused("--redis", "redis://127.0.0.1", "--port", port)
    assert line == f"mlflow-proxy: port: {port} is already in use on 127.0.0.1; choose another --port\n"


def test_a_port_for_their_own_endpoints_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refused("--redis", "redis://127.0.0.1", "--admin.host", "127.0.0.1", "--admin.port", port)
    assert line.startswith(f"mlflow-proxy: admin.port: {port} is already in use on 127.0.0.1")


def test_files_for_tls_that_are_wrong_are_told_once() -> None:
    line = refused("--redis", "redis://127.0.0.1", "--tls.certificate", "/absent", "--tls.key", "/absent")
    assert line.startswith(
        "mlflow-proxy: tls.certificate: /absent cannot be read (No such file or directory)"
    )


def test_workers_without_a_redis() -> None:
    assert re.fullmatch(r"mlflow-proxy: workers: .*--redis.*; set --workers, .*\n", refused())


def test_what_no_worker_could_serve_with_is_told_once() -> None:
    assert "give --redis a URL such as" in refused("--redis", "http://no-redis")
