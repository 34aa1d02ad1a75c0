"""https for clients, with the certificate replaced while they are served."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.settings import TlsSettings
from tests.certificates import Authority, Pair, subject
from tests.integration import test_clients as clients
from tests.integration.conftest import FILES
from tests.integration.support import MODEL, MUCH, RawClient, count, proxied, raw, request_bytes
from tests.integration.test_clients import contents, download, files_in, job, registered


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def served(authority: Authority) -> Pair:
    return authority.issue("first")


def settings(served: Pair) -> TlsSettings:
    return TlsSettings(certificate=str(served.certificate), key=str(served.key))


@pytest.fixture
async def url(workspace: EmulatedWorkspace, served: Pair) -> AsyncIterator[str]:
    async with proxied(workspace.url, tls=settings(served)) as url:
        assert url.startswith("https://127.0.0.1:")
        yield url


async def connect(url: str, authority: Authority) -> RawClient:
    host, port = url.partition("://")[2].split(":")
    return RawClient(*await asyncio.open_connection(host, port, ssl=authority.client()))


def shown(client: RawClient) -> str | None:
    return subject(client.writer.get_extra_info("ssl_object"))


async def test_a_certificate_is_replaced_while_connections_are_in_flight(
    workspace: EmulatedWorkspace, url: str, served: Pair, authority: Authority
) -> None:
    workspace.hold()
    async with await connect(url, authority) as old:
        await old.send(request_bytes("GET", f"/api/2.0/mlflow/{MODEL}?name=m"))
        await workspace.until(count(1))
        authority.issue("second", kind="rsa").copy_to(served)
        while True:
            async with await connect(url, authority) as new:
                if shown(new) == "second":
                    break
                assert shown(new) == "first"
        workspace.release()
        reply = await old.rest()
        assert (reply.status, reply.complete) == (200, True)
        assert shown(old) == "first"


async def test_a_body_goes_both_ways(url: str, authority: Authority) -> None:
    connector = aiohttp.TCPConnector(ssl=authority.client())
    async with aiohttp.ClientSession(connector=connector) as session:
        listing = f"{url}/api/2.0/mlflow-artifacts/artifacts/mlflow-proxy/m/1/data/big.bin"
        async with session.get(listing) as response:
            assert response.status == 200
            assert await response.read() == contents(FILES)["data/big.bin"]
        tag = {"name": "m", "key": "k", "value": "v" * 100_000}
        async with session.post(f"{url}/api/2.0/mlflow/registered-models/set-tag", json=tag) as response:
            assert response.status == 200


async def test_plain_http_to_it_ends(url: str, authority: Authority) -> None:
    reply = await raw(url.replace("https:", "http:"), "GET", "/-/healthz")
    assert reply.status == 0, "nothing that looks like an answer"
    async with await connect(url, authority) as client:
        await client.send(request_bytes("GET", "/-/healthz"))
        assert (await client.rest()).status == 200


async def test_https_to_plain_http_ends(workspace: EmulatedWorkspace, authority: Authority) -> None:
    async with proxied(workspace.url) as url:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await connect(url, authority)
        assert (await raw(url, "GET", "/-/healthz")).status == 200


async def test_a_real_client_that_trusts_the_ca(served: Pair, authority: Authority, tmp_path: Path) -> None:
    trusting = {"REQUESTS_CA_BUNDLE": str(authority.file)}
    uri: dict[str, str | list[str]] = {str(tmp_path / "downloaded"): "models:/m/1"}
    async with (
        EmulatedWorkspace(registered(), WorkspaceOptions(limit=MUCH, latency=0)) as workspace,
        proxied(workspace.url, tls=settings(served)) as url,
        job("3", "A", url, tmp_path, more=trusting) as process,
    ):
        assert await download(process, uri) == {}
    assert files_in(tmp_path / "downloaded") == contents(clients.FILES)
