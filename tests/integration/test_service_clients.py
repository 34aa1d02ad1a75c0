"""``access.sharing = "service"``: the proxy's credential goes to the workspace only, clients' nowhere."""

import asyncio
import base64
import json
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Literal

import aiohttp
import pytest

from mlflow_proxy.demo.answers import Answer
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.settings import AccessSettings, BudgetSettings
from tests.integration.conftest import guarded
from tests.integration.service import GET, JOBS, PRINCIPAL, SERVICE, A, clients_toml, replace
from tests.integration.support import (
    API,
    CONFIG,
    HIT,
    LATEST,
    LIST,
    MODEL,
    MUCH,
    SIGN,
    STORED,
    Api,
    Head,
    Upstream,
    answering,
    proxied,
    raw,
)
from tests.integration.test_clients import FILES, contents, download, files_in, job, registered

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
