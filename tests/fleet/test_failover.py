"""Another Redis takes the place of one: by Sentinel's choice, or behind an endpoint that stays."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.reading.store import Invalidation
from mlflow_proxy.serving import serving
from mlflow_proxy.settings import BudgetSettings, Settings
from tests.fleet import members
from tests.fleet.endpoint import Endpoint
from tests.fleet.redis_server import SYNCHRONISED, NetworkRedisServer, SentinelServer, running, until
from tests.fleet.test_proxies import SECRET, until_condition
from tests.integration.conftest import sample
from tests.integration.support import HIT, MODEL, OWN, QUIET, Api

LIMIT = 40


@pytest.mark.parametrize("lost", ["speaks", "listens"])
async def test_who_speaks_and_listens_at_two_servers_notices(tmp_path: Path, lost: str) -> None:
    """What is left of a failover that cut one of the member's connections only."""
    wrote = Invalidation(frozenset({"model"}), files=False)
    async with (
        running(NetworkRedisServer(tmp_path / "one")) as one,
        running(NetworkRedisServer(tmp_path / "two")) as two,
        Endpoint(one) as endpoint,
        members.fleet(endpoint.url, 1) as [member],
        members.fleet(two.url, 2) as [_, other],
    ):
        endpoint.server = two

        async def cut() -> bool:
            """Cut the connection that listens, or all others."""
            listed = (await one.ask("CLIENT", "LIST", "TYPE", "normal")).decode().splitlines()
            clients = [dict(word.split("=", 1) for word in line.split()) for line in listed]
            theirs = [client for client in clients if client["cmd"] != "client|list"]
            blocked = lost == "listens"
            doomed = [each for each in theirs if ("b" in each["flags"]) is blocked]
            for each in doomed:
                await one.ask("CLIENT", "KILL", "ID", each["id"])
            return bool(doomed) and len(doomed) < len(theirs)

        await until(cut)
        while wrote not in member.forgotten:
            other.cache.announce(wrote)
            await other.cache.announced()
            await asyncio.sleep(0.01)


class Crowd:
    """Proxies of one workspace with more to ask than the budget allows."""

    def __init__(self, workspace: EmulatedWorkspace, apis: list[Api]) -> None:
        self.workspace = workspace
        self.apis = apis
        self._asked = 0

    async def busy(self, api: Api) -> None:
        """Ask what nobody asked before, for ever."""
        while True:
            self._asked += 1
            assert (await api.get(MODEL, name=f"absent-{self._asked}")).status == 404

    async def go_on(self, calls: int) -> None:
        """Wait until so many more calls have reached the workspace."""
        goal = len(self.workspace.registry_arrivals) + calls

        async def condition() -> bool:
            return len(self.workspace.registry_arrivals) >= goal

        await until(condition)

    async def share(self) -> None:
        """Wait until all are reached, and an answer that one fetches serves the others."""
        for api in self.apis:
            await until_condition(api, "reached")
        first, *others = self.apis
        self._asked += 1
        name = f"absent-{self._asked}"
        await first.get(MODEL, name=name)
        for api in others:
            while (await api.get(MODEL, name=name)).outcome != HIT:
                self._asked += 1
                name = f"absent-{self._asked}"
                await first.get(MODEL, name=name)


@asynccontextmanager
async def crowd(redis: str) -> AsyncIterator[Crowd]:
    """Serve three proxies, each with ten clients that have always something to ask."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        workspace = await enter(EmulatedWorkspace([sample()], WorkspaceOptions(limit=LIMIT, latency=0)))
        session = await enter(aiohttp.ClientSession())
        settings = Settings(
            upstream=workspace.url,
            port=0,
            shutdown_grace=0.01,
            redis=redis,
            fleet=SECRET,
            access=OWN,
            connections=QUIET,
            # More than a slow machine delays calls by on their way to the workspace.
            budget=BudgetSettings(jitter_margin=1.0),
        )
        everyone = Crowd(workspace, [Api(session, await enter(serving(settings))) for _ in range(3)])
        await everyone.share()
        clients = [asyncio.create_task(everyone.busy(api)) for api in everyone.apis for _ in range(10)]
        try:
            await everyone.go_on(LIMIT)
            yield everyone
        finally:
            for client in clients:
                client.cancel()
            ended = await asyncio.gather(*clients, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended
        assert workspace.registry_arrivals.max_in_window() <= LIMIT
        assert set(workspace.registry_arrivals.statuses()) == {404}


@asynccontextmanager
async def primary_and_replica(
    directory: Path,
) -> AsyncIterator[tuple[NetworkRedisServer, NetworkRedisServer]]:
    async with (
        running(NetworkRedisServer(directory / "one", *SYNCHRONISED)) as one,
        running(NetworkRedisServer(directory / "two", *SYNCHRONISED)) as two,
    ):
        await two.replicate(one)
        yield one, two


@pytest.mark.impatient
async def test_behind_an_endpoint_that_moves_from_the_demoted_primary(tmp_path: Path) -> None:
    async with (
        primary_and_replica(tmp_path) as (one, two),
        Endpoint(one) as endpoint,
        crowd(endpoint.url) as everyone,
    ):
        for old, new in ((one, two), (two, one)):
            await old.hand_over(new)
            await everyone.go_on(LIMIT // 2)  # some of them while the endpoint still leads to the replica
            endpoint.server = new
            await everyone.share()
            await everyone.go_on(LIMIT)
            await endpoint.until_left(old)


@pytest.mark.impatient
async def test_by_sentinel_when_the_primary_dies(tmp_path: Path) -> None:
    async with (
        primary_and_replica(tmp_path) as (one, two),
        running(SentinelServer(tmp_path / "sentinel", one)) as sentinel,
    ):

        async def replaceable() -> bool:
            return bool(await sentinel.ask("SENTINEL", "REPLICAS", "main"))

        await until(replaceable)
        async with crowd(f"redis+sentinel://{sentinel.host}/main") as everyone:
            await one.kill()
            await everyone.go_on(LIMIT)  # some of them on shares, while there is no primary
            await everyone.share()
            await everyone.go_on(LIMIT)
            assert (await two.ask("ROLE"))[0] == b"master"
