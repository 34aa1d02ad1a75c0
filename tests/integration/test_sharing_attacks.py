"""What somebody tries who has one credential, or a revoked one, where answers are shared."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from mlflow_proxy.demo.answers import Answer, Fault
from mlflow_proxy.demo.models import ModelVersion
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.settings import AccessSettings, CacheSettings
from tests.integration.support import HIT, LIST, MODEL, MUCH, SIGN, Api, count, proxied
from tests.integration.test_proven import FILE, VERSION, proven, readable_by

DOWNLOAD = "/api/2.0/mlflow-artifacts/artifacts/mlflow-proxy/m/1/MLmodel"
TAG = {"key": "k", "value": "v"}
HIDDEN = Answer(404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST"}')


@pytest.fixture
async def workspace() -> AsyncIterator[EmulatedWorkspace]:
    options = WorkspaceOptions(limit=MUCH, latency=0)
    async with EmulatedWorkspace([readable_by("a", "b")], options) as workspace:
        yield workspace


def create_anew(workspace: EmulatedWorkspace, *readers: str, versions: bool = False) -> None:
    """Let another model of the same name be there, as after deleting or renaming it past the proxy."""
    other = readable_by(*readers)
    other.creation_timestamp += 1
    other.versions = {"1": ModelVersion({"MLmodel": b"other"})} if versions else {}
    workspace.models["m"] = other


@pytest.mark.parametrize("versions", [False, True])
async def test_who_may_read_another_model_of_the_same_name_gets_nothing_of_the_old_one(
    workspace: EmulatedWorkspace, versions: bool
) -> None:
    """Whoever makes a model of that name is its owner, and may read it."""
    async with proven(workspace) as api:
        for path, asked in ((LIST, VERSION), (SIGN, FILE)):
            assert (await api.get(path, token="a", **asked)).status == 200
        create_anew(workspace, "thief", versions=versions)
        seen = len(workspace.arrivals)
        for path, asked in ((LIST, VERSION), (SIGN, FILE)):
            reply = await api.get(path, token="thief", **asked)
            assert reply.outcome != HIT
            assert reply.status == (200 if versions else 404)
        assert (await api.call("GET", DOWNLOAD, token="thief")).status == (200 if versions else 404)
        assert len(workspace.arrivals) - seen <= 4


@pytest.mark.parametrize(
    "body",
    [b"<html>Sign in</html>", b"{}", b'{"registered_model": {"name": "m"}}',
     b'{"registered_model": {"name": "other", "creation_timestamp": 1700000000000}}'],
)  # fmt: skip
async def test_an_answer_that_does_not_describe_the_model_proves_nothing(
    workspace: EmulatedWorkspace, body: bytes
) -> None:
    """A page to sign in at is a 200 as well."""

    def pages(request: web.Request) -> Fault | None:
        stranger = request.headers.get("Authorization") == "Bearer stranger"
        return Answer(200, body) if stranger and request.path.endswith(MODEL) else None

    async with proven(workspace) as api:
        assert (await api.get(SIGN, token="a", **FILE)).status == 200
        workspace.fault = pages
        assert (await api.get(SIGN, token="stranger", **FILE)).status == 403


async def test_a_proof_is_as_old_as_its_decision_however_long_it_took_to_arrive(
    workspace: EmulatedWorkspace,
) -> None:
    """A slow machine makes this test less, and never fail."""
    async with proven(workspace, proof_ttl=0.5) as api:
        assert (await api.get(SIGN, token="a", **FILE)).status == 200
        workspace.hold()
        asking = asyncio.create_task(api.get(MODEL, token="b", name="m"))
        await workspace.until(count(3))
        workspace.models["m"].readers = frozenset({"a"})
        await asyncio.sleep(0.6)
        workspace.release()
        assert (await asking).status == 200
        assert (await api.get(MODEL, token="b", name="m")).outcome == HIT
        assert (await api.get(SIGN, token="b", **FILE)).status == 403


async def test_a_404_that_may_hide_a_model_from_one_is_not_anothers(workspace: EmulatedWorkspace) -> None:
    """Some workspaces say 404 to who may not read; one who lost permission must not make it so for all."""

    def hides(request: web.Request) -> Fault | None:
        withdrawn = request.headers.get("Authorization") == "Bearer b"
        return HIDDEN if withdrawn and request.path.endswith(SIGN) else None

    async with proven(workspace) as api:
        for token in ("a", "b"):
            await api.get(MODEL, token=token, name="m")
        workspace.fault = hides
        assert (await api.get(SIGN, token="b", **FILE)).status == 404
        assert (await api.get(SIGN, token="a", **FILE)).status == 200
        workspace.hold()
        other = {**VERSION, "path": "empty.txt"}
        before = len(workspace.arrivals)
        leading = asyncio.create_task(api.get(SIGN, token="b", **other))
        await workspace.until(count(before + 1))
        following = asyncio.create_task(api.get(SIGN, token="a", **other))
        await api.until_metric("mlflow_proxy_requests_in_flight", 2)
        workspace.release()
        assert ((await leading).status, (await following).status) == (404, 200)


async def test_writes_about_anything_do_not_wear_out_proofs(workspace: EmulatedWorkspace) -> None:
    """A proof in the air when a tag is set counts: others would pay for it with calls."""
    async with proven(workspace) as api:
        workspace.hold()
        asking = asyncio.create_task(api.get(LIST, token="b", **VERSION))
        await workspace.until(count(1))
        writing = asyncio.create_task(
            api.call("POST", "registered-models/set-tag", {"name": "m", **TAG}, token="a")
        )
        await workspace.until(count(2))
        workspace.release()
        await writing
        assert (await asking).status == 200
        assert (await api.get(SIGN, token="b", **FILE)).status == 200
        assert len(workspace.arrivals.to(MODEL)) == 1


@pytest.mark.parametrize("path", ["/api/2.0/preview/permissions/", "/ajax-api/2.0/permissions/"])
async def test_permissions_are_written_by_any_spelling(workspace: EmulatedWorkspace, path: str) -> None:
    async with proven(workspace) as api:
        assert (await api.get(SIGN, token="b", **FILE)).status == 200
        workspace.models["m"].readers = frozenset({"a"})
        await api.call("PUT", f"{path}registered-models/1", {}, token="a")
        assert (await api.get(SIGN, token="a", **FILE)).status == 200
        assert (await api.get(SIGN, token="b", **FILE)).status == 403


async def test_while_the_workspace_is_down_expired_answers_are_for_those_who_have_proven_it(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    cache = CacheSettings(mutable_ttl=3600, listing_ttl=0.01, stale_if_error=3600)
    async with proxied(workspace.url, cache=cache, access=AccessSettings(sharing="proven")) as url:
        api = Api(session, url)
        await api.get("model-versions/get", token="a", **VERSION)
        assert (await api.get(LIST, token="a", **VERSION)).status == 200
        workspace.models["m"].readers = frozenset({"a"})
        await workspace.stop()
        while (reply := await api.get(LIST, token="a", **VERSION)).outcome == HIT:
            pass
        assert (reply.status, "stale-if-error" in reply.outcome) == (200, True)
        for token in ("b", "stranger", ""):
            assert (await api.get(LIST, token=token, **VERSION)).status == 503


WEB = "/ajax-api/2.0/mlflow/"


async def test_what_is_proven_under_one_prefix_of_the_api_counts_under_no_other(
    workspace: EmulatedWorkspace,
) -> None:
    """The web interface takes sessions, which tokens are not."""

    def sessions_only(request: web.Request) -> Fault | None:
        session = request.headers.get("Authorization") == "Bearer a"
        return None if session or not request.path.startswith(WEB) else Answer(403, b'{"error_code": "X"}')

    async with proven(workspace) as api:
        workspace.fault = sessions_only
        assert (await api.call("GET", WEB + LIST, VERSION, token="a")).status == 200
        assert (await api.get(MODEL, token="b", name="m")).status == 200
        assert (await api.call("GET", WEB + LIST, VERSION, token="b")).status == 403
        assert (await api.get(LIST, token="b", **VERSION)).status == 200, "nor is what was refused"
