"""Answers shared by all who have proven that they may read the model (`access.sharing = "proven"`)."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from mlflow_proxy.demo.answers import Answer
from mlflow_proxy.demo.models import Model
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.serving import serving
from mlflow_proxy.settings import AccessSettings, BudgetSettings, CacheSettings, Settings
from tests.integration.conftest import FILES, sample
from tests.integration.support import HIT, LIST, MODEL, MUCH, OWN, QUIET, SIGN, Api, count, first, settle

VERSION = {"name": "m", "version": "1"}
FILE = {**VERSION, "path": "MLmodel"}


@asynccontextmanager
async def proven(workspace: EmulatedWorkspace, **access: float) -> AsyncIterator[Api]:
    settings = Settings(
        upstream=workspace.url,
        port=0,
        shutdown_grace=0.01,
        access=AccessSettings.model_validate({"sharing": "proven", **access}),
        # What expires does so when a test wants it to.
        cache=CacheSettings(mutable_ttl=3600, pending_ttl=3600, unverified_ttl=3600, not_found_ttl=3600),
        budget=BudgetSettings(registry_limit=MUCH),
        connections=QUIET,
    )
    async with (
        serving(settings) as url,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        yield Api(session, url)


def readable_by(*tokens: str) -> Model:
    model = sample()
    model.readers = frozenset(tokens)
    return model


@pytest.fixture
async def workspace() -> AsyncIterator[EmulatedWorkspace]:
    options = WorkspaceOptions(limit=MUCH, latency=0)
    async with EmulatedWorkspace([readable_by("a", "b")], options) as workspace:
        yield workspace


async def test_two_hundred_tokens_cost_one_call_each_and_the_model_once() -> None:
    allowed = [f"token-{number}" for number in range(180)]
    denied = [f"stranger-{number}" for number in range(20)]
    questions = [(LIST, VERSION), (LIST, {**VERSION, "path": "data"})]
    questions += [(SIGN, {**VERSION, "path": path}) for path in FILES]
    async with (
        EmulatedWorkspace([readable_by(*allowed)], WorkspaceOptions(limit=MUCH, latency=0)) as workspace,
        proven(workspace) as api,
    ):
        replies = {
            token: await asyncio.gather(*(api.get(path, token=token, **asked) for path, asked in questions))
            for token in [*allowed[:90], *denied, *allowed[90:]]
        }
        assert {token for token, got in replies.items() if {each.status for each in got} == {200}} == set(
            allowed
        )
        assert {token for token, got in replies.items() if {each.status for each in got} == {403}} == set(
            denied
        )
        assert len(workspace.arrivals.to(MODEL)) == 200
        assert len(workspace.arrivals) <= 1.05 * (200 + len(questions))


async def test_at_once_too(workspace: EmulatedWorkspace) -> None:
    async with proven(workspace) as api:
        replies = await asyncio.gather(
            *(api.get(LIST, token=token, **VERSION) for token in ("a", "b", "c") for _ in range(20))
        )
        assert [reply.status for reply in replies] == [200] * 40 + [403] * 20
        assert len(workspace.arrivals.to(MODEL)) == 3
        assert len(workspace.arrivals.to(LIST)) == 1


async def test_a_stranger_gets_the_workspaces_refusal_and_nothing_else(workspace: EmulatedWorkspace) -> None:
    async with proven(workspace) as api:
        await api.get(SIGN, token="a", **FILE)
        for path, asked in [
            (SIGN, FILE),
            (LIST, VERSION),
            ("registered-models/alias", {**VERSION, "alias": "x"}),
        ]:
            for token in ("c", ""):
                reply = await api.get(path, token=token, **asked)
                assert reply.status in {401, 403}
                assert b"signed_uri" not in reply.body
        assert (
            await api.get("/api/2.0/mlflow-artifacts/artifacts/mlflow-proxy/m/1/MLmodel", token="c")
        ).status == 403


async def test_the_clients_own_first_call_is_the_proof(workspace: EmulatedWorkspace) -> None:
    async with proven(workspace) as api:
        for token in ("a", "b"):
            await api.get(MODEL, token=token, name="m")
            await api.get(LIST, token=token, **VERSION)
        assert len(workspace.arrivals) == 3


async def test_what_is_each_ones_own_is_not_shared(workspace: EmulatedWorkspace) -> None:
    async with proven(workspace) as api:
        for path in (MODEL, "registered-models/search"):
            for token in ("a", "b"):
                assert (await api.get(path, token=token, name="m")).outcome != HIT
        headers = {"X-Databricks-Org-Id": "1"}
        await api.get(LIST, token="a", **VERSION)
        reply = await api.call("GET", LIST, VERSION, token="a", headers=headers)
        assert reply.outcome != HIT


async def test_access_that_is_withdrawn_ends_with_the_proof(workspace: EmulatedWorkspace) -> None:
    async with proven(workspace, proof_ttl=0.2) as api:
        assert (await api.get(SIGN, token="b", **FILE)).status == 200
        workspace.models["m"].readers = frozenset({"a"})
        # What proves it is not kept longer than a proof counts.
        while (await api.get(SIGN, token="b", **FILE)).status == 200:
            await api.get(SIGN, token="a", **FILE)
        assert (await api.get(SIGN, token="a", **FILE)).status == 200


async def test_a_refusal_ends_the_proof_whatever_is_stored_of_it(workspace: EmulatedWorkspace) -> None:
    async with proven(workspace) as api:
        assert (await api.get(MODEL, token="b", name="m")).status == 200
        assert (await api.get(LIST, token="a", **VERSION)).status == 200
        workspace.models["m"].readers = frozenset({"a"})
        assert (await api.get(SIGN, token="b", **FILE)).status == 403
        assert (await api.get(LIST, token="b", **VERSION)).status == 403
        assert (await api.get(LIST, token="a", **VERSION)).outcome.startswith(HIT)


async def test_so_does_the_refusal_of_one_who_waited_for_anothers_call(workspace: EmulatedWorkspace) -> None:
    async with proven(workspace) as api:
        for token in ("a", "b"):
            assert (await api.get(MODEL, token=token, name="m")).status == 200
        assert (await api.get(LIST, token="a", **VERSION)).status == 200
        workspace.models["m"].readers = frozenset()
        both = await asyncio.gather(*(api.get(SIGN, token=token, **FILE) for token in ("a", "b")))
        assert [reply.status for reply in both] == [403, 403]
        assert [(await api.get(LIST, token=token, **VERSION)).status for token in ("a", "b")] == [403, 403]


async def test_access_that_is_withdrawn_through_the_proxy_ends_at_once(workspace: EmulatedWorkspace) -> None:
    async with proven(workspace) as api:
        assert (await api.get(SIGN, token="b", **FILE)).status == 200
        workspace.models["m"].readers = frozenset({"a"})
        await api.call("PATCH", "/api/2.0/permissions/registered-models/1", {}, token="a")
        assert (await api.get(SIGN, token="a", **FILE)).status == 200
        assert (await api.get(SIGN, token="b", **FILE)).status == 403


async def test_a_proof_in_the_air_when_access_is_withdrawn_does_not_count(
    workspace: EmulatedWorkspace,
) -> None:
    async with proven(workspace) as api:
        said = {
            "registered_model": {"name": "m", "creation_timestamp": workspace.models["m"].creation_timestamp}
        }
        workspace.fault = first(1, Answer(200, json.dumps(said).encode()))
        workspace.hold()
        asking = asyncio.create_task(api.get(MODEL, token="b", name="m"))
        await workspace.until(count(1))
        workspace.models["m"].readers = frozenset({"a"})
        writing = asyncio.create_task(
            api.call("PATCH", "/api/2.0/permissions/registered-models/1", {}, token="a")
        )
        await workspace.until(count(2))
        workspace.release()
        await asyncio.gather(asking, writing)
        assert (await api.get(SIGN, token="a", **FILE)).status == 200
        assert (await api.get(SIGN, token="b", **FILE)).status == 403


async def test_a_refusal_counts_for_seconds_and_not_after_a_write(workspace: EmulatedWorkspace) -> None:
    async with proven(workspace, refusal_ttl=3600) as api:
        assert (await api.get(LIST, token="c", **VERSION)).status == 403
        assert (await api.get(LIST, token="c", **VERSION)).status == 403
        assert len(workspace.arrivals) == 1
        workspace.models["m"].readers = None
        tag = {"name": "m", "key": "k", "value": "v"}
        await api.call("POST", "registered-models/set-tag", tag, token="a")
        assert (await api.get(LIST, token="c", **VERSION)).status == 200


async def test_who_waited_for_anothers_call_does_not_get_its_refusal(workspace: EmulatedWorkspace) -> None:
    async with proven(workspace) as api:
        for token in ("a", "b"):
            await api.get(MODEL, token=token, name="m")
        workspace.fault = first(1, Answer(403, b"{}"))
        workspace.hold()
        leading = asyncio.create_task(api.get(LIST, token="a", **VERSION))
        await workspace.until(count(3))
        following = asyncio.create_task(api.get(LIST, token="b", **VERSION))
        while (await api.metric("mlflow_proxy_flights")) < 1:
            pass
        await settle()
        workspace.release()
        assert ((await leading).status, (await following).status) == (403, 200)
        # Its proof is gone: it is asked for again.
        assert (await api.get(LIST, token="a", **VERSION)).status == 200
        assert len(workspace.arrivals.to(MODEL)) == 3


async def test_without_it_every_credential_fetches_for_itself(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    async with serving(
        Settings(upstream=workspace.url, port=0, shutdown_grace=0.01, access=OWN, connections=QUIET)
    ) as url:
        for token in ("a", "b"):
            await Api(session, url).get(LIST, token=token, **VERSION)
        assert [len(workspace.arrivals.to(path)) for path in (LIST, MODEL)] == [2, 0]
