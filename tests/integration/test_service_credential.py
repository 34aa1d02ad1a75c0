"""A credential of the service that the workspace refuses, that expires, or that cannot be had."""

import asyncio
import base64
import socket
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from mlflow_proxy.access import credential
from mlflow_proxy.settings import AccessSettings
from tests.integration.conftest import guarded
from tests.integration.oauth import CLIENT_ID, CLIENT_SECRET, oauth_workspace
from tests.integration.service import GET, JOBS, NEXT, PRINCIPAL, A, replace, until
from tests.integration.support import API, MODEL, Api, Reply, Upstream, answering, proxied, raw


@pytest.fixture
def by_sdk(clients_file: Path) -> AccessSettings:
    return AccessSettings(sharing="service", clients_file=str(clients_file))


@pytest.fixture
def _principal_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATABRICKS_CLIENT_ID", CLIENT_ID)
    monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", CLIENT_SECRET)


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
