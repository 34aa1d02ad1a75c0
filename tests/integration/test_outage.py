"""A workspace that is down: the circuit breaker, and expired listings in its place."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from mlflow_proxy.demo.answers import Answer, Fault
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.settings import BudgetSettings, CacheSettings
from mlflow_proxy.upstream import circuit_breaker
from tests.integration.conftest import sample
from tests.integration.support import (
    HIT,
    LIST,
    MISS,
    MODEL,
    MUCH,
    OK,
    SIGN,
    STORED,
    Api,
    Inbound,
    Reply,
    Upstream,
    answering,
    first,
    proxied,
    settle,
)

DOWN = Answer(503, b'{"error_code": "TEMPORARILY_UNAVAILABLE", "message": "down"}')
WRITE = "registered-models/set-tag"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the circuit open with the failures that it takes, however fast they come."""
    monkeypatch.setattr(circuit_breaker, "SPAN", 0.0)


# -- circuit breaker -------------------------------------------------------------------------------


async def reset(inbound: Inbound) -> None:
    inbound.reset()


@pytest.fixture
async def open_circuit(
    at_once: None, upstream: Upstream, session: aiohttp.ClientSession
) -> AsyncIterator[Api]:
    """Return a client of a proxy whose circuit is open; the upstream resets whatever comes."""
    upstream.respond = reset
    async with proxied(upstream.url) as url:
        api = Api(session, url)
        replies = await asyncio.gather(*(api.call("POST", WRITE, {"name": f"m{n}"}) for n in range(5)))
        assert {reply.status for reply in replies} == {502}
        await api.until_metric("mlflow_proxy_circuit_open", 1)
        yield api


@pytest.mark.parametrize(
    ("method", "endpoint"), [("GET", MODEL), ("POST", WRITE), ("GET", "/api/2.0/dbfs/list"), ("GET", LIST)]
)
async def test_calls_are_answered_at_once_while_it_is_open(
    monkeypatch: pytest.MonkeyPatch, upstream: Upstream, open_circuit: Api, method: str, endpoint: str
) -> None:
    monkeypatch.setattr(circuit_breaker, "FIRST_PROBE", 600)
    monkeypatch.setattr(circuit_breaker, "LONGEST_PROBE", 600)
    await open_circuit.get(MODEL, name="the probe")  # or it is not time yet
    seen = len(upstream.seen)
    replies = [await open_circuit.call(method, endpoint, {"name": "m", "version": "1"}) for _ in range(20)]
    refused = [reply for reply in replies if reply.status == 503]
    # One of them may have been a probe.
    assert len(replies) - len(refused) <= 1
    assert len(upstream.seen) - seen <= circuit_breaker.FAILURES
    for reply in refused:
        assert reply.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
        assert 1 <= int(reply.headers["Retry-After"]) <= 38
        assert reply.outcome == MISS
    groups = await open_circuit.budgets()
    assert groups["registry"]["queued"] == {"interactive": 0, "background": 0}


async def test_who_is_refused_needs_no_place_in_the_budget(
    monkeypatch: pytest.MonkeyPatch, at_once: None, upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    monkeypatch.setattr(circuit_breaker, "FIRST_PROBE", 600)
    monkeypatch.setattr(circuit_breaker, "LONGEST_PROBE", 600)

    async def respond(inbound: Inbound) -> None:
        if MODEL in inbound.target:
            await asyncio.Event().wait()
        inbound.reset()

    upstream.respond = respond
    async with proxied(upstream.url, budget=BudgetSettings(registry_limit=1, patience=600)) as url:
        api = Api(session, url)
        # What is not answered yet counts still, so nothing more can leave.
        spends = asyncio.create_task(api.get(MODEL, name="m"))
        while not upstream.seen:
            await settle()
        await asyncio.gather(*(api.call("GET", "/api/2.0/dbfs/list", {"n": n}) for n in range(5)))
        assert await api.metric("mlflow_proxy_circuit_open") == 1
        assert (await api.get(LIST, **LISTING)).status == 503
        assert (await api.call("POST", WRITE, {"name": "m"})).status == 503
        spends.cancel()
        await asyncio.wait([spends])


async def test_it_closes_when_the_workspace_answers_again(upstream: Upstream, open_circuit: Api) -> None:
    async with open_circuit.session.get(open_circuit.url + "/-/status.json") as response:
        assert (await response.json())["circuit"] == "open"
    async with open_circuit.session.get(open_circuit.url + "/-/readyz") as response:
        assert (await response.json())["circuit"] == "open"
    upstream.respond = answering(OK)
    while (await open_circuit.get(MODEL, name="m")).status != 200:
        pass  # not yet time for a probe
    assert await open_circuit.metric("mlflow_proxy_circuit_open") == 0
    assert (await open_circuit.call("POST", WRITE, {"name": "m"})).status == 200


async def test_one_probe_at_a_time(upstream: Upstream, open_circuit: Api) -> None:
    arrived, go = asyncio.Event(), asyncio.Event()

    async def wait(inbound: Inbound) -> None:
        arrived.set()
        await go.wait()
        await answering(OK)(inbound)

    upstream.respond = wait
    upstream.seen.clear()

    async def until_out(number: int) -> Reply:
        while True:
            reply = await open_circuit.get(MODEL, name=f"m{number}")
            if reply.status != 503 or arrived.is_set():
                return reply

    calls = [asyncio.create_task(until_out(number)) for number in range(10)]
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    async with open_circuit.session.get(open_circuit.url + "/-/status.json") as response:
        assert (await response.json())["circuit"] == "half-open"
    _, waiting = await asyncio.wait(calls, timeout=0.1)
    while len(waiting) > 1:
        _, waiting = await asyncio.wait(calls, timeout=0.1)
    assert len(upstream.seen) == 1
    go.set()
    assert sorted(reply.status for reply in await asyncio.gather(*calls)) == [200] + [503] * 9


@pytest.mark.parametrize(("status", "opens"), [(429, 0), (403, 0), (404, 0), (500, 0), (503, 1), (504, 1)])
async def test_only_the_way_counts(at_once: None, upstream: Upstream, session: aiohttp.ClientSession,
                                   status: int, opens: int) -> None:  # fmt: skip
    upstream.respond = answering(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\n{}" % status)
    budget = BudgetSettings(registry_limit=MUCH, patience=1)
    async with proxied(upstream.url, budget=budget) as url:
        api = Api(session, url)
        await asyncio.gather(*(api.call("DELETE", "registered-models/delete", {"n": n}) for n in range(20)))
        assert await api.metric("mlflow_proxy_circuit_open") == opens


# -- one feature that fails ------------------------------------------------------------------------

GATEWAY = "/api/2.0/mlflow/gateway-proxy"
UPLOADS = "/api/2.0/mlflow-artifacts/artifacts/1/model.bin"
UNAVAILABLE_ANSWER = b"HTTP/1.1 503 X\r\nContent-Length: 2\r\n\r\n{}"


def failing(*parts: str) -> Callable[[Inbound], Awaitable[None]]:
    """Answer 503 to what has one of these in its target, and all else as a workspace does."""

    async def respond(inbound: Inbound) -> None:
        down = any(part in inbound.target for part in parts)
        await answering(UNAVAILABLE_ANSWER if down else OK)(inbound)

    return respond


async def readiness(api: Api) -> tuple[int, object]:
    async with api.session.get(api.url + "/-/readyz") as response:
        return response.status, (await response.json()).get("circuit")


@pytest.mark.parametrize(
    ("method", "endpoint"),
    [
        ("POST", GATEWAY),
        ("GET", GATEWAY),
        ("PUT", UPLOADS),
        ("GET", UPLOADS),
        ("POST", "runs/log-model"),
        ("POST", "registered-models/create"),
        ("POST", "runs/log-batch"),
        ("GET", "model-versions/search"),
    ],
)
async def test_a_feature_that_fails_is_no_outage(
    monkeypatch: pytest.MonkeyPatch,
    at_once: None,
    upstream: Upstream,
    session: aiohttp.ClientSession,
    method: str,
    endpoint: str,
) -> None:
    """Whatever others ask for meanwhile is answered as the workspace answers it."""
    monkeypatch.setattr(circuit_breaker, "FIRST_PROBE", 600)
    monkeypatch.setattr(circuit_breaker, "LONGEST_PROBE", 600)
    monkeypatch.setattr("mlflow_proxy.workspace.FAILURES", 0)  # repeats take their time
    upstream.respond = failing(endpoint)
    async with proxied(upstream.url, budget=BudgetSettings(registry_limit=MUCH)) as url:
        api = Api(session, url)
        for number in range(8):
            replies = await asyncio.gather(
                *(api.call(method, endpoint, {"name": f"{number}-{n}"}) for n in range(20))
            )
            assert {reply.status for reply in replies} == {503}
            assert (await readiness(api))[0] == 200
            assert (await api.call("POST", "runs/create", {"experiment_id": "0"})).status == 200
            assert (await api.call("POST", "runs/search", {"max_results": number})).status == 200
            assert (await api.get(MODEL, name=f"m{number}")).status == 200
            assert await readiness(api) == (200, "closed"), "something succeeds"


async def test_an_endpoint_that_fails_with_nothing_beside_it_is_refused_alone(
    monkeypatch: pytest.MonkeyPatch, at_once: None, upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    monkeypatch.setattr(circuit_breaker, "FIRST_PROBE", 600)
    monkeypatch.setattr(circuit_breaker, "LONGEST_PROBE", 600)
    upstream.respond = failing(WRITE)
    async with proxied(upstream.url, budget=BudgetSettings(registry_limit=MUCH)) as url:
        api = Api(session, url)
        for number in range(20):
            reply = await api.call("POST", WRITE, {"name": f"m{number}"})
        assert len([each for each in upstream.seen if WRITE in each.target]) == circuit_breaker.FAILURES
        assert "nothing else succeeded" in reply.json()["message"]
        assert int(reply.headers["Retry-After"]) >= 1
        assert await readiness(api) == (200, "open")
        assert (await api.call("POST", "runs/create", {})).status == 200
        assert (await api.call("POST", WRITE, {"name": "m"})).json() == {}, "asked again"


async def test_what_streams_says_nothing_when_it_fails(
    monkeypatch: pytest.MonkeyPatch, at_once: None, upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    monkeypatch.setattr("mlflow_proxy.pipeline.LARGEST_HELD_BODY", 10)
    upstream.respond = answering(UNAVAILABLE_ANSWER)
    async with proxied(upstream.url, budget=BudgetSettings(registry_limit=MUCH)) as url:
        api = Api(session, url)
        for _ in range(2 * circuit_breaker.FAILURES):
            assert (await api.call("POST", "runs/log-batch", {"run_id": "longer"})).status == 503
        assert await readiness(api) == (200, "closed")


@pytest.mark.parametrize("parts", [("/api/",), ("/",)])
async def test_a_workspace_that_refuses_across_endpoints_is_not_ready(
    monkeypatch: pytest.MonkeyPatch,
    at_once: None,
    upstream: Upstream,
    session: aiohttp.ClientSession,
    parts: tuple[str, ...],
) -> None:
    """Also if a single endpoint is in use, when what readiness asks for is refused too."""
    monkeypatch.setattr(circuit_breaker, "FIRST_PROBE", 600)
    monkeypatch.setattr(circuit_breaker, "LONGEST_PROBE", 600)
    used = (WRITE,) if parts == ("/",) else (WRITE, "runs/log-batch")
    async with proxied(upstream.url, budget=BudgetSettings(registry_limit=MUCH)) as url:
        api = Api(session, url)
        upstream.respond = failing(*parts)
        for endpoint in used:
            await asyncio.gather(*(api.call("POST", endpoint, {"name": f"m{n}"}) for n in range(20)))
        assert await readiness(api) == (503, "open")
        upstream.respond = answering(OK)
        assert (await api.call("POST", "runs/create", {})).status == 200
        assert await readiness(api) == (200, "closed")


async def test_a_proxy_that_gets_no_calls_becomes_ready_by_itself(
    monkeypatch: pytest.MonkeyPatch, upstream: Upstream, open_circuit: Api
) -> None:
    """A load balancer sends nothing to a proxy that is not ready."""
    monkeypatch.setattr("mlflow_proxy.admin.handlers._PROBE_LIFETIME", 0.0)
    assert (await readiness(open_circuit))[0] == 503
    upstream.respond = answering(OK)
    while await readiness(open_circuit) != (200, "closed"):
        await settle()
    assert (await open_circuit.call("POST", WRITE, {"name": "m"})).status == 200


# -- stale if error --------------------------------------------------------------------------------

LISTING = {"name": "m", "version": "1"}
FILE = {**LISTING, "path": "MLmodel"}


@pytest.fixture
async def stale(workspace: EmulatedWorkspace, session: aiohttp.ClientSession) -> AsyncIterator[Api]:
    """Return a client of a proxy whose listings expire soon and may be served for longer."""
    cache = CacheSettings(listing_ttl=0.5, unverified_ttl=0.5, mutable_ttl=0.5, stale_if_error=3600)
    async with proxied(workspace.url, cache=cache) as url:
        yield Api(session, url)


async def prime(api: Api, token: str = "token-a") -> Reply:
    """Let a listing of a READY version be stored, and expire."""
    await api.get("model-versions/get", token=token, **LISTING)
    reply = await api.get(LIST, token=token, **LISTING)
    assert reply.status == 200
    return reply


def refusing(workspace: EmulatedWorkspace, fault: Fault) -> None:
    workspace.fault = lambda request: fault


async def expired(api: Api, token: str = "token-a") -> Reply:
    while (reply := await api.get(LIST, token=token, **LISTING)).outcome == HIT:
        await settle()
    return reply


@pytest.mark.parametrize("killed", [True, False])
async def test_expired_listings_are_served_while_the_workspace_is_down(
    workspace: EmulatedWorkspace, stale: Api, killed: bool
) -> None:
    listing = await prime(stale)
    door_a = "/api/2.0/mlflow-artifacts/artifacts"
    directory = await stale.get(door_a, path="mlflow-proxy/m/1")
    if killed:
        await workspace.stop()
    else:
        refusing(workspace, DOWN)
    reply, by_door_a, model, signing = await asyncio.gather(
        expired(stale),
        stale.get(door_a, path="mlflow-proxy/m/1"),
        stale.get(MODEL, name="m"),
        stale.get(SIGN, **FILE),
    )
    while by_door_a.outcome == HIT:
        by_door_a = await stale.get(door_a, path="mlflow-proxy/m/1")
    for served, before in ((reply, listing), (by_door_a, directory)):
        assert (served.status, served.body) == (200, before.body)
        assert served.outcome == "hit; detail=stale-if-error"
        assert served.ttl is not None
        assert served.ttl <= -1
        assert int(served.headers["Age"]) >= 0
    assert model.status in {502, 503}
    assert signing.status in {502, 503}
    # One label for all of them, however long ago they expired.
    assert await stale.metric("mlflow_proxy_requests_total", outcome="hit; detail=stale-if-error") >= 2
    no_cache = await stale.call("GET", LIST, LISTING, headers={"Cache-Control": "no-cache"})
    assert no_cache.status in {502, 503}
    # Back again, and so are fresh answers.
    if killed:
        await workspace.start()
    else:
        workspace.fault = lambda request: None
    while "stale" in (reply := await stale.get(LIST, **LISTING)).outcome:
        await settle()
    assert (reply.status, reply.body) == (200, listing.body)


async def test_no_stale_answer_after_a_refusal(workspace: EmulatedWorkspace, stale: Api) -> None:
    """Each credential meets one refusal while its listing is stored, then the workspace goes down."""
    question = {"name": "m", "version": "1", "path": "data"}
    cases = {
        "none": None,
        "unauthenticated": (401, ("GET", MODEL, {"name": "other"})),
        "unauthenticated-elsewhere": (401, ("GET", "/api/2.0/dbfs/list", {"path": "/"})),
        "forbidden-model": (403, ("GET", MODEL, {"name": "M"})),
        "forbidden-other-model": (403, ("GET", MODEL, {"name": "other"})),
        "gone": (404, ("GET", LIST, question)),
    }
    for token, case in cases.items():
        await prime(stale, token)
        if case is not None:
            status, (method, endpoint, parameters) = case
            workspace.fault = first(1, Answer(status, b'{"error_code": "X"}'))
            assert (await stale.call(method, endpoint, parameters, token=token)).status == status
    refusing(workspace, DOWN)
    replies = dict(zip(cases, await asyncio.gather(*(expired(stale, token) for token in cases)), strict=True))
    served = {token for token, reply in replies.items() if reply.status == 200}
    assert served == {"none", "forbidden-other-model"}
    assert (await stale.get(LIST, token="somebody-else", **LISTING)).status == 503


async def test_no_stale_answer_of_what_may_change_or_was_written(
    workspace: EmulatedWorkspace, stale: Api
) -> None:
    await prime(stale)
    await prime(stale, "writer")
    assert (await stale.call("DELETE", "model-versions/delete", LISTING, token="x")).status == 200
    # Not known to be READY.
    assert (await stale.get(LIST, token="unverified", name="m", version="2")).outcome == STORED

    def down(request: web.Request) -> Fault | None:
        return DOWN

    workspace.fault = down
    replies = await asyncio.gather(
        expired(stale),
        expired(stale, "writer"),
        stale.get(LIST, token="unverified", name="m", version="2"),
    )
    if replies[2].outcome == HIT:
        await asyncio.sleep(0.5)
        replies = (*replies[:2], await stale.get(LIST, token="unverified", name="m", version="2"))
    assert [reply.status for reply in replies] == [503] * 3


async def test_nothing_is_served_beyond_the_grace(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    for grace in (0, 0.2):
        cache = CacheSettings(listing_ttl=0.3, unverified_ttl=0.3, stale_if_error=grace)
        async with proxied(workspace.url, cache=cache) as url:
            api = Api(session, url)
            workspace.fault = lambda request: None
            await prime(api)
            refusing(workspace, DOWN)
            while (reply := await api.get(LIST, **LISTING)).status == 200:
                assert reply.outcome == HIT or grace
            assert reply.status == 503


async def test_one_stale_page_makes_the_listing_stale(
    monkeypatch: pytest.MonkeyPatch, session: aiohttp.ClientSession
) -> None:
    # What is repeated takes longer than the last page is fresh.
    monkeypatch.setattr("mlflow_proxy.workspace.FAILURES", 0)
    options = WorkspaceOptions(limit=MUCH, latency=0, page_size=2)
    cache = CacheSettings(listing_ttl=2, unverified_ttl=2, stale_if_error=3600)
    async with (
        EmulatedWorkspace([sample()], options) as workspace,
        proxied(workspace.url, cache=cache) as url,
    ):
        api = Api(session, url)
        door_a = "/api/2.0/mlflow-artifacts/artifacts?path=mlflow-proxy/m/1"
        page_one = {**LISTING, "path": ""}
        await api.get("model-versions/get", **LISTING)
        page_two = {**page_one, "page_token": (await api.get(LIST, **page_one)).json()["next_page_token"]}
        await asyncio.sleep(1)
        await api.get(LIST, **page_two)
        refusing(workspace, DOWN)
        while (await api.get(LIST, **page_one)).outcome == HIT:
            await settle()
        reply = await api.get(door_a)
        assert [file["path"] for file in reply.json()["files"]] == ["MLmodel", "data", "empty.txt", "void"]
        assert "stale" in reply.outcome or (await api.get(LIST, **page_two)).outcome != HIT
