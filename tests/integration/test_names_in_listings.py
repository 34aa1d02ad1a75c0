"""Listings of names that no client can have, and directories that are put together once for all."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Literal

import aiohttp
import pytest
from aiohttp import web

from mlflow_proxy.artifacts import listings
from mlflow_proxy.artifacts.directories import put_together, read_page
from mlflow_proxy.demo.answers import Answer, no_fault
from mlflow_proxy.demo.models import Model, ModelVersion
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.settings import AccessSettings, CacheSettings
from tests.integration.names import ARTIFACTS, ROOT, holding, page_of
from tests.integration.support import FRESH, HIT, MUCH, Api, proxied, raw

BAD = ["..", "a/../b", "x\x00y", "\ud800", "c:\\x", "..\\x", "\\x", ".\\", "%2e%2e", " ", "..?x"]
"""What no client can have."""


@pytest.mark.parametrize("name", BAD)
async def test_what_no_client_can_have_is_named(name: str) -> None:
    async with holding("a", "b:c") as (workspace, url):
        workspace.fault = lambda request: (
            page_of("a", "b:c", name) if request.path.endswith("list-artifacts") else None
        )
        reply = await raw(url, "GET", f"{ARTIFACTS}?path=mlflow-proxy/m/1")
        assert (reply.status, reply.json()["error_code"]) == (409, "RESOURCE_CONFLICT")
        assert json.dumps(name) in reply.json()["message"]
        for other in ("a", "b:c"):
            assert (await raw(url, "GET", f"{ROOT}/{other}")).body == other.encode()


async def test_one_name_of_many_that_no_client_can_have(read: Counter[str]) -> None:
    names = [f"f{number:05}" for number in range(20_000)]
    async with holding(*names, "..?", page_size=1000) as (_, url):
        for _ in range(3):
            reply = await raw(url, "GET", f"{ARTIFACTS}?path=mlflow-proxy/m/1")
            assert (reply.status, '"..?"' in reply.json()["message"]) == (409, True)
        assert (await raw(url, "GET", f"{ROOT}/f00007")).body == b"f00007"
    assert read == {"pages": 21, "directories": 1}


async def test_a_listing_that_changes_between_two_lookups() -> None:
    async with holding("a%41", cache=CacheSettings(unverified_ttl=0)) as (workspace, url):

        def change(request: web.Request) -> None:
            if request.path.endswith("get-signed-download-uri"):
                workspace.models["m"].versions["1"] = ModelVersion({"aA": b"another"})

        workspace.fault = change
        assert (await raw(url, "GET", f"{ROOT}/aA")).status == 404
        assert (await raw(url, "GET", f"{ROOT}/aA")).body == b"another"


async def test_an_answer_of_another_route_is_no_listing() -> None:
    async with holding("a") as (workspace, url):
        workspace.fault = lambda request: (
            Answer(200, b'{"model_version": {"name": "m", "version": "1", "status": "READY"}}')
            if request.path.endswith("list-artifacts")
            else None
        )
        for target in (f"{ROOT}/a", f"{ARTIFACTS}?path=mlflow-proxy/m/1"):
            assert (await raw(url, "GET", target)).status == 502
        workspace.fault = no_fault
        assert (await raw(url, "GET", f"{ROOT}/a")).body == b"a"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often a page is read and a directory put together."""
    counted: Counter[str] = Counter()

    def counting(what: str, work: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*arguments: object) -> object:
            counted[what] += 1
            return work(*arguments)

        return wrapped

    monkeypatch.setattr(listings, "read_page", counting("pages", read_page))
    monkeypatch.setattr(listings, "put_together", counting("directories", put_together))
    return counted


NINE = [f"f{number}" for number in range(9)]
LISTING = f"{ARTIFACTS}?path=mlflow-proxy/m/1"


async def test_a_directory_is_put_together_once_for_all(
    session: aiohttp.ClientSession, read: Counter[str]
) -> None:
    async with holding(*NINE, page_size=3) as (_, url):
        api = Api(session, url)
        replies = await asyncio.gather(*(api.get(LISTING) for _ in range(10)))
        replies += [await api.get(LISTING) for _ in range(10)]
        assert {tuple(file["path"] for file in reply.json()["files"]) for reply in replies} == {tuple(NINE)}
        assert read == {"pages": 3, "directories": 1}
        for name in NINE:
            assert (await api.get(f"{ROOT}/{name}")).status == 200
        assert read == {"pages": 3, "directories": 1}


async def test_what_is_written_or_purged_is_read_again(
    session: aiohttp.ClientSession, read: Counter[str]
) -> None:
    async with holding(*NINE, page_size=3) as (workspace, url):
        api = Api(session, url)
        await api.get(LISTING)
        workspace.models["m"].versions["1"] = ModelVersion({"other": b""})
        assert len((await api.get(LISTING)).json()["files"]) == 9
        await api.call("DELETE", "model-versions/delete", {"name": "n", "version": "1"})
        assert len((await api.get(LISTING)).json()["files"]) == 9
        await api.call("POST", "registered-models/rename", {"name": "m", "new_name": "m2"})
        await api.call("POST", "registered-models/rename", {"name": "m2", "new_name": "m"})
        assert [file["path"] for file in (await api.get(LISTING)).json()["files"]] == ["other"]
    assert read == {"pages": 4, "directories": 2}


async def test_a_page_that_expires_takes_the_directory_with_it(session: aiohttp.ClientSession) -> None:
    """The pages of one directory end at different times: here one of them at once."""
    async with holding(*NINE, page_size=3) as (workspace, url):
        api = Api(session, url)
        vary = iter(range(100))

        def second_is_not_stored(request: web.Request) -> Answer | None:
            if not request.query.get("page_token"):
                return None
            files = [{"path": f"g{next(vary)}", "is_dir": False}]
            return Answer(200, json.dumps({"root_uri": "x", "files": files}).encode(), {"Vary": "*"})

        workspace.fault = second_is_not_stored
        found = [(await api.get(LISTING)).json()["files"][3]["path"] for _ in range(3)]
    assert found == ["g0", "g1", "g2"]


@pytest.mark.parametrize("sharing", ["credential", "proven"])
async def test_nobody_sees_a_directory_by_anothers_permission(
    session: aiohttp.ClientSession, read: Counter[str], sharing: Literal["credential", "proven"]
) -> None:
    version = ModelVersion(dict.fromkeys(NINE, b""))
    model = Model("m", {"1": version}, readers=frozenset({"a", "b"}))
    options = WorkspaceOptions(limit=MUCH, latency=0, page_size=3)
    async with (
        EmulatedWorkspace([model], options) as workspace,
        proxied(workspace.url, access=AccessSettings(sharing=sharing)) as url,
    ):
        api = Api(session, url)
        for token, status in (("a", 200), ("c", 403), ("b", 200), ("", 403), ("a", 200), ("c", 403)):
            for target in (LISTING, f"{ROOT}/f1"):
                assert (await api.get(target, token=token)).status == status, (token, target)
    once = {"pages": 3, "directories": 1}
    assert read == (once if sharing == "proven" else {what: 2 * often for what, often in once.items()})


async def test_who_refuses_stored_answers_gets_none(session: aiohttp.ClientSession) -> None:
    async with holding(*NINE, page_size=3) as (workspace, url):
        api = Api(session, url)
        await api.get(LISTING)
        workspace.models["m"].versions["1"] = ModelVersion({"other": b"new"})
        fresh = {"Cache-Control": "no-cache"}
        reply = await api.call("GET", LISTING, headers=fresh)
        assert ([file["path"] for file in reply.json()["files"]], reply.outcome) == (["other"], FRESH)
        assert (await api.call("GET", f"{ROOT}/other", headers=fresh)).body == b"new"


async def test_a_large_listing_arrives_as_it_is(session: aiohttp.ClientSession) -> None:
    """It is not sent in one piece."""
    names = [f"{number:05}{'x' * 100}" for number in range(5000)]
    async with holding(*names) as (_, url):
        for _ in range(2):
            reply = await Api(session, url).get(LISTING)
            assert [file["path"] for file in reply.json()["files"]] == names
            assert int(reply.headers["Content-Length"]) == len(reply.body)
        assert (reply.outcome, reply.headers["Age"]) == (HIT, "0")
