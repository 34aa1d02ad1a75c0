"""A proxy that may open fewer files than it would: it serves those it can, and blames nobody else."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mlflow_proxy.demo.workspace import EmulatedWorkspace
from mlflow_proxy.settings import ConnectionSettings, TlsSettings
from tests.certificates import Authority
from tests.descriptors import no_descriptors_left
from tests.integration.support import HIT, MODEL, Api, RawClient, Upstream, proxied, raw, settle
from tests.integration.test_broken_log import Running, serving

FEW = "ulimit -n 80; {}"
"""Of 80 descriptors a proxy that serves nothing yet has 8 open. They carry 20 clients."""
WAITING = "clients' connections have to wait: none can be accepted at the moment"


class Log:
    """What a proxy has written so far."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def lines(self) -> list[dict[str, Any]]:
        whole = self._path.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def said(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]

    def alarms(self) -> set[str]:
        return {line["event"] for line in self.lines if line["level"] in {"warning", "error"}}


@asynccontextmanager
async def logged(upstream: str, path: Path, how: str = "{}") -> AsyncIterator[tuple[Running, Log]]:
    """Start a proxy; yields it, with an API that keeps its connections, and what it says."""
    with (path / "log").open("wb") as file:
        async with (
            serving(upstream, how, stderr=file.fileno()) as running,
            aiohttp.ClientSession() as kept,
        ):
            yield Running(running.process, Api(kept, running.api.url)), Log(path / "log")


async def refused(clients: Sequence[RawClient]) -> list[str]:
    """Return what those are told whose connections were one too many."""
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(client.rest()) for client in clients]
    replies = [each.result() for each in asked]
    assert {reply.status for reply in replies} == {503}
    assert all(int(reply.all("Retry-After")[0]) >= 1 for reply in replies)
    return [reply.json()["message"] for reply in replies]


async def test_clients_are_as_many_as_descriptors_carry(workspace: EmulatedWorkspace, tmp_path: Path) -> None:
    async with logged(workspace.url, tmp_path, FEW) as (running, log), AsyncExitStack() as stack:
        api = running.api
        assert (await api.get(MODEL, name="m")).status == 200  # and is connected from now on
        said = log.said("fewer connections than the settings say: the limit of open files carries no more")
        names = ("allowed", "max_clients", "max_connections")
        assert [[line[name] for name in names] for line in said] == [[80, 20, 10]]
        assert "ulimit" in said[0]["remedy"]
        idle = [await stack.enter_async_context(await RawClient.connect(api.url)) for _ in range(300)]
        messages = set(await refused(idle[19:]))
        assert len(messages) == 1
        assert "20 connections are open" in messages.pop()
        assert (await api.get(MODEL, name="m")).outcome == HIT
        assert (await api.get(MODEL, name="other")).status == 404, "the workspace is called as ever"
        assert await api.metric("mlflow_proxy_circuit_open") == 0
        assert log.alarms() == {said[0]["event"]}
        for each in idle:
            await each.close()
        while (await raw(api.url, "GET", "/-/healthz")).status != 200:
            pass  # those who left may not have been noticed yet


async def test_own_endpoints_have_room_of_their_own(workspace: EmulatedWorkspace, tmp_path: Path) -> None:
    own = FEW + " --admin.host 127.0.0.1 --admin.port 0"
    async with logged(workspace.url, tmp_path, own) as (running, log), AsyncExitStack() as stack:
        [started] = log.said("serving")
        idle = [await stack.enter_async_context(await RawClient.connect(started["url"])) for _ in range(100)]
        await refused(idle[60:])
        async with running.api.session.get(started["admin"] + "/-/healthz") as response:
            assert response.status == 200
        async with running.api.session.get(started["admin"] + "/-/readyz") as response:
            assert response.status == 200


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_that_none_is_left_is_not_the_workspaces_failure(
    workspace: EmulatedWorkspace, tmp_path: Path, name: str
) -> None:
    upstream = workspace.url.replace("127.0.0.1", name)
    async with logged(upstream, tmp_path) as (running, log), AsyncExitStack() as stack:
        api = running.api
        assert await running.healthy()  # and is connected from now on
        loop = asyncio.get_running_loop()
        with no_descriptors_left(running.process.pid):
            waiting = [await stack.enter_async_context(await RawClient.connect(api.url)) for _ in range(50)]
            for each in waiting:
                await each.send(b"GET /-/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            began = loop.time()
            # For longer than failures of the workspace must last to open its circuit, and than accepting
            # pauses.
            while loop.time() - began < 3.0:
                reply = await api.get(MODEL, name="m")
                assert reply.status == 503
                assert "ulimit" in reply.json()["message"]
                assert "open no connection to the workspace" in reply.json()["message"]
                assert int(reply.headers["Retry-After"]) >= 1
            assert await api.metric("mlflow_proxy_circuit_open") == 0
            async with api.session.get(api.url + "/-/readyz") as response:
                said = await response.json()
                assert (response.status, said["circuit"]) == (503, "closed")
                assert "ulimit" in said["reason"]
            assert [line["times"] for line in log.said(WAITING)] == [1]
            assert not workspace.arrivals
        assert {(await each.rest()).status for each in waiting} == {200}
        assert (await api.get(MODEL, name="m")).status == 200
        assert log.alarms() == {WAITING}


async def test_handshakes_take_descriptors_too(upstream: Upstream, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("proxy")
    tls = TlsSettings(certificate=str(pair.certificate), key=str(pair.key))
    connections = ConnectionSettings(max_clients=2)
    async with proxied(upstream.url, connections=connections, tls=tls) as url, AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(await RawClient.connect(url)) for _ in range(200)]
        ended = [asyncio.create_task(each.rest()) for each in silent]
        while sum(each.done() for each in ended) < 182:
            await settle()
        assert sum(each.done() for each in ended) == 182
        assert {each.result().line for each in ended if each.done()} == {""}
        for each in silent:
            await each.close()
        await asyncio.wait(ended)
        trusting = aiohttp.TCPConnector(ssl=authority.client())
        async with aiohttp.ClientSession(connector=trusting) as session:
            while True:
                try:
                    async with session.get(url + "/-/healthz") as response:
                        assert response.status == 200
                        break
                except aiohttp.ClientError:
                    await settle()  # those that left may not have been noticed yet
