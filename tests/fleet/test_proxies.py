"""Whole proxies that share a Redis, in front of a workspace that enforces its limit."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from mlflow_proxy.demo.answers import Answer
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.fleet.shared_cache import SharedCache
from mlflow_proxy.serving import serving
from mlflow_proxy.settings import BudgetSettings, FleetSettings, Settings
from mlflow_proxy.upstream.retry import FAILURES
from tests.fleet.redis_server import RedisServer
from tests.integration.conftest import sample
from tests.integration.support import (
    COLLAPSED,
    HIT,
    LIST,
    MODEL,
    MUCH,
    OWN,
    QUIET,
    SIGN,
    STORED,
    Api,
    Inbound,
    Upstream,
    first,
    settle,
)


@pytest.mark.parametrize(
    ("secret", "condition"), [("", "not used: no limits and no fleet.secret"), ("0" * 32, "reached")]
)
async def test_a_fleet_without_limits_has_no_budget(redis: RedisServer, secret: str, condition: str) -> None:
    settings = Settings(
        upstream="http://127.0.0.1:1",
        preset="open-source",
        port=0,
        shutdown_grace=0.01,
        redis=redis.url,
        fleet=FleetSettings(secret=SecretStr(secret)),
    )
    async with serving(settings) as url, aiohttp.ClientSession() as session:
        while not (await readiness(Api(session, url)))["redis"].startswith(condition):
            await settle()
        async with session.get(url + "/-/status.json") as response:
            told = (await response.json())["fleet"]
        assert (told["members"], told["alone"], told["answers_shared"]) == (1, False, bool(secret))
        async with session.get(url + "/-/metrics") as response:
            assert "mlflow_proxy_fleet_members 1.0" in await response.text()


async def test_three_proxies_keep_to_one_limit(redis: RedisServer) -> None:
    async with AsyncExitStack() as stack:
        workspace = await stack.enter_async_context(
            EmulatedWorkspace([sample()], WorkspaceOptions(latency=0))
        )
        session = await stack.enter_async_context(aiohttp.ClientSession())
        proxies = [
            Api(
                session,
                await stack.enter_async_context(
                    serving(
                        Settings(
                            upstream=workspace.url,
                            port=0,
                            shutdown_grace=0.01,
                            redis=redis.url,
                            # More than a slow machine delays calls by on their way to the workspace.
                            budget=BudgetSettings(jitter_margin=1.0),
                        )
                    )
                ),
            )
            for _ in range(3)
        ]
        replies = await asyncio.gather(
            *(api.get(MODEL, name=f"m{number}") for api in proxies for number in range(20))
        )
        assert {reply.status for reply in replies} == {404}
        assert workspace.registry_arrivals.statuses() == {404: 60}
        assert workspace.registry_arrivals.max_in_window() <= 40
        async with session.get(proxies[0].url + "/-/status.json") as response:
            status = await response.json()
        assert (status["fleet"]["members"], status["fleet"]["alone"]) == (3, False)
        assert await proxies[0].metric("mlflow_proxy_fleet_members") == 3


async def test_one_workspace_in_two_spellings_is_one_fleet(redis: RedisServer) -> None:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        workspace = await enter(EmulatedWorkspace([sample()], WorkspaceOptions(latency=0)))
        session = await enter(aiohttp.ClientSession())
        apis = []
        for spelling in ("LOCALHOST", "localhost"):
            settings = Settings(
                upstream=workspace.url.replace("127.0.0.1", spelling),
                port=0,
                shutdown_grace=0.01,
                redis=redis.url,
                fleet=SECRET,
                access=OWN,
                connections=QUIET,
                budget=BudgetSettings(jitter_margin=1.0),
            )
            apis.append(Api(session, await enter(serving(settings))))
        for api in apis:
            await api.until_metric("mlflow_proxy_fleet_members", 2)
            await until_condition(api, "reached")
        replies = await asyncio.gather(
            *(
                api.get(MODEL, name=f"m{index}-{number}")
                for index, api in enumerate(apis)
                for number in range(30)
            )
        )
        assert {reply.status for reply in replies} == {404}
        assert workspace.registry_arrivals.statuses() == {404: 60}
        assert workspace.registry_arrivals.max_in_window() <= 40
        # What one has fetched serves the other: partitions, names and seals are of the workspace too.
        assert {(await api.get(MODEL, name="m1-0")).outcome for api in apis} == {HIT}
        assert len(workspace.registry_arrivals) == 60


async def test_a_proxy_serves_without_its_redis(tmp_path: Path) -> None:
    async with (
        EmulatedWorkspace([sample()], WorkspaceOptions(latency=0)) as workspace,
        serving(
            Settings(
                upstream=workspace.url, port=0, shutdown_grace=0.01, redis=f"unix://{tmp_path}/none.sock"
            )
        ) as url,
        aiohttp.ClientSession() as session,
    ):
        api = Api(session, url)
        assert (await api.get(MODEL, name="m")).status == 200
        assert await api.metric("mlflow_proxy_fleet_alone") == 1


# -- one cache -------------------------------------------------------------------------------------

SECRET = FleetSettings(secret=SecretStr("a secret of the whole fleet"))


@asynccontextmanager
async def fleet(
    redis: RedisServer, workspace: EmulatedWorkspace | Upstream, count: int = 2
) -> AsyncIterator[list[Api]]:
    """Serve proxies that share answers; a client for each."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        proxies = []
        for _ in range(count):
            settings = Settings(
                upstream=workspace.url,
                port=0,
                shutdown_grace=0.01,
                redis=redis.url,
                fleet=SECRET,
                access=OWN,
                connections=QUIET,
            )
            proxies.append(Api(session, await stack.enter_async_context(serving(settings))))
        for api in proxies:
            await api.until_metric("mlflow_proxy_fleet_cache_shared", 1)
        yield proxies


@pytest.fixture
async def workspace() -> AsyncIterator[EmulatedWorkspace]:
    async with EmulatedWorkspace([sample()], WorkspaceOptions(limit=MUCH, latency=0)) as workspace:
        yield workspace


async def test_a_failed_call_is_everyones(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who waited for it at other proxies do not make it again, one after the other."""
    waiting = 0
    until = SharedCache._until

    async def counted(self: SharedCache, *whom: Any) -> None:
        nonlocal waiting
        waiting += 1
        await until(self, *whom)

    monkeypatch.setattr(SharedCache, "_until", counted)
    gate = asyncio.Event()

    async def dead(inbound: Inbound) -> None:
        await gate.wait()
        inbound.reset()

    async with Upstream(dead) as upstream, fleet(redis, upstream, 3) as proxies:
        calls = [asyncio.create_task(api.get(MODEL, name="m")) for api in proxies]
        while waiting < 2:
            await settle()
        gate.set()
        replies = await asyncio.gather(*calls)
        assert {reply.status for reply in replies} == {503}
        assert len(upstream.seen) <= 1 + FAILURES


DOWNLOAD = "/api/2.0/mlflow-artifacts/artifacts/mlflow-proxy/m/1/MLmodel"
FILE = {"name": "m", "version": "1", "path": "MLmodel"}


async def test_all_proxies_together_ask_once(redis: RedisServer, workspace: EmulatedWorkspace) -> None:
    async with fleet(redis, workspace, 3) as proxies:
        questions = [(LIST, {"name": "m", "version": "1"}), (SIGN, FILE), (MODEL, {"name": "m"})]
        replies = await asyncio.gather(
            *(api.get(path, **asked) for _ in range(5) for api in proxies for path, asked in questions)
        )
        assert {reply.status for reply in replies} == {200}
        assert len({reply.body for reply in replies}) == len(questions)
        assert len(workspace.registry_arrivals) == workspace.registry_arrivals.distinct() == len(questions)


async def test_each_answer_says_how_it_came(redis: RedisServer, workspace: EmulatedWorkspace) -> None:
    async with fleet(redis, workspace, 3) as (one, two, three):
        workspace.hold()
        leading = asyncio.create_task(one.get(SIGN, **FILE))
        await workspace.until(lambda arrivals: len(arrivals) == 1)
        following = asyncio.create_task(two.get(SIGN, **FILE))
        await two.until_metric("mlflow_proxy_flights", 1)
        workspace.release()
        assert ((await leading).outcome, (await following).outcome) == (STORED, COLLAPSED)
        reply = await three.get(SIGN, **FILE)
        assert (reply.outcome, reply.headers["Age"]) == (HIT, "0")
        assert reply.body == (await leading).body
        assert await three.metric("mlflow_proxy_fleet_answers_total", how="hit") == 1
        assert await two.metric("mlflow_proxy_fleet_answers_total", how="joined") == 1


async def test_no_answer_crosses_credentials(redis: RedisServer, workspace: EmulatedWorkspace) -> None:
    async with fleet(redis, workspace) as (one, two):
        await one.get(SIGN, token="a", **FILE)
        assert (await two.get(SIGN, token="b", **FILE)).outcome == STORED
        assert len(workspace.registry_arrivals) == 2


async def test_a_write_through_one_proxy_is_seen_through_all(
    redis: RedisServer, workspace: EmulatedWorkspace
) -> None:
    async with fleet(redis, workspace) as (one, two):
        for number in range(5):
            for api in (one, two):
                await api.get(MODEL, name="m")
            writer = (one, two)[number % 2]
            tag = {"name": "m", "key": "k", "value": str(number)}
            reply = await writer.call("POST", "registered-models/set-tag", tag)
            assert reply.status == 200
            # At once through the same proxy, and through another as soon as it has heard.
            assert b'"%d"' % number in (await writer.get(MODEL, name="m")).body
            other = (two, one)[number % 2]
            while b'"%d"' % number not in (await other.get(MODEL, name="m")).body:
                await settle()


async def test_a_refusal_is_for_those_who_waited_and_for_nobody_later(
    redis: RedisServer, workspace: EmulatedWorkspace
) -> None:
    async with fleet(redis, workspace) as (one, two):
        workspace.hold()
        workspace.fault = first(1, Answer(403, b'{"error_code": "PERMISSION_DENIED"}'))
        leading = asyncio.create_task(one.get(SIGN, **FILE))
        await workspace.until(lambda arrivals: len(arrivals) == 1)
        following = asyncio.create_task(two.get(SIGN, **FILE))
        await two.until_metric("mlflow_proxy_flights", 1)
        workspace.release()
        assert (await leading).status == 403
        await following
        assert (await two.get(SIGN, **FILE)).status == 200


async def test_a_signed_url_that_storage_refuses_is_dropped_for_all(
    redis: RedisServer, workspace: EmulatedWorkspace
) -> None:
    async with fleet(redis, workspace) as (one, two):
        await one.get(SIGN, **FILE)
        workspace.storage.fault = first(1, Answer(403, b"<Error/>"))
        for api, calls in ((two, 2), (one, 2)):
            assert (
                await api.call("GET", "/api/2.0/mlflow-artifacts/artifacts/mlflow-proxy/m/1/MLmodel")
            ).status == 200
            assert len(workspace.registry_arrivals.to(SIGN)) == calls


async def test_a_purge_is_heard_by_all(redis: RedisServer, workspace: EmulatedWorkspace) -> None:
    async with fleet(redis, workspace) as (one, two):
        for api in (one, two):
            await api.get(SIGN, **FILE)
        assert len(workspace.registry_arrivals) == 1
        reply = await one.call("POST", "/-/purge", {"name": "m"})
        assert reply.json() == {"name": "m", "dropped": 1, "fleet_told": True}
        while await two.metric("mlflow_proxy_cache_entries"):
            await settle()
        # Nor is it left in Redis.
        assert (await two.get(SIGN, **FILE)).outcome == STORED
        assert (await one.get(SIGN, **FILE)).outcome == HIT
        assert len(workspace.registry_arrivals) == 2


@pytest.mark.impatient
async def test_a_purge_without_redis_is_told_when_it_is_back(
    redis: RedisServer, workspace: EmulatedWorkspace
) -> None:
    async with fleet(redis, workspace) as (one, two):
        for api in (one, two):
            await api.get(SIGN, **FILE)
        redis.stop()
        reply = await one.call("POST", "/-/purge", {"name": "m"})
        assert reply.json() == {"name": "m", "dropped": 1, "fleet_told": False}
        redis.resume()
        while await two.metric("mlflow_proxy_cache_entries"):
            await settle()


async def test_the_loss_of_redis_is_a_line_for_the_budget_and_one_for_the_answers(
    redis: RedisServer, workspace: EmulatedWorkspace
) -> None:
    with capture_logs() as lines:
        async with fleet(redis, workspace, 1) as (one,):
            await one.until_metric("mlflow_proxy_fleet_alone", 0)
            await redis.kill()
            await one.until_metric("mlflow_proxy_fleet_alone", 1)
            await one.until_metric("mlflow_proxy_fleet_cache_shared", 0)
            ready = await readiness(one)
            assert (ready["status"], ready["redis"]) == (
                "ready",
                "not reached: on its own share of the budget, answers not shared",
            )
            await redis.start()
            await until_condition(one, "reached")
    for what in ("the budget is", "answers are"):
        assert [line.removeprefix(what).split()[0] for line in said(lines, what)] == [
            "shared",
            "not",
            "shared",
        ]


async def test_a_user_who_may_not_listen_shares_the_budget_and_no_answers(
    redis: RedisServer, workspace: EmulatedWorkspace
) -> None:
    await redis.ask("ACL", "SETUSER", "deaf", "on", ">word", "~*", "+@all", "-xread")

    async def refusals() -> int:
        statistics = await redis.ask("INFO", "commandstats")
        return int(statistics.get("cmdstat_xread", {}).get("rejected_calls", 0))

    with capture_logs() as lines:
        async with alone(redis.url.replace("unix://", "unix://deaf:word@"), workspace) as api:
            while await refusals() < 4:
                await settle()
            assert (await readiness(api))["redis"] == "reached for the budget: answers not shared"
            assert "xread" in (await told(api))["why_answers_not_shared"]
            assert (await api.get(MODEL, name="m")).status == 200
            await redis.ask("ACL", "SETUSER", "deaf", "+xread")
            await until_condition(api, "reached")
    assert said(lines, "answers are") == [
        "answers are not shared with other proxies",
        "answers are shared with other proxies",
    ]
    assert said(lines, "the budget is") == ["the budget is shared with other proxies"]


async def test_the_reason_of_a_loss_is_the_one_of_now(
    redis: RedisServer, workspace: EmulatedWorkspace
) -> None:
    async with alone(redis.url, workspace) as api:
        await until_condition(api, "reached")
        # A Redis that is full takes no answers any more, but the budget may have what it needs.
        await redis.ask("CONFIG", "SET", "maxmemory", "100kb")
        await until_condition(api, "reached for the budget: answers not shared")
        assert "OutOfMemory" in (await told(api))["why_answers_not_shared"]
        await redis.ask("ACL", "SETUSER", "default", "-evalsha")
        await until_condition(api, "not reached: on its own share of the budget, answers not shared")
        for what in ("why_alone", "why_answers_not_shared"):
            while "evalsha" not in (await told(api))[what]:
                await settle()
        await redis.ask("ACL", "SETUSER", "default", "+evalsha", "-hset")
        for what in ("why_alone", "why_answers_not_shared"):
            while "evalsha" in (await told(api))[what]:
                await settle()
        await redis.ask("CONFIG", "SET", "maxmemory", "0")
        await redis.ask("ACL", "SETUSER", "default", "+hset")
        await until_condition(api, "reached")
        status = await told(api)
        assert (status["why_alone"], status["why_answers_not_shared"]) == ("", "")


@asynccontextmanager
async def alone(url: str, workspace: EmulatedWorkspace) -> AsyncIterator[Api]:
    """Serve one member of a fleet, as soon as it runs."""
    settings = Settings(
        upstream=workspace.url,
        port=0,
        shutdown_grace=0.01,
        redis=url,
        fleet=SECRET,
        access=OWN,
        connections=QUIET,
    )
    async with serving(settings) as served, aiohttp.ClientSession() as session:
        yield Api(session, served)


async def until_condition(api: Api, condition: str) -> None:
    while (await readiness(api))["redis"] != condition:
        await settle()


async def told(api: Api) -> dict[str, Any]:
    async with api.session.get(api.url + "/-/status.json") as response:
        fleet: dict[str, Any] = (await response.json())["fleet"]
    return fleet


def said(lines: Sequence[Mapping[str, Any]], what: str) -> list[str]:
    """Return what the log says of the budget or of answers in Redis."""
    events = [line["event"].removeprefix("Redis: ") for line in lines]
    return [event.partition(",")[0] for event in events if event.startswith(what)]


async def readiness(api: Api) -> dict[str, str]:
    async with api.session.get(api.url + "/-/readyz") as response:
        body: dict[str, str] = await response.json()
    return body
