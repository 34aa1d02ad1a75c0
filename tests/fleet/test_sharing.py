"""The modes of sharing in a fleet: what proxies with one secret have in common, and what they must not."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mlflow_proxy.demo.answers import Answer
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.serving import serving
from mlflow_proxy.settings import AccessSettings, BudgetSettings, CacheSettings, Settings
from tests.fleet import workers
from tests.fleet.redis_server import RedisServer
from tests.fleet.test_proxies import SECRET
from tests.integration.conftest import guarded
from tests.integration.service import clients_toml, replace, until
from tests.integration.support import HIT, LIST, MODEL, MUCH, QUIET, SIGN, STORED, Api, count, settle
from tests.integration.test_proven import FILE, VERSION, readable_by

PERMISSIONS = "/api/2.0/permissions/registered-models/1"
CLIENTS = {"job-a": "token-a", "job-b": "token-b"}
PROVEN = AccessSettings(sharing="proven", refusal_ttl=3600)


@asynccontextmanager
async def fleet(redis: RedisServer, upstream: str, *members: AccessSettings) -> AsyncIterator[list[Api]]:
    """Serve a proxy for each; all share answers, which expire when a test wants them to."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        proxies = []
        for access in members:
            settings = Settings(
                upstream=upstream,
                port=0,
                shutdown_grace=0.01,
                redis=redis.url,
                fleet=SECRET,
                access=access,
                cache=CacheSettings(mutable_ttl=3600, unverified_ttl=3600, not_found_ttl=3600),
                budget=BudgetSettings(registry_limit=MUCH),
                connections=QUIET,
            )
            proxies.append(Api(session, await stack.enter_async_context(serving(settings))))
        for api in proxies:
            await api.until_metric("mlflow_proxy_fleet_cache_shared", 1)
        yield proxies


# -- proven ----------------------------------------------------------------------------------------


@pytest.fixture
async def workspace() -> AsyncIterator[EmulatedWorkspace]:
    options = WorkspaceOptions(limit=MUCH, latency=0)
    async with EmulatedWorkspace([readable_by("a", "b")], options) as workspace:
        yield workspace


async def test_who_has_proven_it_at_one_proxy_lets_nobody_else_in_at_another(
    redis: RedisServer, workspace: EmulatedWorkspace
) -> None:
    async with fleet(redis, workspace.url, PROVEN, PROVEN) as (one, two):
        assert (await one.get(SIGN, token="a", **FILE)).outcome == STORED
        refused = await two.get(SIGN, token="stranger", **FILE)
        assert (refused.status, b"signed_uri" in refused.body) == (403, False)
        assert (await two.get(SIGN, token="b", **FILE)).outcome == HIT
        # A proof of its own may count where it was not given: it is the same credential.
        assert (await two.get(SIGN, token="a", **FILE)).outcome == HIT
        assert [call.token for call in workspace.arrivals.to(MODEL)] == ["a", "stranger", "b"]
        assert len(workspace.arrivals.to(SIGN)) == 1


async def test_a_refusal_is_remembered_where_it_was_said(
    redis: RedisServer, workspace: EmulatedWorkspace
) -> None:
    async with fleet(redis, workspace.url, PROVEN, PROVEN) as (one, two):
        for api in (one, one, two, two):
            assert (await api.get(LIST, token="stranger", **VERSION)).status == 403
        assert len(workspace.arrivals) == 2
        # And it goes when something is written about the model, through any of them.
        workspace.models["m"].readers = None
        tag = {"name": "m", "key": "k", "value": "v"}
        await one.call("POST", "registered-models/set-tag", tag, token="a")
        assert (await one.get(LIST, token="stranger", **VERSION)).status == 200
        while (await two.get(LIST, token="stranger", **VERSION)).status == 403:
            await settle()


async def test_permissions_written_through_one_proxy_are_heard_by_the_others(
    redis: RedisServer, workspace: EmulatedWorkspace
) -> None:
    async with fleet(redis, workspace.url, PROVEN, PROVEN) as (one, two):
        for token in ("a", "b"):
            for api in (one, two):
                assert (await api.get(SIGN, token=token, **FILE)).status == 200
        workspace.models["m"].readers = frozenset({"a"})
        await one.call("PATCH", PERMISSIONS, {}, token="a")
        # Now what it wants is stored again.
        assert (await one.get(SIGN, token="a", **FILE)).status == 200
        assert (await one.get(SIGN, token="b", **FILE)).status == 403
        while (await two.get(SIGN, token="b", **FILE)).status == 200:
            await settle()
        assert (await two.get(SIGN, token="b", **FILE)).status == 403
        assert (await two.get(SIGN, token="a", **FILE)).status == 200


async def test_writes_that_are_refused_at_one_proxy_cost_none_of_them_anything(
    redis: RedisServer, workspace: EmulatedWorkspace
) -> None:
    async with fleet(redis, workspace.url, PROVEN, PROVEN) as (one, two):
        for api in (one, two):
            assert (await api.get(SIGN, token="a", **FILE)).status == 200
        workspace.fault = lambda request: None if request.method == "GET" else Answer(401, b"{}")
        for path in (PERMISSIONS, "registered-models/delete", "/api/2.0/of-tomorrow"):
            assert (await one.call("DELETE", path, {"name": "m"}, token="")).status == 401
            await settle()
            for api in (one, two):
                assert (await api.get(SIGN, token="a", **FILE)).outcome == HIT
        assert len(workspace.arrivals.to(SIGN)) == 1


async def test_another_model_of_the_same_name_has_answers_of_its_own_everywhere(
    redis: RedisServer, workspace: EmulatedWorkspace
) -> None:
    async with fleet(redis, workspace.url, PROVEN, PROVEN) as (one, two):
        assert (await one.get(SIGN, token="a", **FILE)).outcome == STORED
        other = readable_by("thief")
        other.creation_timestamp += 1
        other.versions = {}
        workspace.models["m"] = other
        for api in (one, two):
            assert (await api.get(SIGN, token="thief", **FILE)).status == 404


# -- service ---------------------------------------------------------------------------------------


def jwt(subject: str, number: int) -> str:
    """Return one of the OAuth tokens of a principal."""
    claims = {"sub": subject, "jti": number, "iss": "https://workspace.test/oidc"}
    parts = ({"alg": "none"}, claims)
    coded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*coded, "signature"])


FIRST, SECOND, OTHER = jwt("principal", 1), jwt("principal", 2), jwt("another", 3)


def service(directory: Path, token: str) -> AccessSettings:
    """Return the settings of a proxy whose file of clients is everybody's, and whose token its own."""
    clients, file = directory / "clients.toml", directory / token[-40:]
    clients.write_text(clients_toml(CLIENTS))
    file.write_text(token)
    return AccessSettings(sharing="service", token_file=str(file), clients_file=str(clients))


async def test_answers_are_shared_by_proxies_of_one_principal(redis: RedisServer, tmp_path: Path) -> None:
    members = [service(tmp_path, token) for token in (FIRST, OTHER)]
    (tmp_path / "second").mkdir()
    members.insert(1, service(tmp_path / "second", SECOND))
    async with (
        guarded(FIRST, SECOND, OTHER) as workspace,
        fleet(redis, workspace.url, *members) as (one, two, three),
    ):
        assert (await one.get(SIGN, token="token-a", **FILE)).outcome == STORED
        assert (await two.get(SIGN, token="token-b", **FILE)).outcome == HIT
        assert (await three.get(SIGN, token="token-a", **FILE)).outcome == STORED
        assert (await two.get(SIGN, token="stranger", **FILE)).status == 401
        assert [call.token for call in workspace.arrivals] == [FIRST, OTHER]


async def test_what_the_next_principal_was_answered_is_not_for_those_who_have_the_last_one(
    redis: RedisServer, tmp_path: Path
) -> None:
    """A call is begun with a token that is revoked, and made again with one of somebody else."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    members = [service(tmp_path / name, FIRST) for name in ("one", "two")]
    async with guarded(OTHER) as workspace, fleet(redis, workspace.url, *members) as (one, two):
        replace(Path(members[0].token_file), OTHER)
        assert (await one.get(SIGN, token="token-a", **FILE)).status == 200
        assert (await two.get(SIGN, token="token-a", **FILE)).status == 502
        assert (await one.get(SIGN, token="token-a", **FILE)).status == 200
        assert (await one.get(SIGN, token="token-a", **FILE)).outcome == HIT
        replace(Path(members[0].token_file), FIRST)
        await until(lambda: one.get(SIGN, token="token-a", **FILE), 502)


async def test_a_credential_that_is_refused_at_one_proxy_is_that_proxy_s_trouble(
    redis: RedisServer, tmp_path: Path
) -> None:
    """Also for those of the same principal who wait for its call: theirs is not refused."""
    (tmp_path / "second").mkdir()
    members = [service(tmp_path, FIRST), service(tmp_path / "second", SECOND)]
    async with guarded(SECOND) as workspace, fleet(redis, workspace.url, *members) as (one, two):
        workspace.hold()
        leading = asyncio.create_task(one.get(SIGN, token="token-a", **FILE))
        await workspace.until(count(1))
        following = asyncio.create_task(two.get(SIGN, token="token-b", **FILE))
        await two.until_metric("mlflow_proxy_flights", 1)
        workspace.release()
        refused = await leading
        assert (refused.status, b"own credential" in refused.body) == (502, True)
        assert (await following).status == 200
        assert (await one.get(SIGN, token="token-a", **FILE)).status == 200, "by what the other one fetched"
        assert (await one.get(LIST, token="token-a", **VERSION)).status == 502


async def test_a_new_token_of_the_same_principal_keeps_what_all_have(
    redis: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / "second").mkdir()
    members = [service(tmp_path, FIRST), service(tmp_path / "second", FIRST)]
    async with guarded(FIRST) as workspace, fleet(redis, workspace.url, *members) as (one, two):
        assert (await one.get(SIGN, token="token-a", **FILE)).outcome == STORED
        for access in members:
            replace(Path(access.token_file), SECOND)
        workspace.options = WorkspaceOptions(limit=MUCH, latency=0, tokens=frozenset({SECOND}))
        assert (await two.get(LIST, token="token-a", **VERSION)).status == 200
        assert (await two.get(SIGN, token="token-b", **FILE)).outcome == HIT
        assert (await one.get(LIST, token="token-b", **VERSION)).outcome == HIT
        assert workspace.arrivals.to(SIGN).statuses() == {200: 1}


# -- different modes under one secret --------------------------------------------------------------


async def test_what_one_mode_shares_cannot_be_had_by_headers_in_another(
    redis: RedisServer, tmp_path: Path
) -> None:
    """What a service's answers are filed under is no secret if its token is one that tells whose it is."""
    claims = json.dumps({"iss": "https://workspace.test/oidc", "sub": "principal"}, sort_keys=True)
    credential = AccessSettings()
    members = (service(tmp_path, FIRST), credential, PROVEN)
    async with guarded(FIRST) as workspace, fleet(redis, workspace.url, *members) as (one, *others):
        assert (await one.get(SIGN, token="token-a", **FILE)).outcome == STORED
        for api in others:
            for token in ("", "token-a"):
                reply = await api.call("GET", SIGN, FILE, token=token, headers={"service": claims})
                assert reply.status == 401
        assert await api.metric("mlflow_proxy_fleet_other_secrets") == 0


# -- workers ---------------------------------------------------------------------------------------


async def test_workers_of_a_service_know_the_same_clients_and_ask_once(
    redis: RedisServer, tmp_path: Path
) -> None:
    access = service(tmp_path, FIRST)
    options = (
        *("--access.sharing", "service", "--access.token-file", access.token_file),
        *("--access.clients-file", access.clients_file, "--cache.mutable-ttl", "3600"),
    )
    async with guarded(FIRST) as workspace, workers.serving(workspace.url, redis.url, *options) as running:

        async def by_both(token: str) -> set[int]:
            """Ask until each worker has answered."""
            seen, before = set[int](), workers.answered(await running.metrics())
            while min(_grown(before, workers.answered(await running.metrics())).values()) == 0:
                replies = await asyncio.gather(
                    *(running.api.get(MODEL, token=token, name="m") for _ in range(10))
                )
                seen |= {reply.status for reply in replies}
            return seen

        while not all(each["fleet"]["answers_shared"] for each in (await running.statuses()).values()):
            pass
        assert await by_both("token-a") == {200}
        assert await by_both("stranger") == {401}
        assert [call.token for call in workspace.registry_arrivals] == [FIRST]
        replace(Path(access.clients_file), clients_toml({"job-b": "token-b"}))
        while await by_both("token-a") != {401}:
            pass
        assert await by_both("token-b") == {200}
        assert await running.end() == 0


def _grown(before: dict[str, float], after: dict[str, float]) -> dict[str, Any]:
    return {worker: after[worker] - before[worker] for worker in after}
