"""``access.sharing = "service"``: the proxy's credential goes to the workspace only, clients' nowhere."""

import asyncio
import base64
import hashlib
import json
import os
import socket
import sys
import tomllib
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Literal

import aiohttp
import pytest
import structlog

from mlflow_proxy import cli
from mlflow_proxy.access import credential
from mlflow_proxy.demo.answers import Answer
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.settings import AccessSettings, BudgetSettings
from tests.integration.conftest import sample
from tests.integration.oauth import CLIENT_ID, CLIENT_SECRET, oauth_workspace
from tests.integration.support import (
    API,
    CONFIG,
    FRESH,
    HIT,
    LATEST,
    LIST,
    MODEL,
    MUCH,
    SIGN,
    STORED,
    Api,
    Head,
    Reply,
    Upstream,
    answering,
    proxied,
    raw,
)
from tests.integration.test_clients import FILES, contents, download, files_in, job, registered

PRINCIPAL, NEXT = "dapi-of-the-principal", "dapi-of-the-principal-2"
JOBS = {"job-a": "token-a", "job-b": "token-b"}
A: Head = [("Authorization", "Bearer token-a")]
GET = f"{API}{MODEL}?name=m"


def replace(path: Path, text: str) -> None:
    """Put another file in the place of one, as `mv` and Kubernetes do."""
    other = path.with_suffix(".new")
    other.write_text(text)
    other.replace(path)


def spoil(path: Path, text: str | None) -> None:
    """Put something else in the place of a file, or nothing."""
    if text is None:
        path.unlink()
    else:
        replace(path, text)


def clients_toml(clients: dict[str, str]) -> str:
    lines = [f'{name} = "sha256:{hashlib.sha256(t.encode()).hexdigest()}"' for name, t in clients.items()]
    return "\n".join(["[clients]", *lines, ""])


@pytest.fixture
def clients_file(tmp_path: Path) -> Path:
    path = tmp_path / "clients.toml"
    path.write_text(clients_toml(JOBS))
    return path


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{PRINCIPAL}\n")
    return path


@pytest.fixture
def by_file(clients_file: Path, token_file: Path) -> AccessSettings:
    return AccessSettings(sharing="service", token_file=str(token_file), clients_file=str(clients_file))


@pytest.fixture
def by_sdk(clients_file: Path) -> AccessSettings:
    return AccessSettings(sharing="service", clients_file=str(clients_file))


@pytest.fixture
def _principal_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATABRICKS_CLIENT_ID", CLIENT_ID)
    monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", CLIENT_SECRET)


def guarded(*tokens: str) -> EmulatedWorkspace:
    """Return a workspace that lets in who has one of these tokens."""
    return EmulatedWorkspace([sample()], WorkspaceOptions(limit=MUCH, latency=0, tokens=frozenset(tokens)))


async def until(ask: Callable[[], Awaitable[Reply]], status: int) -> Reply:
    """Ask until the status changes from 200 to this one or back; the test's time-out is the limit."""
    while True:
        reply = await ask()
        if reply.status == status:
            return reply
        assert {reply.status, status} & {200}, reply.body
        await asyncio.sleep(0.02)


# -- what reaches whom -----------------------------------------------------------------------------

CREDENTIALS: Head = [
    *A,
    ("Cookie", "session=of-the-client"),
    ("X-Databricks-Azure-SP-Management-Token", "of-the-client"),
    ("X-Databricks-Azure-Workspace-Resource-Id", "of-the-client"),
    ("X-Databricks-Org-Id", "of-the-client"),
    ("X-Forwarded-Access-Token", "of-the-client"),
    ("X-Api-Key", "of-the-client"),
    ("X-Nobody-Has-Heard-Of", "of-the-client"),
    ("Mlflow-Proxy-Client", "of-the-client"),
    ("Proxy-Authorization", "Basic of-the-client"),
]
PLAIN: Head = [("User-Agent", "mlflow"), ("Accept", "*/*"), ("Traceparent", "00-1")]
SHARED = (GET, f"{API}{LIST}?name=m&version=1")
"""What is asked for all has nothing of its first client."""
SENT: list[tuple[str, str, bytes]] = [
    *(("GET", target, b"") for target in SHARED),
    ("GET", f"{API}runs/get?run_id=1", b""),
    ("POST", f"{API}registered-models/create", b'{"name": "m"}'),
    ("POST", "/api/2.0/mlflow/traces", b"x" * 2**20 + b"y"),
    ("GET", "/api/2.0/mlflow-artifacts/artifacts?path=databricks-registry/m/1", b""),
]


@pytest.mark.parametrize(("method", "target", "body"), SENT)
async def test_the_workspace_gets_the_proxy_s_credential_and_nothing_of_the_client_s(
    upstream: Upstream, by_file: AccessSettings, method: str, target: str, body: bytes
) -> None:
    upstream.respond = answering(
        b"HTTP/1.1 200 OK\r\nSet-Cookie: session=of-the-principal\r\nX-Other: kept\r\n"
        b"Content-Length: 2\r\n\r\n{}"
    )
    length = [("Content-Length", str(len(body)))] if body else []
    async with proxied(upstream.url, access=by_file) as url:
        reply = await raw(url, method, target, [*CREDENTIALS, *PLAIN, *length], body)
        assert reply.status == 200, reply
        assert not reply.all("Set-Cookie")
    assert upstream.seen
    for call in upstream.seen:
        assert call.all("Authorization") == [f"Bearer {PRINCIPAL}"]
        assert call.all("Traceparent") == ([] if target in SHARED else ["00-1"])
        everything = repr(call.headers)
        assert "of-the-client" not in everything
        assert "token-a" not in everything


async def test_unknown_clients_are_told_so_and_reach_nothing(
    upstream: Upstream, by_file: AccessSettings
) -> None:
    wrong: list[Head] = [
        [],
        [("Authorization", "Bearer token-c")],
        [("Authorization", f"Bearer {PRINCIPAL}")],
        [*A, *A],
        [("Authorization", "Basic !")],
        [*A, ("Connection", "authorization")],
    ]
    async with proxied(upstream.url, access=by_file) as url:
        for target in (
            GET,
            f"{API}runs/get",
            "/",
            "/api/2.0/mlflow-artifacts/presigned/databricks-registry/m/1",
        ):
            for headers in wrong[:-1] if target == "/" else wrong[:3]:
                reply = await raw(url, "GET", target, headers)
                assert reply.status == 401
                assert reply.all("WWW-Authenticate") == ['Bearer realm="mlflow-proxy"']
                assert reply.json()["error_code"] == "UNAUTHENTICATED"
                assert "MLFLOW_TRACKING_TOKEN" in reply.json()["message"]
                assert reply.complete
        assert (await raw(url, "GET", GET, wrong[-1])).status == 401
        assert (await raw(url, "POST", GET, [("Content-Length", "3")], b"abc")).status == 401
        assert (await raw(url, "GET", "/-/healthz")).status == 200
        assert not upstream.seen
        assert (await raw(url, "GET", GET, A)).status == 200


async def test_discovery_needs_no_token_and_is_given_none(
    upstream: Upstream, by_file: AccessSettings
) -> None:
    body = b'{"oidc_endpoint": "https://w.test/oidc"}'
    upstream.respond = answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    async with proxied(upstream.url, access=by_file) as url:
        assert (await raw(url, "GET", CONFIG, [("Cookie", "c")])).status == 200
        assert (await raw(url, "GET", CONFIG, A)).outcome == HIT
        assert not upstream.seen[0].all("Authorization")
        assert not upstream.seen[0].all("Cookie")
        for target, method in (
            (f"{CONFIG}?x=1", "GET"),
            (f"{CONFIG}?", "GET"),
            (CONFIG, "POST"),
            (CONFIG, "HEAD"),
        ):
            assert (await raw(url, method, target)).status == 401
        assert len(upstream.seen) == 1


async def test_basic_authentication_carries_a_token_as_its_password(
    upstream: Upstream, by_file: AccessSettings
) -> None:
    given = base64.b64encode(b"whoever:token-b").decode()
    async with proxied(upstream.url, access=by_file) as url:
        assert (await raw(url, "GET", GET, [("Authorization", f"Basic {given}")])).status == 200
    assert upstream.seen[0].all("Authorization") == [f"Bearer {PRINCIPAL}"]


async def test_clients_share_answers(session: aiohttp.ClientSession, by_file: AccessSettings) -> None:
    async with guarded(PRINCIPAL) as workspace, proxied(workspace.url, access=by_file) as url:
        api = Api(session, url)
        assert (await api.get(MODEL, name="m", token="token-a")).outcome == STORED
        assert (await api.get(MODEL, name="m", token="token-b")).outcome == HIT
        assert (await api.get(MODEL, name="m", token="token-c")).status == 401
        assert len(workspace.arrivals) == 1


async def test_one_client_s_question_is_not_another_s_by_other_means(
    session: aiohttp.ClientSession, by_file: AccessSettings
) -> None:
    """As a service all have one partition: what a GET asks must not be taken for what a POST asks."""
    async with guarded(PRINCIPAL) as workspace, proxied(workspace.url, access=by_file) as url:
        api = Api(session, url)
        workspace.fault = lambda request: Answer(404, b"{}") if request.method == "GET" else None
        assert (await api.get(LATEST, token="token-b", **{"json:name": '"m"'})).status == 404
        reply = await api.call("POST", LATEST, {"name": "m"}, token="token-a")
        assert (reply.status, reply.outcome) == (200, STORED)


async def test_each_client_has_its_turn_whatever_it_calls_itself(
    upstream: Upstream, by_file: AccessSettings
) -> None:
    """A client with much waiting does not become many clients by other headers."""
    held = asyncio.Event()

    async def respond(inbound: object) -> None:
        await held.wait()

    upstream.respond = respond
    each = 10
    async with proxied(upstream.url, access=by_file, budget=BudgetSettings(runs_search_limit=1)) as url:
        calls = [
            asyncio.create_task(raw(url, "POST", f"{API}runs/search", [
                ("Authorization", f"Bearer {token}"), ("Mlflow-Proxy-Client", str(n)), ("X-Any", str(n))
            ]))
            for token in JOBS.values()
            for n in range(each)
        ]  # fmt: skip
        waiting = 0
        while len(upstream.seen) + waiting < 2 * each:
            status = json.loads((await raw(url, "GET", "/-/status.json")).body)
            group = status["groups"]["runs-search"]
            waiting = sum(group["queued"].values())
            assert group["clients"] <= 2
        assert waiting > 2
        for call in calls:
            call.cancel()


# -- other APIs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "/api/2.0/token/create",
        "/api/2.0/mlflow/%2e%2e/token/create",
        "/api/2.0/mlflow/..;/token/create",
        "/x",
    ],
)
async def test_the_credential_is_for_mlflow_only(
    upstream: Upstream, by_file: AccessSettings, target: str
) -> None:
    length = [("Content-Length", "2")]
    async with proxied(upstream.url, access=by_file) as url:
        reply = await raw(url, "POST", target, [*A, *length], b"{}")
        assert (reply.status, reply.json()["error_code"]) == (403, "PERMISSION_DENIED")
        assert "access.reach" in reply.json()["message"]
    assert not upstream.seen
    everything = by_file.model_copy(update={"reach": "everything"})
    async with proxied(upstream.url, access=everything) as url:
        assert (await raw(url, "POST", target, [*A, *length], b"{}")).status == 200
    assert upstream.seen[0].target == target


# -- without clients -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1", 200),
        ("127.0.0.1", 200),
        ("[::1]:8080", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("[", 400),
        ("", 400),
    ],
)
async def test_without_clients_only_this_machine_is_answered(
    upstream: Upstream, token_file: Path, host: str, status: int
) -> None:
    access = AccessSettings(sharing="service", token_file=str(token_file))
    async with proxied(upstream.url, access=access) as url, aiohttp.ClientSession() as session:
        headers = {"Host": host, "Authorization": "Bearer whatever"}
        async with session.get(url + GET, headers=headers) as reply:
            assert reply.status == status
    assert [call.all("Authorization") for call in upstream.seen] == [[f"Bearer {PRINCIPAL}"]] * (
        status == 200
    )


# -- files that change -----------------------------------------------------------------------------


async def test_clients_come_and_go_with_their_file(
    session: aiohttp.ClientSession, by_file: AccessSettings, clients_file: Path
) -> None:
    async with guarded(PRINCIPAL) as workspace, proxied(workspace.url, access=by_file) as url:
        api = Api(session, url)
        assert (await api.get(MODEL, name="m", token="token-a")).status == 200
        assert (await api.get(MODEL, name="m", token="token-c")).status == 401
        replace(clients_file, clients_toml({"job-b": "token-b", "job-c": "token-c"}))
        await until(lambda: api.get(MODEL, name="m", token="token-a"), 401)
        assert (await api.get(MODEL, name="m", token="token-c")).status == 200
        assert (await api.get(MODEL, name="m", token="token-b")).status == 200


def rewrite(path: Path, text: str) -> None:
    """Write another text into a file, as an editor may."""
    path.write_text(text)


WAYS = pytest.mark.parametrize("write", [replace, rewrite])


@WAYS
async def test_the_last_client_is_shut_out_too(
    session: aiohttp.ClientSession,
    by_file: AccessSettings,
    clients_file: Path,
    write: Callable[[Path, str], None],
) -> None:
    async with guarded(PRINCIPAL) as workspace, proxied(workspace.url, access=by_file) as url:
        api = Api(session, url)
        for token in JOBS.values():
            assert (await api.get(MODEL, name="m", token=token)).status == 200
        with structlog.testing.capture_logs() as said:
            write(clients_file, "[clients]\n")
            for token in JOBS.values():
                await until(partial(api.get, MODEL, name="m", token=token), 401)
        [warning] = [line["event"] for line in said if line["log_level"] == "warning"]
        assert warning == "no client is named, so that all clients are refused"
        write(clients_file, clients_toml({"job-a": "token-a"}))
        await until(partial(api.get, MODEL, name="m", token="token-a"), 200)
        assert (await api.get(MODEL, name="m", token="token-b")).status == 401


@WAYS
@pytest.mark.parametrize("left", ["", "# the clients:\n", "[clien", "[clients]\njob-a = "])
async def test_what_may_be_half_of_a_file_shuts_nobody_out(
    session: aiohttp.ClientSession,
    by_file: AccessSettings,
    clients_file: Path,
    write: Callable[[Path, str], None],
    left: str,
) -> None:
    async with guarded(PRINCIPAL) as workspace, proxied(workspace.url, access=by_file) as url:
        api = Api(session, url)
        with structlog.testing.capture_logs() as said:
            write(clients_file, left)
            while not [line for line in said if line["log_level"] == "error"]:
                assert (await api.get(MODEL, name="m")).status == 200
        [line] = [line for line in said if line["log_level"] == "error"]
        assert line["event"] == "changed file cannot be used; what it said before stays in force"
        assert (await api.get(MODEL, name="m")).status == 200
        assert (await api.get(MODEL, name="m", token="token-c")).status == 401


async def test_a_proxy_may_start_without_a_client(
    session: aiohttp.ClientSession, by_file: AccessSettings, clients_file: Path
) -> None:
    replace(clients_file, "[clients]\n")
    with structlog.testing.capture_logs() as said:
        async with guarded(PRINCIPAL) as workspace, proxied(workspace.url, access=by_file) as url:
            api = Api(session, url)
            [warning] = [line for line in said if line["log_level"] == "warning"]
            assert warning["event"] == "no client is named, so that all clients are refused"
            assert (warning["setting"], warning["path"]) == ("access.clients_file", str(clients_file))
            assert (await api.get(MODEL, name="m")).status == 401
            assert (await api.get(MODEL, name="m", token="")).status == 401
            assert not workspace.registry_arrivals
            replace(clients_file, clients_toml(JOBS))
            await until(lambda: api.get(MODEL, name="m"), 200)


async def test_a_token_that_is_replaced_is_used_at_once(
    session: aiohttp.ClientSession, by_file: AccessSettings, token_file: Path
) -> None:
    """The workspace knows the next token only: the call is refused, the file read, the call made again."""
    async with guarded(NEXT) as workspace, proxied(workspace.url, access=by_file) as url:
        api = Api(session, url)
        replace(token_file, NEXT)
        assert (await api.get(MODEL, name="m")).status == 200
        assert [call.token for call in workspace.arrivals] in ([PRINCIPAL, NEXT], [NEXT])


async def test_another_principal_s_answers_are_not_served(
    session: aiohttp.ClientSession, by_file: AccessSettings, token_file: Path
) -> None:
    async with guarded(PRINCIPAL, NEXT) as workspace, proxied(workspace.url, access=by_file) as url:
        api = Api(session, url)
        assert (await api.get(MODEL, name="m")).outcome == STORED
        replace(token_file, NEXT)
        outcome = HIT
        while outcome == HIT:
            outcome = (await api.get(MODEL, name="m")).outcome
        assert outcome == STORED
        assert [call.token for call in workspace.arrivals] == [PRINCIPAL, NEXT]


@pytest.mark.parametrize(
    "spoiled",
    ["x" * (2**20 + 1), None],
    ids=["too large", "absent"],
)
async def test_a_token_file_that_is_no_longer_one_changes_nothing(
    session: aiohttp.ClientSession, by_file: AccessSettings, token_file: Path, spoiled: str | None
) -> None:
    async with guarded(PRINCIPAL, NEXT) as workspace, proxied(workspace.url, access=by_file) as url:
        api = Api(session, url)
        assert (await api.get(MODEL, name="m")).status == 200
        spoil(token_file, spoiled)
        await asyncio.sleep(1.1)  # it has been looked at by then; if not, this tests less
        assert (
            await api.call("GET", MODEL, {"name": "m"}, headers={"Cache-Control": "no-cache"})
        ).outcome == FRESH
        replace(token_file, NEXT)
        while workspace.arrivals[-1].token != NEXT:
            assert (await api.call("POST", "runs/search", {})).status == 200
            await asyncio.sleep(0.02)


# -- a credential that the workspace refuses -------------------------------------------------------


async def test_a_refused_credential_is_the_proxy_s_fault(
    session: aiohttp.ClientSession, by_file: AccessSettings, token_file: Path
) -> None:
    async with guarded(NEXT) as workspace, proxied(workspace.url, access=by_file) as url:
        api = Api(session, url)
        for number, (method, endpoint) in enumerate(
            (("GET", MODEL), ("POST", "registered-models/create")), 1
        ):
            reply = await api.call(method, endpoint, {"name": "m"})
            assert (reply.status, reply.json()["error_code"]) == (502, "TEMPORARILY_UNAVAILABLE")
            assert f"access.token_file ({token_file})" in reply.json()["message"]
            assert PRINCIPAL not in reply.body.decode()
            assert "WWW-Authenticate" not in reply.headers
            assert len(workspace.arrivals) == number, "with the same token nothing is tried twice"
        async with session.get(f"{url}/-/readyz") as ready:
            assert "refuses" in (await ready.json())["credential"]


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("Invalid access token.", 502),
        ("Token is expiring within 30 seconds. (token expired)", 502),
        ("", 403),
    ],
)
async def test_a_403_may_be_about_the_credential_too(
    upstream: Upstream, by_file: AccessSettings, token_file: Path, reason: str, status: int
) -> None:
    field = f"X-Databricks-Reason-Phrase: {reason}\r\n" if reason else ""
    said = f"HTTP/1.1 403 Forbidden\r\n{field}Content-Length: 2\r\n\r\n{{}}".encode()
    upstream.respond = answering(said)
    async with proxied(upstream.url, access=by_file) as url:
        assert (await raw(url, "GET", GET, A)).status == status
        replace(token_file, NEXT)
        assert (await raw(url, "GET", GET, A)).status == status
    tokens = [call.all("Authorization")[0].split(" ")[1] for call in upstream.seen]
    assert tokens in (
        [[PRINCIPAL, PRINCIPAL, NEXT], [PRINCIPAL, NEXT]] if reason else [[PRINCIPAL, PRINCIPAL]]
    )


async def test_a_body_that_streams_is_not_sent_twice(
    session: aiohttp.ClientSession, by_file: AccessSettings, token_file: Path
) -> None:
    async with guarded(NEXT) as workspace, proxied(workspace.url, access=by_file) as url:
        replace(token_file, NEXT)
        length = [("Content-Length", str(2**20 + 1))]
        reply = await raw(url, "POST", f"{API}runs/search", [*A, *length], b" " * (2**20 + 1))
        if workspace.arrivals[0].token == PRINCIPAL:  # unless the file was looked at meanwhile
            assert reply.status == 502
        assert len(workspace.arrivals) == 1
        assert (await Api(session, url).call("POST", "runs/search", {})).status == 200


async def test_the_workspace_s_401_passes_where_clients_have_credentials(api: Api) -> None:
    async with guarded(NEXT) as workspace, proxied(workspace.url) as url:
        reply = await Api(api.session, url).get(MODEL, name="m")
        assert (reply.status, len(workspace.arrivals)) == (401, 1)


# -- databricks-sdk --------------------------------------------------------------------------------


async def burst(api: Api, number: int = 8) -> list[Reply]:
    return list(
        await asyncio.gather(
            *(api.call("POST", "runs/search", {}, token=list(JOBS.values())[n % 2]) for n in range(number))
        )
    )


@pytest.mark.usefixtures("_principal_around")
async def test_oauth_tokens_are_fetched_once_and_again_before_they_expire(
    session: aiohttp.ClientSession, by_sdk: AccessSettings
) -> None:
    async with oauth_workspace(expires_in=2) as workspace, proxied(workspace.url, access=by_sdk) as url:
        api = Api(session, url)
        assert {reply.status for reply in await burst(api)} == {200}
        # The library itself fetches a second one, when it is asked how long one lives that ends so soon.
        assert workspace.fetches <= 2, "those who wait share one fetch"
        while len(set(workspace.credentials)) < 2:
            reply = await api.call("POST", "runs/search", {})
            assert reply.status == 200
            assert b"oauth-" not in reply.body + repr(reply.headers).encode()
            await asyncio.sleep(0.02)


@pytest.mark.usefixtures("_principal_around")
async def test_a_revoked_token_is_fetched_anew_and_the_call_repeated(
    session: aiohttp.ClientSession, by_sdk: AccessSettings
) -> None:
    async with oauth_workspace() as workspace, proxied(workspace.url, access=by_sdk) as url:
        api = Api(session, url)
        assert {reply.status for reply in await burst(api, 2)} == {200}
        workspace.valid.clear()
        before = len(workspace.credentials)
        assert {reply.status for reply in await burst(api)} == {200}
        assert workspace.fetches == 2
        assert len(workspace.credentials) - before <= 16, "each call at most twice"
        workspace.valid.clear()
        workspace.broken = True
        reply = await api.call("POST", "runs/search", {})
        assert reply.status == 502
        assert "Databricks credentials in the proxy's environment" in reply.json()["message"]


@pytest.mark.usefixtures("_principal_around")
async def test_a_fetch_that_fails_matters_only_when_the_token_has_expired(
    session: aiohttp.ClientSession, by_sdk: AccessSettings, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(credential, "PAUSE", 0.05)
    async with oauth_workspace(expires_in=2) as workspace, proxied(workspace.url, access=by_sdk) as url:
        api = Api(session, url)
        ask = partial(api.call, "POST", "runs/search", {})
        assert (await ask()).status == 200
        workspace.broken = True
        before = workspace.fetches
        reply = await until(ask, 503)
        assert workspace.fetches > before
        assert reply.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
        assert "could not get its credential" in reply.json()["message"]
        assert (await api.get(MODEL, name="m", token="token-c")).status == 401, "which comes first"
        workspace.broken = False
        await until(ask, 200)
    told = reply.body.decode() + "".join(capfd.readouterr())
    assert "server_error" in told, "the log says why"
    assert CLIENT_SECRET not in told
    assert base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode() not in told


async def test_a_profile(
    session: aiohttp.ClientSession, clients_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".databrickscfg").write_text(
        f"[DEFAULT]\nhost = https://another.example\ntoken = dapi-of-another\n[prod]\ntoken = {PRINCIPAL}\n"
    )
    access = AccessSettings(sharing="service", profile="prod", clients_file=str(clients_file))
    async with guarded(PRINCIPAL) as workspace:
        async with proxied(workspace.url, access=access) as url:
            assert (await Api(session, url).get(MODEL, name="m")).status == 200
        for profile, named in (("absent", "profile absent"), ("", "the proxy's environment")):
            wrong = access.model_copy(update={"profile": profile})
            async with proxied(workspace.url, access=wrong) as url:
                reply = await Api(session, url).get(MODEL, name="m")
                assert reply.status == 503
                assert named in reply.json()["message"]


async def test_the_library_does_not_hold_up_the_event_loop(
    clients_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """While a token endpoint never answers, others are answered; the proxy ends all the same."""
    monkeypatch.setattr(credential, "FETCH_LIMIT", 0.2)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATABRICKS_CLIENT_ID", CLIENT_ID)
    monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", CLIENT_SECRET)
    access = AccessSettings(sharing="service", clients_file=str(clients_file))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with proxied(f"http://127.0.0.1:{silent.getsockname()[1]}", access=access) as url:
            waiting = asyncio.create_task(raw(url, "GET", GET, A))
            assert (await raw(url, "GET", "/-/healthz")).status == 200
            reply = await waiting
            assert reply.status == 503
            assert "could not get its credential" in reply.json()["message"]


# -- starting --------------------------------------------------------------------------------------


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["serve", "--upstream", "http://127.0.0.1:9", "--port", "0", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


SERVICE = "--access.sharing=service"


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.0.2.1", "workspace.example", "127.0.0.1,::", "10.0.0.1,::1"]
)
def test_strangers_are_not_let_in(host: str, token_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(capsys, "--host", host, SERVICE, f"--access.token-file={token_file}")
    assert line.startswith("mlflow-proxy: access.clients_file: not set")
    assert "--host 127.0.0.1" in line


@pytest.mark.parametrize("name", ["token", "clients"])
@pytest.mark.parametrize("content", [None, "", "a b"])
def test_files_have_to_be_right_at_start(
    name: str, content: str | None, token_file: Path, clients_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = {"token": token_file, "clients": clients_file}[name]
    path.unlink()
    if content is not None:
        path.write_text(content)
    arguments = (f"--access.token-file={token_file}", f"--access.clients-file={clients_file}")
    line = complaint(capsys, SERVICE, *arguments)
    assert line.startswith(f"mlflow-proxy: access.{name}_file: {path} cannot be used: ")


@pytest.mark.parametrize("argument", ["token-file=x", "clients-file=x", "profile=x", "reach=everything"])
def test_settings_of_one_mode_are_refused_in_the_other(
    argument: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = complaint(capsys, f"--access.{argument}")
    assert "is for access.sharing service" in line


def test_one_credential_is_enough(token_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(capsys, SERVICE, f"--access.token-file={token_file}", "--access.profile=prod")
    assert line.startswith("mlflow-proxy: access.profile: access.token_file is set as well")


def requirement(extra: str) -> str:
    """Return what an extra of this package asks for: a name that an index knows."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    [found] = project["optional-dependencies"][extra]
    assert isinstance(found, str)
    return found


def test_databricks_sdk_is_optional(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "databricks.sdk.config", None)
    line = complaint(capsys, SERVICE)
    assert line.startswith("mlflow-proxy: access.sharing: ")
    assert f"pip install '{requirement('service')}'" in line


# -- all of it -------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", ["A", "B"])
async def test_real_clients_with_tokens_of_the_proxy(
    tmp_path: Path, door: Literal["A", "B"], token_file: Path, clients_file: Path
) -> None:
    """The whole command, so that its log is seen as well."""
    replace(clients_file, clients_toml({"nightly-job": "dapi-of-the-job"}))
    options = WorkspaceOptions(limit=MUCH, latency=0, tokens=frozenset({PRINCIPAL}))
    async with EmulatedWorkspace(registered(), options) as workspace:
        arguments = [
            "--upstream", workspace.url, "--port", "0", "--log-format", "json", SERVICE,
            f"--access.token-file={token_file}", f"--access.clients-file={clients_file}",
        ]  # fmt: skip
        proxy = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mlflow_proxy", "serve", *arguments, stderr=PIPE, env=dict(os.environ)
        )
        try:
            assert proxy.stderr is not None
            while (line := json.loads(await proxy.stderr.readline()))["event"] != "serving":
                pass
            url = line["url"]
            async with job("3", door, url, tmp_path) as process:
                assert await download(process, {str(tmp_path / "got"): "models:/m/1"}) == {}
            assert files_in(tmp_path / "got") == contents(FILES)
            failing = f"{API}{SIGN}?name=m&version=1"
            await workspace.stop()
            assert (
                await raw(url, "GET", failing, [("Authorization", "Bearer dapi-of-the-job")])
            ).status == 503
        finally:
            proxy.terminate()
            _, log = await proxy.communicate()
        said = [json.loads(line) for line in log.splitlines()]
        assert [line["client"] for line in said if line["event"] == "request failed"] == ["nightly-job"]
        for secret in (PRINCIPAL, "dapi-of-the-job"):
            assert secret not in log.decode()
        assert {call.token for call in workspace.registry_arrivals} == {PRINCIPAL}
        assert workspace.storage.arrivals
        for call in workspace.storage.arrivals:
            assert not {"Authorization", "Cookie"} & set(call.headers)
