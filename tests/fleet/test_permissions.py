"""What a member's user in Redis has to be allowed: all that ``deploy/redis.acl`` says, and no more."""

import asyncio
import re
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from mlflow_proxy.demo.answers import Answer
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.errors import FleetUnavailableError
from mlflow_proxy.fleet.connection import Connection
from mlflow_proxy.serving import serving
from mlflow_proxy.settings import BudgetSettings, CacheSettings, Settings
from tests.fleet.redis_server import (
    ClusterServer,
    NetworkRedisServer,
    RedisServer,
    SentinelServer,
    running,
)
from tests.fleet.test_proxies import SECRET, until_condition
from tests.integration.conftest import sample
from tests.integration.support import COLLAPSED, HIT, MODEL, MUCH, OWN, QUIET, SIGN, Api

USER = (Path(__file__).resolve().parents[2] / "deploy" / "redis.acl").read_text().strip()
NAME, PASSWORD = "mlflow-proxy", "CHANGE-THIS"
ALLOWED = set(re.findall(r" \+([a-z|]+)", USER))
KEY = "mlflow-proxy:{test}"
FILE = {"name": "m", "version": "1", "path": "MLmodel"}

OTHER_DATABASE = ["+select"]
CLUSTER = ["+cluster|slots", "+command"]
SENTINEL = ["+sentinel|masters"]
"""What those need beside it who do not use one server's database 0; Sentinels have users of their own."""


async def test_budget_and_cache_work_with_what_is_listed_and_run_all_of_it(tmp_path: Path) -> None:
    """A script that runs a command which its user may not run fails: so none can be left out."""
    users = tmp_path / "users.acl"
    users.write_text(USER)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        redis = await enter(running(RedisServer(tmp_path / "redis", "--aclfile", str(users))))
        workspace = await enter(EmulatedWorkspace([sample()], WorkspaceOptions(limit=MUCH, latency=0)))
        session = await enter(aiohttp.ClientSession())
        settings = Settings(
            upstream=workspace.url,
            port=0,
            shutdown_grace=0.01,
            redis=redis.url.replace("unix://", f"unix://{NAME}:{PASSWORD}@"),
            fleet=SECRET,
            access=OWN,
            connections=QUIET,
            budget=BudgetSettings(jitter_margin=1.0),
            cache=CacheSettings(mutable_ttl=0),
        )
        members = await enter(AsyncExitStack())
        serve = members.enter_async_context
        one, two = [Api(session, await serve(serving(settings))) for _ in range(2)]
        for api in (one, two):
            await until_condition(api, "reached")

        # One flight whose answer cannot be kept, and one whose answer can.
        workspace.hold()
        leading = asyncio.create_task(one.get(MODEL, name="m"))
        await workspace.until(lambda arrivals: len(arrivals.to(MODEL)) == 1)
        following = asyncio.create_task(two.get(MODEL, name="m"))
        await two.until_metric("mlflow_proxy_flights", 1)
        workspace.release()
        assert (await leading).status == 200
        assert (await following).outcome == COLLAPSED
        assert (await one.get(SIGN, **FILE)).status == 200
        assert (await two.get(SIGN, **FILE)).outcome == HIT

        # A write, and a crowd that is refused once: a 429 has to be told as well.
        tag = {"name": "m", "key": "k", "value": "v"}
        assert (await one.call("POST", "registered-models/set-tag", tag)).status == 200
        refusals = iter([Answer(429, b'{"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "slow down"}')])
        workspace.fault = lambda _: next(refusals, None)
        crowd = (api.get(MODEL, name=f"absent-{number}") for api in (one, two) for number in range(30))
        assert {reply.status for reply in await asyncio.gather(*crowd)} == {404}
        assert workspace.registry_arrivals.statuses()[429] == 1
        for api in (one, two):
            await until_condition(api, "reached")
        await members.aclose()  # they take leave

        assert await redis.ask("ACL", "LOG") == []
        ran = {name.removeprefix("cmdstat_") for name in await redis.ask("INFO", "commandstats")}
        assert ran >= ALLOWED, "listed and not needed"


@pytest.mark.parametrize("database", ["", "/3"])
async def test_one_server(tmp_path: Path, database: str) -> None:
    needed = OTHER_DATABASE if database else []
    async with running(NetworkRedisServer(tmp_path)) as redis:
        await redis.ask("ACL", "SETUSER", *USER.split()[1:], *needed)
        await suffices(f"redis://{NAME}:{PASSWORD}@{redis.host}{database}")
        for each in needed:
            await redis.ask("ACL", "SETUSER", NAME, each.replace("+", "-"))
            await refused(f"redis://{NAME}:{PASSWORD}@{redis.host}{database}", each)


async def test_a_cluster(tmp_path: Path) -> None:
    async with running(ClusterServer(tmp_path)) as cluster:
        await cluster.whole()
        url = f"redis+cluster://{NAME}:{PASSWORD}@{cluster.host}"
        await cluster.ask("ACL", "SETUSER", *USER.split()[1:], *CLUSTER)
        await suffices(url)
        for each in CLUSTER:
            await cluster.ask("ACL", "SETUSER", NAME, "reset", *USER.split()[2:], *CLUSTER)
            await cluster.ask("ACL", "SETUSER", NAME, each.replace("+", "-"))
            await refused(url, each)


async def test_sentinels(tmp_path: Path) -> None:
    async with (
        running(NetworkRedisServer(tmp_path / "redis")) as redis,
        running(SentinelServer(tmp_path / "sentinel", redis)) as sentinel,
    ):
        await redis.ask("ACL", "SETUSER", *USER.split()[1:])
        there = f"{sentinel.host}/main?sentinel_username=asks&sentinel_password=word"
        url = f"redis+sentinel://{NAME}:{PASSWORD}@{there}"
        await sentinel.ask("ACL", "SETUSER", "asks", "on", ">word", *SENTINEL)
        await suffices(url)
        for each in SENTINEL:
            await sentinel.ask("ACL", "SETUSER", "asks", each.replace("+", "-"))
            await refused(url, each)


async def suffices(url: str) -> None:
    """Speak and listen as members do."""
    connection = Connection(url)
    add = connection.script("return redis.call('XADD', KEYS[1], '*', 'text', ARGV[1])")
    for _ in range(2):
        await add([KEY], ["said"])
    assert len(await connection.read_stream(KEY, "0", 1)) == 2
    await connection.close()


async def refused(url: str, rule: str) -> None:
    connection = Connection(url)
    with pytest.raises(FleetUnavailableError, match=re.escape(rule.removeprefix("+"))):
        await connection.read_stream(KEY, "0", 0)
    await connection.close()
