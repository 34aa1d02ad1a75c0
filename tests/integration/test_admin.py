"""The proxy's own endpoints: where they are, and who may purge."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from mlflow_proxy import cli
from mlflow_proxy import serving as served
from mlflow_proxy.demo.workspace import EmulatedWorkspace
from mlflow_proxy.errors import InvalidSettingsError
from mlflow_proxy.settings import AdminSettings, Settings, TlsSettings
from tests.certificates import Authority
from tests.integration.support import (
    HIT,
    LIST,
    MODEL,
    OWN,
    QUIET,
    STORED,
    Api,
    RawReply,
    Upstream,
    count,
    proxied,
    raw,
    request_bytes,
)

PURGE = "/-/purge"
TOKEN = "0123456789abcdef"
BEARER = ("Authorization", f"Bearer {TOKEN}")
JSON = ("Content-Type", "application/json")


async def purge(url: str, what: object = None, *headers: tuple[str, str]) -> RawReply:
    body = json.dumps({"name": "m"} if what is None else what).encode()
    return await raw(url, "POST", PURGE, [JSON, *headers, ("Content-Length", str(len(body)))], body)


async def stored(api: Api, **parameters: str) -> bool:
    """Ask, and say whether the answer was stored before."""
    reply = await api.get(MODEL, **parameters)
    assert reply.outcome in {HIT, STORED}
    return reply.outcome == HIT


@asynccontextmanager
async def serving(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession, admin: AdminSettings
) -> AsyncIterator[Api]:
    async with proxied(workspace.url, admin=admin) as url:
        yield Api(session, url)


@pytest.fixture
async def guarded(workspace: EmulatedWorkspace, session: aiohttp.ClientSession) -> AsyncIterator[Api]:
    """Return a proxy with an admin token, and an answer stored."""
    async with serving(workspace, session, AdminSettings(token=SecretStr(TOKEN))) as api:
        await api.get(MODEL, name="m")
        yield api


# -- what goes ---------------------------------------------------------------------------------------------


async def test_a_model_is_purged_and_no_other(api: Api) -> None:
    for _ in range(2):
        await api.get(MODEL, name="m")
        await api.get(LIST, name="m", version="1")
        await api.get(MODEL, name="other")
    reply = await purge(api.url)
    assert (reply.status, reply.json()) == (200, {"name": "m", "dropped": 2, "fleet_told": None})
    assert not await stored(api, name="m")
    assert await stored(api, name="other")
    assert (await api.get(LIST, name="m", version="1")).outcome == STORED


@pytest.mark.parametrize("version", ["1", 1])
async def test_a_version_is_purged(api: Api, version: object) -> None:
    await api.get(LIST, name="m", version="1")
    reply = await purge(api.url, {"name": "m", "version": version})
    assert reply.json() == {"name": "m", "version": "1", "dropped": 1, "fleet_told": None}
    assert (await api.get(LIST, name="m", version="1")).outcome == STORED


async def test_everything_is_purged_if_it_is_said(api: Api) -> None:
    for name in ("m", "other"):
        await api.get(MODEL, name=name)
    reply = await purge(api.url, {"all": True})
    assert (reply.status, reply.json()) == (200, {"all": True, "dropped": 2, "fleet_told": None})
    assert not await stored(api, name="m")


@pytest.mark.parametrize(
    ("query", "left"), [("name=m", {"other"}), ("name=m&version=1", {"other"}), ("all=true", set())]
)
async def test_the_query_says_it_as_well(api: Api, query: str, left: set[str]) -> None:
    for name in ("m", "other"):
        await api.get(MODEL, name=name)
    assert (await raw(api.url, "POST", f"{PURGE}?{query}")).status == 200
    assert {name for name in ("m", "other") if await stored(api, name=name)} == left


async def test_a_call_in_the_air_is_not_stored(api: Api, workspace: EmulatedWorkspace) -> None:
    workspace.hold()
    asking = asyncio.create_task(api.get(MODEL, name="m"))
    await workspace.until(lambda arrivals: len(arrivals) == 1)
    assert (await purge(api.url)).json()["dropped"] == 0
    workspace.release()
    assert (await asking).status == 200
    assert not await stored(api, name="m")


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{}", b"[]", b"null", b"{", b"\xff", b'{"name": ""}', b'{"name": 1}', b'{"name": null}'),
        *(b'{"all": false}', b'{"all": 1.5}', b'{"all": true, "name": "m"}', b'{"version": "1"}'),
        *(b'{"name": "m", "version": ""}', b'{"name": "m", "version": true}', b'{"name": "m", "nam": "x"}'),
        *(b'{"name": "other", "name": "m"}', b"[" * 10_000, b'{"name": "' + b"m" * 70_000 + b'"}'),
    ],
)
async def test_what_is_not_clear_purges_nothing(api: Api, body: bytes) -> None:
    await api.get(MODEL, name="m")
    reply = await raw(api.url, "POST", PURGE, [JSON, ("Content-Length", str(len(body)))], body)
    assert (reply.status, reply.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert await stored(api, name="m")


@pytest.mark.parametrize(
    "query", ["name=", "name=m&name=other", "name=m;version=1", "nam=m", "all=yes", "all", "name=%m"]
)
async def test_nor_does_a_query_that_is_not(api: Api, query: str) -> None:
    await api.get(MODEL, name="m")
    assert (await raw(api.url, "POST", f"{PURGE}?{query}")).status == 400
    assert await stored(api, name="m")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_it_is_a_post(api: Api, method: str) -> None:
    await api.get(MODEL, name="m")
    reply = await raw(api.url, method, f"{PURGE}?name=m")
    assert (reply.status, reply.all("Allow")) == (405, ["POST"])
    assert await stored(api, name="m")


# -- who may ------------------------------------------------------------------------------------------------


async def test_with_the_token(guarded: Api) -> None:
    assert (await purge(guarded.url, None, BEARER)).json()["dropped"] == 1


@pytest.mark.parametrize(
    "credential", [None, "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer token-a"]
)
async def test_without_it_not_even_from_this_machine(guarded: Api, credential: str | None) -> None:
    headers = [("Authorization", credential)] if credential is not None else []
    reply = await purge(guarded.url, None, *headers)
    assert (reply.status, reply.json()["error_code"]) == (401, "UNAUTHENTICATED")
    assert reply.all("WWW-Authenticate") == ['Bearer realm="mlflow-proxy"']
    assert "admin.token" in reply.json()["message"]
    assert await stored(guarded, name="m")


async def test_a_refused_body_is_not_taken_for_a_request(guarded: Api) -> None:
    body = request_bytes("POST", f"{PURGE}?name=m", [BEARER])
    reply = await raw(guarded.url, "POST", PURGE, [("Content-Length", str(len(body)))], body)
    assert (reply.status, reply.complete) == (401, True)
    assert await stored(guarded, name="m")


def elsewhere() -> str | None:
    """Return an address of this machine that is not a loopback one, if it has any."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET-1: nothing is sent
        except OSError:
            return None
        address: str = probe.getsockname()[0]
    return None if address.startswith("127.") else address


async def test_over_a_network_only_with_a_token(workspace: EmulatedWorkspace) -> None:
    address = elsewhere()
    if address is None:
        pytest.skip("this machine has the loopback interface only")
    for token, credential, status in (("", "", 403), (TOKEN, "", 401), (TOKEN, f"Bearer {TOKEN}", 200)):
        told: list[str] = []
        admin = AdminSettings(host=address, port=0, token=SecretStr(token))
        async with proxied(workspace.url, admin=admin, administered=told.append):
            headers = [("Authorization", credential), ("X-Forwarded-For", "127.0.0.1")]
            assert (await purge(told[0], None, *headers)).status == status
            assert (await raw(told[0], "GET", "/-/healthz")).status == 200


BROWSER = {
    "fetch without preflight": [("Origin", "https://evil.example"), ("Content-Type", "text/plain")],
    "fetch that claims to be JSON": [("Origin", "https://evil.example"), JSON],
    "a page of a name that leads here": [("Origin", "http://127.0.0.1:8080"), JSON],
    "a page in a sandbox": [("Origin", "null"), JSON],
    "without an origin": [("Sec-Fetch-Site", "cross-site"), JSON],
}
FORMS = ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x", ""]


@pytest.mark.parametrize("headers", BROWSER.values(), ids=BROWSER)
@pytest.mark.parametrize("by_query", [False, True])
async def test_a_page_in_a_browser_here_may_not(
    api: Api, headers: list[tuple[str, str]], by_query: bool
) -> None:
    await api.get(MODEL, name="m")
    body = b"" if by_query else b'{"name": "m"}'
    target = f"{PURGE}?name=m" if by_query else PURGE
    reply = await raw(api.url, "POST", target, [*headers, ("Content-Length", str(len(body)))], body)
    assert (reply.status, reply.json()["error_code"]) == (403, "PERMISSION_DENIED")
    assert not [name for name, _ in reply.headers if name.lower().startswith("access-control")]
    assert await stored(api, name="m")


@pytest.mark.parametrize("content_type", FORMS)
async def test_nor_a_form_of_a_browser_that_says_nothing_of_itself(api: Api, content_type: str) -> None:
    await api.get(MODEL, name="m")
    body = b'{"name": "m", "x": "="}'
    headers = [("Content-Type", content_type), ("Content-Length", str(len(body)))]
    assert (await raw(api.url, "POST", PURGE, headers, body)).status == 400
    assert await stored(api, name="m")


async def test_a_preflight_is_not_answered(api: Api) -> None:
    asking = [("Origin", "https://evil.example"), ("Access-Control-Request-Method", "POST")]
    reply = await raw(api.url, "OPTIONS", PURGE, asking)
    assert reply.status == 405
    assert not [name for name, _ in reply.headers if name.lower().startswith("access-control")]


# -- a listener of their own -------------------------------------------------------------------------------


async def test_a_listener_of_their_own(workspace: EmulatedWorkspace, session: aiohttp.ClientSession) -> None:
    told: list[str] = []
    admin = AdminSettings(host="127.0.0.1", port=0)
    async with proxied(workspace.url, admin=admin, administered=told.append) as url:
        [own] = told
        for name in ("healthz", "readyz", "metrics", "status.json"):
            assert (await raw(own, "GET", f"/-/{name}")).status == 200
            reply = await raw(url, "GET", f"/-/{name}")
            assert (reply.status, reply.json()["error_code"]) == (404, "ENDPOINT_NOT_FOUND")
        api = Api(session, url)
        await api.get(MODEL, name="m")
        assert (await purge(url)).status == 404
        assert await stored(api, name="m")
        assert (await purge(own)).json()["dropped"] == 1
        for target in (f"/api/2.0/mlflow/{MODEL}?name=m", "/", "/-"):
            assert (await raw(own, "GET", target)).status == 404
        assert (await raw(own, "GET", "http://elsewhere.example/-/healthz")).status == 400
        assert len(workspace.arrivals.to(MODEL)) == 1, "it leads nowhere else"


async def test_it_is_there_until_the_last_client_is_served(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    told: list[str] = []
    settings = Settings(
        upstream=workspace.url,
        port=0,
        shutdown_grace=30,
        access=OWN,
        connections=QUIET,
        admin=AdminSettings(host="127.0.0.1", port=0),
    )
    proxy = AsyncExitStack()
    url = await proxy.enter_async_context(served.serving(settings, administered=told.append))
    workspace.hold()
    asking = asyncio.create_task(Api(session, url).get(MODEL, name="m"))
    await workspace.until(count(1))
    stopping = asyncio.create_task(proxy.aclose())
    while (await raw(told[0], "GET", "/-/readyz")).status == 200:
        pass
    assert (await raw(told[0], "GET", "/-/healthz")).status == 200
    assert not stopping.done()
    workspace.release()
    assert (await asking).status == 200
    await stopping
    with pytest.raises(ConnectionError):
        await raw(told[0], "GET", "/-/healthz")


async def test_it_speaks_tls_if_the_proxy_does(workspace: EmulatedWorkspace, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("proxy")
    told: list[str] = []
    async with (
        proxied(
            workspace.url,
            admin=AdminSettings(host="127.0.0.1", port=0),
            tls=TlsSettings(certificate=str(pair.certificate), key=str(pair.key)),
            administered=told.append,
        ),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=authority.client())) as session,
    ):
        assert told[0].startswith("https://")
        async with session.get(told[0] + "/-/healthz") as response:
            assert response.status == 200


async def test_a_port_that_is_taken_is_named(upstream: Upstream) -> None:
    admin = AdminSettings(host="127.0.0.1", port=upstream.port)
    with pytest.raises(InvalidSettingsError, match=r"^admin\.port: \d+ is already in use .*--admin\.port$"):
        async with proxied(upstream.url, admin=admin):
            pass


# -- the command ---------------------------------------------------------------------------------------------


Said = tuple[int, str, str]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Awaitable[Said]]:
    """Return what runs the command beside the proxy; it returns status, output and errors."""

    async def run(*arguments: str) -> Said:
        status = await asyncio.to_thread(cli.main, ["purge", *arguments])
        told = capsys.readouterr()
        # What the proxy logs goes to the same place.
        return status, told.out.split("\n", told.out.count("\n") - 1)[-1] if status == 0 else "", told.err

    return run


async def test_the_command_purges(
    guarded: Api, command: Callable[..., Awaitable[Said]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = ("--url", guarded.url)
    status, _, told = await command("m", *url)
    assert (status, told.count("\n")) == (1, 1)
    assert told.startswith(f"mlflow-proxy: {guarded.url} answered 401: ")
    assert await stored(guarded, name="m")
    assert await command("m", *url, "--token", TOKEN) == (0, "purged m: 1 stored answers\n", "")
    assert not await stored(guarded, name="m")
    monkeypatch.setenv("MLFLOW_PROXY_ADMIN__TOKEN", TOKEN)
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid")
    assert await command("models:/m/1", *url) == (0, "purged m/1 (all of m): 1 stored answers\n", "")
    assert not await stored(guarded, name="m")
    assert await command("--all", *url) == (0, "purged everything: 1 stored answers\n", "")


async def test_the_command_as_a_process(api: Api) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mlflow_proxy", "purge", "m", "--url", api.url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert await process.communicate() == (b"purged m: 0 stored answers\n", b"")
    assert process.returncode == 0


async def test_the_command_by_https(
    workspace: EmulatedWorkspace, tmp_path: Path, command: Callable[..., Awaitable[Said]]
) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("proxy")
    tls = TlsSettings(certificate=str(pair.certificate), key=str(pair.key))
    async with proxied(workspace.url, tls=tls) as url:
        status, _, told = await command("m", "--url", url)
        assert (status, told.count("\n"), "--ca-file" in told) == (1, 1, True)
        done = await command("m", "--url", url, "--ca-file", str(authority.file))
        assert done == (0, "purged m: 0 stored answers\n", "")


async def test_a_proxy_that_is_not_there(command: Callable[..., Awaitable[Said]]) -> None:
    status, _, told = await command("m", "--url", "http://127.0.0.1:1")
    assert (status, told.count("\n")) == (1, 1)
    assert "http://127.0.0.1:1 could not be reached" in told


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "model: give either the NAME of a model"),
        (("m", "--all"), "model: give either the NAME of a model"),
        (("m/x",), "model: 'm/x' is neither NAME nor NAME/VERSION"),
        (("m/1/2",), "model: 'm/1/2' is neither NAME nor NAME/VERSION"),
        (("m", "--url", "ftp://h"), "url: not a URL such as"),
        (("m", "--url", f"http://user:{TOKEN}@h"), "url: not a URL such as"),
        (("m", "--ca-file", "/absent"), "ca-file: /absent cannot be used (No such file or directory)"),
        (("m", "--tokn", "x"), "--tokn: no such option; did you mean --token?"),
    ],
)
def test_wrong_arguments(arguments: tuple[str, ...], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["purge", *arguments]) == 2
    told: Any = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert told.err.startswith(f"mlflow-proxy: {line}")
    assert TOKEN not in told.err
