"""A machine that sleeps, and a wall clock that is set: what ends has ended, and nothing else has."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from mlflow_proxy.demo.answers import Answer
from mlflow_proxy.demo.models import Model
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.settings import AccessSettings, BudgetSettings, CacheSettings
from tests.integration.conftest import FILES, sample
from tests.integration.support import (
    API,
    COLLAPSED,
    CONFIG,
    HIT,
    LIST,
    MISS,
    MODEL,
    MUCH,
    SIGN,
    STORED,
    Api,
    Reply,
    Upstream,
    answering,
    count,
    proxied,
    raw,
    settle,
)
from tests.machine import Machine

MINUTE, HOUR = 60.0, 3600.0
VERSION = {"name": "m", "version": "1"}
FILE = {**VERSION, "path": "MLmodel"}
DOOR_A = "/api/2.0/mlflow-artifacts/artifacts/mlflow-proxy/m/1/MLmodel"
USUAL = CacheSettings()
LASTING = CacheSettings(listing_ttl=100 * HOUR, unverified_ttl=100 * HOUR, mutable_ttl=100 * HOUR)
PROVEN = AccessSettings(sharing="proven")


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
async def workspace(machine: Machine) -> AsyncIterator[EmulatedWorkspace]:
    """Return a workspace that does not sleep: when the machine wakes it is as late there."""
    options = WorkspaceOptions(limit=MUCH, latency=0)
    async with EmulatedWorkspace([sample()], options, clock=machine.elsewhere) as workspace:
        yield workspace


@pytest.fixture
async def api(
    machine: Machine, workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> AsyncIterator[Api]:
    async with proxied(workspace.url, clock=machine.clock, cache=USUAL) as url:
        yield Api(session, url)


# -- sleep -----------------------------------------------------------------------------------------


async def test_a_signed_url_that_ended_while_the_machine_slept_is_signed_anew(
    machine: Machine, workspace: EmulatedWorkspace, api: Api, session: aiohttp.ClientSession
) -> None:
    assert [(await api.get(SIGN, **FILE)).outcome for _ in range(2)] == [STORED, HIT]
    machine.sleep(20 * MINUTE)
    reply = await api.get(SIGN, **FILE)
    assert reply.outcome == STORED
    async with session.get(reply.json()["signed_uri"]) as file:
        assert (file.status, await file.read()) == (200, FILES["MLmodel"])


async def test_a_file_by_door_a_takes_a_url_that_works(
    machine: Machine, workspace: EmulatedWorkspace, api: Api
) -> None:
    assert (await api.get(DOOR_A)).body == FILES["MLmodel"]
    machine.sleep(20 * MINUTE)
    assert (await api.get(DOOR_A)).body == FILES["MLmodel"]
    assert len(workspace.arrivals.to(SIGN)) == 2
    assert len(workspace.storage.arrivals) == 2, "storage was not asked for what had ended"


async def test_age_and_ttl_are_true_after_a_sleep(
    machine: Machine, workspace: EmulatedWorkspace, api: Api
) -> None:
    await api.get("model-versions/get", **VERSION)
    await api.get(LIST, **VERSION)
    machine.sleep(20 * MINUTE)
    hit = await api.get(LIST, **VERSION)
    assert hit.outcome == HIT
    assert int(hit.headers["Age"]) in range(1200, 1210)
    assert hit.ttl in range(2390, 2401)
    listing = await api.get("/api/2.0/mlflow-artifacts/artifacts", path="mlflow-proxy/m/1")
    assert listing.outcome == HIT
    assert int(listing.headers["Age"]) in range(1200, 1210)


async def test_a_listing_by_door_a_ages_in_sleep_and_ends(
    machine: Machine, workspace: EmulatedWorkspace, api: Api
) -> None:
    async def listing() -> Reply:
        return await api.get("/api/2.0/mlflow-artifacts/artifacts", path="mlflow-proxy/m/1")

    await api.get("model-versions/get", **VERSION)
    assert [(await listing()).outcome for _ in range(2)] == [STORED, HIT]
    machine.sleep(USUAL.listing_ttl / 2)
    hit = await listing()
    assert hit.outcome == HIT
    assert int(hit.headers["Age"]) in range(1800, 1810)
    assert hit.ttl in range(1790, 1801)
    machine.sleep(USUAL.listing_ttl / 2 + MINUTE)
    assert (await listing()).outcome == STORED
    assert len(workspace.arrivals.to(LIST)) == 2


@pytest.mark.parametrize(
    ("endpoint", "parameters", "lives"),
    [
        (MODEL, {"name": "m"}, USUAL.mutable_ttl),
        (MODEL, {"name": "nobody"}, USUAL.not_found_ttl),
        (LIST, VERSION, USUAL.unverified_ttl),
        (SIGN, FILE, USUAL.signed_url_ttl - USUAL.signed_url_margin),
        (CONFIG, {}, USUAL.discovery_ttl),
    ],
)
async def test_each_answer_ends_in_sleep_as_it_does_awake(
    machine: Machine, api: Api, endpoint: str, parameters: dict[str, str], lives: float
) -> None:
    assert [(await api.get(endpoint, **parameters)).outcome for _ in range(2)] == [STORED, HIT]
    if lives > 60:
        machine.sleep(lives - 60)
        assert (await api.get(endpoint, **parameters)).outcome == HIT
    machine.sleep(lives)
    assert (await api.get(endpoint, **parameters)).outcome == STORED


async def test_a_version_that_was_pending_is_looked_at_again(
    machine: Machine, workspace: EmulatedWorkspace, api: Api
) -> None:
    workspace.models["m"].versions["1"].status = "PENDING_REGISTRATION"
    await api.get("model-versions/get", **VERSION)
    assert (await api.get(LIST, **VERSION)).outcome == STORED
    workspace.models["m"].versions["1"].status = "READY"
    machine.sleep(2 * MINUTE)
    assert (await api.get(LIST, **VERSION)).outcome == STORED
    listing = await api.get(LIST, **VERSION)
    assert (listing.outcome, (listing.ttl or 0) > USUAL.unverified_ttl) == (HIT, True)
    assert len(workspace.arrivals.to("model-versions/get")) == 2


def replaced(path: Path, text: str) -> None:
    """Put another file in the place of one, as `mv` does."""
    other = path.with_suffix(".new")
    other.write_text(text)
    other.replace(path)


def readable_by(*tokens: str) -> Model:
    model = sample()
    model.readers = frozenset(tokens)
    return model


async def test_a_permission_that_was_withdrawn_meanwhile_is_asked_for_anew(
    machine: Machine, workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    workspace.models["m"] = readable_by("a", "b")
    async with proxied(workspace.url, clock=machine.clock, access=PROVEN, cache=LASTING) as url:
        api = Api(session, url)
        assert [(await api.get(LIST, token=each, **VERSION)).status for each in "abb"] == [200] * 3
        workspace.models["m"] = readable_by("a")
        assert (await api.get(LIST, token="b", **VERSION)).outcome == HIT
        machine.sleep(8 * HOUR)
        assert (await api.get(LIST, token="b", **VERSION)).status == 403
        assert (await api.get(LIST, token="a", **VERSION)).outcome == HIT


async def test_a_refusal_is_not_repeated_after_a_sleep(
    machine: Machine, workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    workspace.models["m"] = readable_by("a")
    access = AccessSettings(sharing="proven", refusal_ttl=HOUR)
    async with proxied(workspace.url, clock=machine.clock, access=access, cache=USUAL) as url:
        api = Api(session, url)
        assert [(await api.get(LIST, token="b", **VERSION)).status for _ in range(2)] == [403, 403]
        assert len(workspace.arrivals) == 1
        workspace.models["m"] = readable_by("a", "b")
        machine.sleep(HOUR)
        assert (await api.get(LIST, token="b", **VERSION)).status == 200


async def test_what_may_be_stale_for_a_while_is_not_so_for_longer(
    machine: Machine, workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    grace, unavailable = CacheSettings(stale_if_error=HOUR), Answer(503, b"{}")
    budget = BudgetSettings(registry_limit=MUCH, patience=0.2)
    async with proxied(workspace.url, clock=machine.clock, cache=grace, budget=budget) as url:
        api = Api(session, url)
        await api.get("model-versions/get", **VERSION)
        await api.get(LIST, **VERSION)
        workspace.fault = lambda _: unavailable
        machine.sleep(grace.listing_ttl + HOUR / 2)
        stale = await api.get(LIST, **VERSION)
        assert (stale.status, stale.outcome) == (200, "hit; detail=stale-if-error")
        assert int(stale.headers["Age"]) >= grace.listing_ttl + HOUR / 2
        machine.sleep(HOUR / 2)
        assert (await api.get(LIST, **VERSION)).status == 503


async def test_the_upstreams_readiness_is_not_what_it_was_before_a_sleep(
    machine: Machine, workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    async with proxied(workspace.url, clock=machine.clock) as url:
        assert (await raw(url, "GET", "/-/readyz")).status == 200
        await workspace.stop()
        assert (await raw(url, "GET", "/-/readyz")).status == 200
        machine.sleep(20 * MINUTE)
        assert (await raw(url, "GET", "/-/readyz")).status == 503


async def test_files_are_looked_at_again_after_a_sleep(
    machine: Machine, workspace: EmulatedWorkspace, tmp_path: Path
) -> None:
    clients, token = tmp_path / "clients.toml", tmp_path / "token"
    digest = hashlib.sha256(b"token-a").hexdigest()
    clients.write_text(f'[clients]\nnightly-job = "sha256:{digest}"\n')
    token.write_text("before")
    access = AccessSettings(sharing="service", token_file=str(token), clients_file=str(clients))
    async with proxied(workspace.url, clock=machine.clock, access=access) as url:
        shown = [("Authorization", "Bearer token-a")]
        for number, said in enumerate(["before", "after"]):
            assert (await raw(url, "GET", f"{API}{MODEL}?name={number}", shown)).status == 404
            assert workspace.arrivals[-1].token == said
            replaced(token, "after")
            machine.sleep(20 * MINUTE)
        replaced(clients, "[clients]\n")
        machine.sleep(20 * MINUTE)
        assert (await raw(url, "GET", f"{API}{MODEL}?name=0", shown)).status == 401


# -- in the air while the machine sleeps -----------------------------------------------------------


async def test_what_was_asked_before_a_sleep_is_as_old_as_that_when_it_is_seen(
    machine: Machine, workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    async with proxied(workspace.url, clock=machine.clock, cache=CacheSettings(listing_ttl=2 * HOUR)) as url:
        api = Api(session, url)
        await api.get("model-versions/get", **VERSION)
        workspace.hold()
        asked = [api.get(LIST, **VERSION), api.get(SIGN, **FILE), api.get(MODEL, name="m")]
        under_way = [asyncio.create_task(each) for each in asked]
        await workspace.until(count(4))
        machine.sleep(20 * MINUTE)
        workspace.release()
        assert [reply.outcome for reply in await asyncio.gather(*under_way)] == [STORED, MISS, MISS]
        hit = await api.get(LIST, **VERSION)
        assert (hit.outcome, int(hit.headers["Age"]) >= 20 * MINUTE) == (HIT, True)
        assert [(await api.get(SIGN, **FILE)).outcome for _ in range(2)] == [STORED, HIT]


async def test_nobody_joins_what_was_asked_before_a_sleep(
    machine: Machine, workspace: EmulatedWorkspace, api: Api
) -> None:
    workspace.hold()
    before = asyncio.create_task(api.get(SIGN, **FILE))
    await workspace.until(count(1))
    machine.sleep(20 * MINUTE)
    after = [asyncio.create_task(api.get(SIGN, **FILE)) for _ in range(2)]
    await workspace.until(count(2))
    await settle()
    workspace.release()
    assert (await before).outcome == MISS
    assert sorted([reply.outcome for reply in await asyncio.gather(*after)]) == [COLLAPSED, STORED]
    assert len(workspace.arrivals) == 2


async def test_a_proof_from_before_a_sleep_opens_nothing_after_it(
    machine: Machine, workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    workspace.models["m"] = readable_by("a", "b")
    async with proxied(workspace.url, clock=machine.clock, access=PROVEN, cache=LASTING) as url:
        api = Api(session, url)
        assert (await api.get(LIST, token="a", **VERSION)).outcome == STORED
        workspace.hold()
        asking = asyncio.create_task(api.get(LIST, token="b", **VERSION))
        await workspace.until(lambda arrivals: len(arrivals.to(MODEL)) == 2)
        machine.sleep(8 * HOUR)
        workspace.models["m"] = readable_by("a")  # when the answer was on its way
        workspace.release()
        assert (await asking).status == 403


async def test_who_waited_for_anothers_answer_proves_anew_after_a_sleep(
    machine: Machine, workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    workspace.models["m"] = readable_by("a", "b")
    async with proxied(workspace.url, clock=machine.clock, access=PROVEN, cache=LASTING) as url:
        api = Api(session, url)
        for token in "ab":
            await api.get(MODEL, token=token, name="m")
        workspace.hold()
        leading = asyncio.create_task(api.get(LIST, token="a", **VERSION))
        await workspace.until(lambda arrivals: len(arrivals.to(LIST)) == 1)
        following = asyncio.create_task(api.get(LIST, token="b", **VERSION))
        await settle()
        machine.sleep(8 * HOUR)
        workspace.models["m"] = readable_by("a")
        workspace.release()
        assert ((await leading).status, (await following).status) == (200, 403)


# -- the wall clock is set -------------------------------------------------------------------------


@pytest.mark.parametrize("by", [-HOUR, -24 * HOUR])
async def test_a_step_back_changes_nothing(
    machine: Machine, workspace: EmulatedWorkspace, api: Api, by: float
) -> None:
    asked = [(LIST, VERSION), (SIGN, FILE), (CONFIG, {}), (MODEL, {"name": "m"})]
    for endpoint, parameters in asked:
        assert (await api.get(endpoint, **parameters)).outcome == STORED
    machine.set(by)
    for endpoint, parameters in asked:
        hit = await api.get(endpoint, **parameters)
        assert hit.outcome == HIT
        assert 0 <= int(hit.headers["Age"]) < 5
        assert (hit.ttl or 0) <= HOUR
    machine.sleep(20 * MINUTE)
    assert (await api.get(SIGN, **FILE)).outcome == STORED, "a sleep after it is seen"
    machine.set(-by)
    for endpoint, parameters in asked:
        assert (await api.get(endpoint, **parameters)).outcome == STORED, "as after a sleep: early, no more"
        assert (await api.get(endpoint, **parameters)).outcome == HIT


async def test_a_step_back_makes_no_url_live_longer_that_its_workspace_does_not_date(
    machine: Machine, upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    ends = int(machine.elsewhere()) + 300
    said = b'{"signed_uri": "https://s.example/f?Expires=%d&Signature=a"}' % ends
    upstream.respond = answering(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(said) + said
    )
    async with proxied(upstream.url, clock=machine.clock, cache=USUAL) as url:
        machine.set(-HOUR)
        api = Api(session, url)
        replies = [await api.get(SIGN, **FILE) for _ in range(2)]
        assert [reply.outcome for reply in replies] == [STORED, HIT]
        assert (replies[1].ttl or 0) <= 180
