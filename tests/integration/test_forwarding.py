"""What the upstream hears of where requests come from, and how it is found out whether it wants to."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import aiohttp
import pytest
from structlog.testing import capture_logs

from mlflow_proxy import discovery
from mlflow_proxy.demo.workspace import EmulatedWorkspace
from mlflow_proxy.mlflow_api.forwarded import FORWARDED
from mlflow_proxy.serving import serving
from mlflow_proxy.settings import AccessSettings, CacheSettings, ConnectionSettings, Settings, TlsSettings
from tests.certificates import Authority
from tests.integration.conftest import FILES
from tests.integration.mlflow_server import mlflow_server
from tests.integration.support import (
    API,
    CONFIG,
    HIT,
    LIST,
    MODEL,
    SIGN,
    STORED,
    Api,
    Inbound,
    RawClient,
    RawReply,
    Upstream,
    answering,
    proxied,
    raw,
    settle,
)

DOWNLOAD = "/api/2.0/mlflow-artifacts/artifacts/mlflow-proxy/m/1/MLmodel"
DOCUMENT = json.dumps({"oidc_endpoint": "https://w.example/oidc"}).encode()
When = Literal["auto", "always", "never"]
AUTO, ALWAYS = ConnectionSettings(forwarded_fields="auto"), ConnectionSettings(forwarded_fields="always")
SEEN = {"x-forwarded-for": "127.0.0.1", "x-forwarded-proto": "http", "x-forwarded-host": "proxy.localhost"}
A = ("Authorization", "Bearer a")


def way(inbound: Inbound) -> dict[str, str]:
    """Return the fields that say where a request came from, each of which must be one."""
    found = [(name.lower(), value) for name, value in inbound.headers if name.lower() in FORWARDED]
    assert len(found) == len(dict(found))
    return dict(found)


async def kind(url: str) -> dict[str, str]:
    status: dict[str, dict[str, str]] = (await raw(url, "GET", "/-/status.json")).json()
    return status["upstream_kind"]


async def until_known(url: str, known: str) -> str:
    """Wait until the upstream is known to be of a kind, and return why; the test's time-out is the limit."""
    while (now := await kind(url))["kind"] != known:
        await settle()
    return now["reason"]


def said(status: str, body: bytes = b"", *lines: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *lines, "", ""]).encode() + body


# -- which kind ------------------------------------------------------------------------------------


async def test_a_workspace_is_known_by_its_document(workspace: EmulatedWorkspace) -> None:
    with capture_logs() as logs:
        async with proxied(workspace.url, connections=AUTO) as url:
            assert await until_known(url, "databricks") == f"it answers {CONFIG} as workspaces do"
    told = [each for each in logs if each["event"] == "the upstream's kind is known"]
    assert [(each["log_level"], each["kind"]) for each in told] == [("info", "databricks")]
    (asked,) = workspace.arrivals
    assert (asked.method, asked.target) == ("GET", CONFIG)
    assert "Authorization" not in asked.headers
    assert not FORWARDED.intersection(name.lower() for name in asked.headers)


async def test_a_workspace_behind_another_proxy_is_known_as_well(workspace: EmulatedWorkspace) -> None:
    async with (
        proxied(workspace.url) as inner,
        proxied(inner, connections=AUTO) as middle,
        proxied(middle, connections=AUTO) as outer,
    ):
        await until_known(outer, "databricks")
        await until_known(middle, "databricks")
        reason = (await kind(inner))["reason"]
        assert reason == "no setting depends on it, so it is not asked"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (said("404 Not Found"), "404"),
        (said("401 Unauthorized", b"", "WWW-Authenticate: Basic realm=mlflow"), "401"),
        (said("302 Found", b"", "Location: https://login.example/"), "redirect"),
        (said("200 OK", b"<html>", "Content-Type: text/html"), "login page"),
        (said("200 OK", DOCUMENT, "Content-Encoding: br"), "no JSON"),
        (said("200 OK", b" " * 100_000 + DOCUMENT), "no JSON"),
        (said("200 OK", b"{}"), "no oidc_endpoint"),
    ],
)
async def test_another_server_is_known_by_whatever_it_says(
    upstream: Upstream, answer: bytes, reason: str
) -> None:
    upstream.respond = answering(answer)
    async with proxied(upstream.url, connections=AUTO) as url:
        assert reason in await until_known(url, "other")


@pytest.mark.parametrize(
    "answer",
    [
        said("503 Service Unavailable"),
        said("500 Oops", DOCUMENT),
        said("429 Too Many Requests", b"", "Retry-After: 3600"),
        said("407 Proxy Authentication Required"),
        said("200 OK", DOCUMENT)[:-5],
        b"what is this",
        None,
    ],
)
async def test_without_an_answer_it_serves_and_complains_of_nothing(
    upstream: Upstream, answer: bytes | None
) -> None:
    async def respond(inbound: Inbound) -> None:
        if inbound.target != CONFIG:
            await inbound.send(said("200 OK"))
        elif answer is None:
            inbound.reset()
        else:
            await inbound.send(answer)
            inbound.writer.close()

    upstream.respond = respond
    with capture_logs() as logs:
        async with proxied(upstream.url, connections=AUTO) as url:
            while not upstream.seen:
                await settle()
            await settle()
            assert (await raw(url, "GET", "/anything")).status == 200
            assert await kind(url) == {
                "kind": "unknown",
                "reason": f"it has not answered {CONFIG} yet",
            }
            # It is asked what it is once more every second.
            [arrived] = [each for each in upstream.seen if each.target == "/anything"]
            assert way(arrived) == SEEN, "what is not known to be a workspace hears of clients"
    assert not [each for each in logs if each["log_level"] in {"error", "critical"}]


async def test_a_document_that_changes_changes_the_kind_and_what_is_told(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "_LEAST_LIFETIME", 0.0)  # so that it asks on and on
    document = said("200 OK", DOCUMENT)

    async def respond(inbound: Inbound) -> None:
        await inbound.send(document if inbound.target == CONFIG else said("200 OK"))

    async def told(url: str) -> dict[str, str]:
        await raw(url, "GET", "/any")
        return way(next(each for each in reversed(upstream.seen) if each.target == "/any"))

    upstream.respond = respond
    cache = CacheSettings(discovery_ttl=0)
    with capture_logs() as logs:
        async with proxied(upstream.url, connections=AUTO, cache=cache) as url:
            await until_known(url, "databricks")
            assert await told(url) == {}
            document = said("200 OK", b"<html>Sign in</html>")
            assert "login page" in await until_known(url, "other")
            assert await told(url) == SEEN
            document = said("200 OK", DOCUMENT)
            await until_known(url, "databricks")
            document, asked = said("429 Too Many Requests", b"", "Retry-After: 3600"), len(upstream.seen)
            while len(upstream.seen) < asked + 2:
                await settle()
            assert (await kind(url))["kind"] == "databricks", "no answer changes nothing"
            assert await told(url) == {}
    changes = [each["kind"] for each in logs if each["event"] == "the upstream's kind is known"]
    assert changes == ["databricks", "other", "databricks"]


async def test_starting_and_stopping_do_not_wait_for_the_answer(upstream: Upstream) -> None:
    hung = asyncio.Event()

    async def respond(inbound: Inbound) -> None:
        hung.set()
        await asyncio.Event().wait()

    upstream.respond = respond
    async with proxied(upstream.url, connections=AUTO) as url:
        await hung.wait()
        assert (await raw(url, "GET", "/-/healthz")).status == 200


async def test_a_question_takes_nothing_from_what_is_stored_or_budgeted(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    """The next question is as good as the first."""
    async with proxied(workspace.url) as inner:
        api = Api(session, inner)
        for _ in range(2):
            await api.call("GET", CONFIG, token="")
        assert len(workspace.arrivals) == 1
        async with proxied(inner, connections=AUTO) as outer:
            await until_known(outer, "databricks")
            assert len(workspace.arrivals) == 2, "not from what the proxy in between has stored"
            assert all(group["in_window"] == 0 for group in (await Api(session, outer).budgets()).values())


async def test_a_name_of_the_vendor_needs_no_question(tmp_path: Path) -> None:
    settings = Settings(upstream="https://nowhere.cloud.databricks.com", port=0, shutdown_grace=0.01)
    with capture_logs() as logs:
        async with serving(settings) as url:
            await settle()
            assert await kind(url) == {
                "kind": "databricks",
                "reason": "its name ends in .cloud.databricks.com",
            }
            calls = (await raw(url, "GET", "/-/metrics")).body.decode()
            assert "upstream_calls_total{group" not in calls
    assert not [each for each in logs if "circuit" in each["event"]]


# -- what is told ----------------------------------------------------------------------------------


async def test_an_upstream_of_another_kind_hears_of_clients(
    upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    upstream.respond = answering(said("404 Not Found"))
    own = [
        A,
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Forwarded-Proto", "https"),
        ("x-forwarded-for", "10.0.0.1"),
    ]
    async with proxied(upstream.url, connections=AUTO) as url:
        await until_known(url, "other")
        upstream.seen.clear()
        for target in ("/any", f"{API}{MODEL}?name=m", f"{API}experiments/list"):
            await raw(url, "GET", target, [A])
        await raw(url, "POST", f"{API}registered-models/create", [A, ("Content-Length", "2")], b"{}")
        assert [way(each) for each in upstream.seen] == [SEEN] * 4
        upstream.seen.clear()
        for target in ("/any", f"{API}{MODEL}?name=m"):
            await raw(url, "GET", target, [*own, ("Forwarded", "for=203.0.113.9;proto=https")])
        await raw(
            url, "GET", "/any", [A, ("Connection", "close, X-Forwarded-For"), ("X-Forwarded-For", "::1")]
        )
    first, second, third = map(way, upstream.seen)
    assert first == second
    assert first == {
        "x-forwarded-for": "203.0.113.9, 10.0.0.1, 127.0.0.1",
        "x-forwarded-proto": "https, http",
        "x-forwarded-host": "proxy.localhost",
        "forwarded": 'for=203.0.113.9;proto=https, for=127.0.0.1;host="proxy.localhost";proto=http',
    }
    assert third == SEEN, "nobody can have it left out"


async def test_a_workspace_hears_only_what_clients_say(workspace: EmulatedWorkspace) -> None:
    async with proxied(workspace.url, connections=AUTO) as url:
        await until_known(url, "databricks")
        workspace.reset()
        await raw(url, "GET", f"{API}{MODEL}?name=m", [A])
        await raw(url, "GET", "/any", [A])
        await raw(url, "GET", "/any", [A, ("X-Forwarded-For", "10.0.0.1")])
    told = [
        [(n, v) for n, v in each.headers.items() if n.lower() in FORWARDED] for each in workspace.arrivals
    ]
    assert told == [[], [], [("X-Forwarded-For", "10.0.0.1")]]


@pytest.mark.parametrize(("when", "expected"), [("always", SEEN), ("never", {})])
async def test_whoever_decides_is_not_asked(upstream: Upstream, when: When, expected: dict[str, str]) -> None:
    upstream.respond = answering(said("200 OK", DOCUMENT))
    async with proxied(upstream.url, connections=ConnectionSettings(forwarded_fields=when)) as url:
        await raw(url, "GET", "/any", [A])
        await raw(url, "GET", f"{API}{MODEL}?name=m", [A])
        await settle()
        assert (await kind(url))["kind"] == "unknown"
    assert [way(each) for each in upstream.seen] == [expected] * 2


async def test_https_is_told(upstream: Upstream, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("localhost")
    tls = TlsSettings(certificate=str(pair.certificate), key=str(pair.key))
    async with (
        proxied(upstream.url, connections=ALWAYS, tls=tls) as url,
        aiohttp.ClientSession() as session,
        session.get(url + "/any", ssl=False) as response,
    ):
        assert response.status == 200
    assert way(upstream.seen[0])["x-forwarded-proto"] == "https"


async def test_answers_of_one_address_are_not_anothers(
    upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    """An upstream may refuse what it would answer elsewhere."""

    async def respond(inbound: Inbound) -> None:
        allowed = way(inbound)["x-forwarded-for"] == "10.0.0.1, 127.0.0.1"
        await inbound.send(said("200 OK" if allowed else "403 Forbidden", b"{}"))

    upstream.respond = respond
    async with proxied(upstream.url, connections=ALWAYS) as url:
        api = Api(session, url)

        async def asked(address: str) -> tuple[int, str]:
            fields = {"X-Forwarded-For": address}
            reply = await api.call("GET", LIST, {"name": "m", "version": "1"}, headers=fields)
            return reply.status, reply.outcome

        assert await asked("10.0.0.1") == (200, STORED)
        assert await asked("10.0.0.1") == (200, HIT)
        assert (await asked("10.0.0.2"))[0] == 403


async def test_files_by_both_doors_are_asked_for_alike_and_storage_hears_nothing(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    async with proxied(workspace.url, connections=ALWAYS) as url:
        api = Api(session, url)
        assert (await api.get(SIGN, name="m", version="1", path="MLmodel")).outcome == STORED
        way_of_client = {"Forwarded": "for=10.0.0.1"}
        for headers in ({}, way_of_client):
            reply = await api.call("GET", DOWNLOAD, headers=headers)
            assert (reply.status, reply.body) == (200, FILES["MLmodel"])
    signed = workspace.arrivals.to(SIGN)
    assert [each.headers.getall("X-Forwarded-For") for each in signed] == [["127.0.0.1"]] * 2
    assert [each.headers.getall("Forwarded", []) for each in signed] != [[], []]
    assert len(workspace.storage.arrivals) == 2
    for each in workspace.storage.arrivals:
        assert not FORWARDED.intersection(name.lower() for name in each.headers)


@pytest.mark.parametrize("when", ["always", "never"])
async def test_a_service_tells_the_way_and_nothing_else_of_clients(
    upstream: Upstream, tmp_path: Path, when: When
) -> None:
    (tmp_path / "token").write_text("dapi-of-the-principal")
    access = AccessSettings(sharing="service", token_file=str(tmp_path / "token"))
    connections = ConnectionSettings(forwarded_fields=when)
    fields = [
        ("X-Forwarded-For", "203.0.113.9"),
        ("Forwarded", "for=203.0.113.9"),
        ("X-Forwarded-User", "root"),
    ]
    async with proxied(upstream.url, connections=connections, access=access) as url:
        for target in (f"{API}runs/get?run_id=1", f"{API}{MODEL}?name=m"):
            reply = await local(url, target, fields)
            assert reply.status == 200
    passed, shared = map(way, upstream.seen)
    assert shared == {}, "what all are answered is asked in the proxy's own name"
    assert passed == (
        {
            "x-forwarded-for": "203.0.113.9, 127.0.0.1",
            "x-forwarded-proto": "http",
            "x-forwarded-host": "localhost",
            "forwarded": 'for=203.0.113.9, for=127.0.0.1;host="localhost";proto=http',
        }
        if when == "always"
        else {}
    )
    assert all(each.all("X-Forwarded-User") == [] for each in upstream.seen)
    assert all(each.all("Authorization") == ["Bearer dapi-of-the-principal"] for each in upstream.seen)


async def local(url: str, target: str, fields: list[tuple[str, str]]) -> RawReply:
    """Ask under a name of this machine, the only ones that a service without known clients answers."""
    lines = [f"GET {target} HTTP/1.1", "Host: localhost", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in fields]
    async with await RawClient.connect(url) as client:
        await client.send("\r\n".join([*lines, "", ""]).encode())
        return await client.rest()


# -- why it matters --------------------------------------------------------------------------------

LOCAL_ONLY = "/ajax-api/3.0/mlflow/assistant/providers/none/health"
"""Of MLflow's open-source server; others than its own machine get 403, and that a 404 here."""


def own_address() -> str:
    """Return an address of this machine that is not loopback, empty if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(("192.0.2.1", 9))  # TEST-NET-1: nothing is sent
        except OSError:
            return ""
        address = str(asking.getsockname()[0])
        return "" if address.startswith("127.") else address


@asynccontextmanager
async def elsewhere() -> AsyncIterator[aiohttp.ClientSession]:
    """Return a client whose address is not loopback, as far as servers can see."""
    if not (address := own_address()):
        pytest.skip("this machine has no address but loopback")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=(address, 0))) as session:
        yield session


@pytest.mark.timeout(180)  # a new database takes the server its time
async def test_what_is_for_clients_of_the_servers_machine_stays_so(tmp_path: Path) -> None:
    async def status(session: aiohttp.ClientSession, url: str) -> int:
        async with session.get(url + LOCAL_ONLY) as response:
            return response.status

    async with (
        mlflow_server(tmp_path) as server,
        proxied(server, connections=AUTO) as url,
        proxied(server) as silent,
        proxied(url, connections=AUTO) as outer,
        aiohttp.ClientSession() as here,
        elsewhere() as there,
    ):
        assert "404" in await until_known(url, "other")
        await until_known(outer, "other")
        direct = await status(here, server), await status(there, server)
        assert direct == (404, 403)
        assert (await status(here, url), await status(there, url)) == direct
        assert (await status(here, outer), await status(there, outer)) == direct
        assert await status(there, silent) == 404, "what happens without the fields"
