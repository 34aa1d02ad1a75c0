"""Pages that let their own name lead to a proxy (DNS rebinding): on loopback they get nothing of it."""

import asyncio
import socket
from pathlib import Path
from typing import Any, Literal

import pytest
from aiohttp import web

from mlflow_proxy.admin import crew
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.settings import AccessSettings, AdminSettings
from tests.integration.support import (
    API,
    CONFIG,
    HIT,
    LIST,
    MODEL,
    MUCH,
    RawClient,
    RawReply,
    Upstream,
    proxied,
)
from tests.integration.test_clients import FILES, contents, download, files_in, job, registered

FOREIGN = [
    "evil.example",
    "evil.example:8080",
    "localhost.evil.example",
    "127.0.0.1.nip.io",
    "10.0.0.5",
    "0.0.0.0",
]
OWN = ["localhost", "LOCALHOST.:1", "job.localhost", "127.0.0.1", "127.1:8080", "[::1]", "[::ffff:127.0.0.1]"]
QUESTION = f"{API}registered-models/get-latest-versions?name=m"
"""A read of which the upstream's ``{}`` is an answer."""
FILE = "/api/2.0/mlflow-artifacts/artifacts/mlflow-proxy/m/1/MLmodel"
EVERY_KIND = [
    *(("GET", target) for target in (QUESTION, f"{API}{LIST}?name=m&version=1", CONFIG, FILE)),
    *(("GET", target) for target in ("/api/2.0/clusters/list", "/", "/static/index.html")),
    *(("POST", f"{API}{target}") for target in ("registered-models/create", "runs/search")),
    *(("GET", f"/-/{name}") for name in ("healthz", "readyz", "metrics", "status.json", "absent")),
    *(("POST", "/-/purge?all=true"), ("OPTIONS", "/-/purge"), ("OPTIONS", f"{API}{MODEL}"), ("HEAD", "/")),
]


async def called(
    url: str,
    host: str | None,
    method: str = "GET",
    target: str = QUESTION,
    version: str = "1.1",
) -> RawReply:
    """Send a request as it would come with such a Host."""
    lines = [f"{method} {target} HTTP/{version}", *([f"Host: {host}"] if host is not None else [])]
    lines += ["Authorization: Bearer token-a", "Connection: close", "X-Forwarded-Host: localhost", "", ""]
    async with await RawClient.connect(url) as client:
        await client.send("\r\n".join(lines).encode())
        return await client.rest()


def assert_refused(reply: RawReply, host: str) -> None:
    assert (reply.status, reply.all("Content-Type")) == (403, ["application/json"])
    if reply.body:
        said = reply.json()
        assert said["error_code"] == "PERMISSION_DENIED"
        assert repr(host) in said["message"]
        assert "allowed_hosts" in said["message"]
    assert not [name for name, _ in reply.headers if name.lower().startswith("access-control")]


@pytest.fixture(params=["credential", "proven", "service"])
def access(request: pytest.FixtureRequest, tmp_path: Path) -> AccessSettings:
    """Return every way of sharing there is; the last without clients."""
    token = tmp_path / "token"
    token.write_text("dapi-of-the-principal")
    own = {"token_file": str(token)} if request.param == "service" else {}
    return AccessSettings.model_validate({"sharing": request.param, **own})


@pytest.mark.parametrize("host", FOREIGN)
async def test_nothing_is_answered_to_a_foreign_host(
    upstream: Upstream, access: AccessSettings, host: str
) -> None:
    async with proxied(upstream.url, access=access) as url:
        assert (await called(url, "localhost")).status == 200
        before = len(upstream.seen)
        for method, target in EVERY_KIND:
            assert_refused(await called(url, host, method, target), host)
        assert len(upstream.seen) == before, "nor is the workspace asked"
        hit = await called(url, "localhost")
        assert hit.outcome == HIT, "and nothing was purged"


@pytest.mark.parametrize("host", OWN)
async def test_names_of_this_machine_are_answered(
    upstream: Upstream, access: AccessSettings, host: str
) -> None:
    async with proxied(upstream.url, access=access) as url:
        for target in (QUESTION, "/-/healthz"):
            assert (await called(url, host, target=target)).status == 200


async def test_http_1_0_may_come_without_a_host(proxy_url: str) -> None:
    assert (await called(proxy_url, None, target="/-/healthz", version="1.0")).status == 200
    assert_refused(await called(proxy_url, "evil.example", version="1.0"), "evil.example")
    assert (await called(proxy_url, None)).status == 400
    assert (await called(proxy_url, "evil.example, localhost")).status == 400
    assert (await called(proxy_url, "localhost\r\nHost: evil.example")).status == 400
    assert (await called(proxy_url, "localhost", target=f"http://evil.example{API}{MODEL}")).status == 400


async def test_hosts_that_the_operator_lists(upstream: Upstream) -> None:
    async with proxied(upstream.url, allowed_hosts=["proxy.internal"]) as url:
        assert (await called(url, "Proxy.Internal:8080")).status == 200
        assert (await called(url, "localhost")).status == 200
        for host in (*FOREIGN, "sub.proxy.internal"):
            assert_refused(await called(url, host), host)


LISTENERS = ["127.0.0.1", "127.0.0.2", "localhost", "0x7f.1", "127.0.0.2,127.0.0.1", "localhost,127.0.0.2"]


@pytest.mark.parametrize("host", LISTENERS)
async def test_every_loopback_listener(upstream: Upstream, host: str) -> None:
    async with proxied(upstream.url, host=host) as url:
        assert_refused(await called(url, "evil.example"), "evil.example")
        assert (await called(url, "localhost")).status == 200


async def test_a_name_that_leads_to_loopback_is_a_loopback_listener_s(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the machine's own name does on Debian; it is answered to."""
    loop = asyncio.get_running_loop()
    resolve = loop.getaddrinfo

    async def found(host: Any, *arguments: Any, **options: Any) -> Any:
        return await resolve("127.0.0.1" if host == "machine.test" else host, *arguments, **options)

    monkeypatch.setattr(loop, "getaddrinfo", found)
    async with proxied(upstream.url, host="machine.test") as url:
        assert (await called(url, "machine.test:1")).status == 200
        assert_refused(await called(url, "evil.example"), "evil.example")


@pytest.mark.parametrize(
    ("allowed", "foreign"), [([], 200), (["proxy.internal"], 403)], ids=["any", "those listed"]
)
async def test_elsewhere(upstream: Upstream, allowed: list[str], foreign: int) -> None:
    async with proxied(upstream.url, host="0.0.0.0", allowed_hosts=allowed) as everywhere:
        url = everywhere.replace("0.0.0.0", "127.0.0.1")
        for host, status in (("proxy.internal", 200), ("10.0.0.5:8080", 200), ("localhost", 200)):
            assert (await called(url, host)).status == status
        for target in (QUESTION, "/-/healthz", "/"):
            assert (await called(url, "evil.example", target=target)).status == foreign


async def test_one_address_that_is_not_loopback_makes_a_listener_for_all(upstream: Upstream) -> None:
    for host in ("127.0.0.2,0.0.0.0", "0.0.0.0,127.0.0.2"):
        async with proxied(upstream.url, host=host) as url:
            assert (await called(url.replace("0.0.0.0", "127.0.0.1"), "proxy.internal")).status == 200


async def test_it_answers_at_every_address(upstream: Upstream) -> None:
    told: list[str] = []
    admin = AdminSettings(host=("127.0.0.3", "127.0.0.4"), port=0)
    hosts = ("127.0.0.1", "127.0.0.2")
    async with proxied(upstream.url, host=hosts, admin=admin, administered=told.append) as url:
        assert url.startswith("http://127.0.0.1:")
        for each in (url, url.replace("127.0.0.1", "127.0.0.2")):
            assert (await called(each, "localhost")).status == 200
        assert [each.rpartition(":")[0] for each in told] == ["http://127.0.0.3", "http://127.0.0.4"]
        assert len({each.rpartition(":")[2] for each in told}) == 1
        for each in told:
            assert (await called(each, "localhost", target="/-/healthz")).status == 200


@pytest.mark.parametrize("both_ways", [("127.0.0.1", "0.0.0.0"), ("0.0.0.0", "127.0.0.1")])
async def test_the_own_endpoints_listener_goes_by_its_own_address(
    workspace: EmulatedWorkspace, both_ways: tuple[str, str]
) -> None:
    told: list[str] = []
    host, own = both_ways
    admin = AdminSettings(host=own, port=0)
    async with proxied(workspace.url, host=host, admin=admin, administered=told.append) as url:
        for listening, address in ((url, host), (told[0], own)):
            reachable = listening.replace("0.0.0.0", "127.0.0.1")
            for method, target in EVERY_KIND:
                foreign = await called(reachable, "evil.example", method, target)
                if address == "127.0.0.1":
                    assert_refused(foreign, "evil.example")
                else:
                    assert foreign.status != 403
        own_url = told[0].replace("0.0.0.0", "127.0.0.1")
        assert (await called(own_url, "localhost", target="/-/healthz")).status == 200
        assert (await called(own_url, "localhost", "POST", "/-/purge?all=true")).status == 200


async def test_workers_speak_to_each_other_by_loopback_names_only() -> None:
    async def secret(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="of a worker")

    with socket.create_server(("127.0.0.1", 0)) as private:
        url = f"http://127.0.0.1:{private.getsockname()[1]}"
        async with crew.answer_apart({"secret": secret}, private):
            assert (await called(url, url.removeprefix("http://"), target="/-/secret")).body == b"of a worker"
            assert_refused(await called(url, "evil.example", target="/-/secret"), "evil.example")


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("door", ["A", "B"])
async def test_real_clients_call_it_by_names_of_this_machine(
    tmp_path: Path, door: Literal["A", "B"], name: str
) -> None:
    options = WorkspaceOptions(limit=MUCH, latency=0)
    async with EmulatedWorkspace(registered(), options) as workspace, proxied(workspace.url) as url:
        async with job("3", door, url.replace("127.0.0.1", name), tmp_path) as process:
            assert await download(process, {str(tmp_path / "got"): "models:/m/1"}) == {}
        assert files_in(tmp_path / "got") == contents(FILES)
