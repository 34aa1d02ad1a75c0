"""A signed URL leads to storage, and nowhere that trusts the proxy's machine."""

import asyncio
import json
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from mlflow_proxy.demo.workspace import EmulatedWorkspace
from mlflow_proxy.settings import ArtifactSettings, ConnectionSettings
from tests.certificates import Authority
from tests.integration.conftest import FILES
from tests.integration.storage_destinations import (
    DOWNLOAD,
    SIGNATURE,
    Network,
    naming,
    refused,
    signings,
    stored,
)
from tests.integration.support import Api, Inbound, Upstream, proxied, raw, with_files


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "sub.localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "0.0.0.0",
        "0",
        "169.254.169.254",
        "2852039166",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[64:ff9b::7f00:1]",
        "100.100.100.200",
        "168.63.129.16",
        "metadata.google.internal",
    ],
)
async def test_places_that_are_not_asked(upstream: Upstream, network: Network, host: str) -> None:
    async with Upstream() as storage, proxied(f"http://workspace.test:{upstream.port}") as url:
        naming(upstream, f"http://{host}:{storage.port}/x?sig={SIGNATURE}")
        refused(await raw(url, "GET", DOWNLOAD))
        assert not storage.seen
        assert storage.port not in {port for _, port in network.asked}, "nothing was connected to"
        # A canary: the same client's next download from a place that is one.
        stored(storage)
        naming(upstream, f"http://10.1.2.3:{storage.port}/x?sig={SIGNATURE}")
        assert (await raw(url, "GET", DOWNLOAD)).body == b"file"
        assert ("10.1.2.3", storage.port) in network.asked


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["127.8.9.10"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["169.254.169.254"],
        ["fd00:ec2::254"],
        ["0.0.0.0"],
        ["127.0.0.1", "169.254.169.254", "::1"],
    ],
)
async def test_names_that_lead_to_such_places(
    upstream: Upstream, network: Network, addresses: list[str]
) -> None:
    network.names["storage.test"] = addresses
    async with Upstream() as storage, proxied(f"http://workspace.test:{upstream.port}") as url:
        naming(upstream, f"http://storage.test:{storage.port}/x?sig={SIGNATURE}")
        for _ in range(2):
            reply = await raw(url, "GET", DOWNLOAD)
            assert (reply.status, reply.json()["error_code"]) == (502, "TEMPORARILY_UNAVAILABLE")
            assert SIGNATURE not in reply.json()["message"]
        assert storage.port not in {port for _, port in network.asked}
        assert not storage.seen


async def test_of_several_addresses_only_those_of_storage_are_asked(
    upstream: Upstream, network: Network
) -> None:
    network.names["storage.test"] = ["127.0.0.1", "169.254.169.254", "10.1.2.3"]
    async with Upstream() as storage, proxied(f"http://workspace.test:{upstream.port}") as url:
        stored(storage)
        naming(upstream, f"http://storage.test:{storage.port}/x?sig={SIGNATURE}")
        assert (await raw(url, "GET", DOWNLOAD)).body == b"file"
        assert {address for address, port in network.asked if port == storage.port} == {"10.1.2.3"}


async def test_a_name_that_leads_elsewhere_a_moment_later(upstream: Upstream, network: Network) -> None:
    """DNS rebinding: what counts is where the connection goes, not what the name has led to before."""
    async with (
        Upstream() as storage,
        Upstream() as inside,  # another port, since names are remembered for each for a while
        proxied(f"http://workspace.test:{upstream.port}") as url,
    ):
        stored(storage)
        network.names["storage.test"] = ["10.1.2.3"]
        naming(upstream, f"http://storage.test:{storage.port}/x?sig={SIGNATURE}")
        assert (await raw(url, "GET", DOWNLOAD)).body == b"file"
        network.names["storage.test"] = ["127.0.0.1"]
        naming(upstream, f"http://storage.test:{inside.port}/x?sig={SIGNATURE}")
        assert "artifacts.local_storage" in refused(await raw(url, "GET", DOWNLOAD))
        assert not inside.seen


async def test_storage_on_this_machine_has_to_be_permitted(upstream: Upstream, network: Network) -> None:
    origin = f"http://workspace.test:{upstream.port}"
    async with Upstream() as storage:
        stored(storage)
        naming(upstream, f"{storage.url}/x?sig={SIGNATURE}")
        async with proxied(origin) as url:
            assert "artifacts.local_storage" in refused(await raw(url, "GET", DOWNLOAD))
        assert not storage.seen
        async with proxied(origin, artifacts=ArtifactSettings(local_storage=True)) as url:
            assert (await raw(url, "GET", DOWNLOAD)).body == b"file"


@pytest.mark.parametrize("permitted", [False, True])
async def test_metadata_cannot_be_permitted(upstream: Upstream, network: Network, permitted: bool) -> None:
    """Nor does a workspace on this machine make it storage, as a proxy beside the job would be one."""
    naming(upstream, f"http://169.254.169.254/latest/?sig={SIGNATURE}")
    async with proxied(upstream.url, artifacts=ArtifactSettings(local_storage=permitted)) as url:
        refused(await raw(url, "GET", DOWNLOAD))
    assert "169.254.169.254" not in {address for address, _ in network.asked}


async def test_an_emulated_workspace_has_its_storage_beside_it(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    for host in ("127.0.0.1", "localhost"):
        parts = urlsplit(workspace.url)
        async with proxied(f"http://{host}:{parts.port}") as url:
            assert (await Api(session, url).get(DOWNLOAD)).body == FILES["MLmodel"]


async def test_https_is_not_left(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with (
        Upstream(tls=authority.issue("workspace").context()) as workspace,
        Upstream() as storage,
        proxied(workspace.url, connections=ConnectionSettings(ca_file=str(authority.file))) as url,
    ):
        naming(workspace, f"{storage.url}/x?sig={SIGNATURE}")
        assert "its URL is http" in refused(await raw(url, "GET", DOWNLOAD))
        assert not storage.seen


@pytest.mark.parametrize(
    "template",
    [
        "http://user:s3cr3t@127.0.0.1:{port}/x",
        "http://s3cr3t@127.0.0.1:{port}/x",
        "http://127.0.0.1:{port}/x#s3cr3t",
        "http://127.0.0.1:{port}/s3cr3t x",
        "http://127.0.0.1:{port}/x\r\nX-Injected: s3cr3t",
        "http://127.0.0.1:{port}/x\ns3cr3t",
        "http://127.0.0.1:{port}/x\0s3cr3t",
        "http://127.0.0.1:{port}\\@s3cr3t/x",
        "http://127.0.0.1:{port}/s3cr3t\ud800",
        "http://127.0.0.1:{port}0000/s3cr3t",
        "ftp://127.0.0.1:{port}/s3cr3t",
        "//127.0.0.1:{port}/s3cr3t",
        "file:///etc/s3cr3t",
        "s3cr3t",
        "",
    ],
)
async def test_what_is_no_url_is_not_asked(upstream: Upstream, template: str) -> None:
    async with Upstream() as storage, proxied(upstream.url) as url:
        naming(upstream, template.replace("{port}", str(storage.port)))
        refused(await raw(url, "GET", DOWNLOAD))
        assert not storage.seen


async def test_a_refused_place_is_not_kept(upstream: Upstream) -> None:
    async with Upstream() as storage, proxied(upstream.url) as url:
        stored(storage)
        expires = "X-Amz-Date=20990101T000000Z&X-Amz-Expires=3600"
        naming(upstream, f"http://169.254.1.1/x?{expires}")
        refused(await raw(url, "GET", DOWNLOAD))
        naming(upstream, f"{storage.url}/x?{expires}")
        for _ in range(2):
            assert (await raw(url, "GET", DOWNLOAD)).body == b"file"
        assert signings(upstream) == 2


async def test_downloads_at_once_do_not_borrow_each_others_way(upstream: Upstream, network: Network) -> None:
    network.names |= {"good.test": ["10.1.2.3"], "bad.test": ["127.0.0.1"]}
    async with Upstream() as storage, proxied(f"http://workspace.test:{upstream.port}") as url:
        stored(storage)

        async def respond(inbound: Inbound) -> None:
            name = "good" if "good" in inbound.target else "bad"
            body = json.dumps({"signed_uri": f"http://{name}.test:{storage.port}/{name}"}).encode()
            await inbound.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

        names = [f"{name}{number}" for number, name in enumerate(["good", "bad"] * 10)]
        upstream.respond = with_files(respond, *names)
        replies = await asyncio.gather(
            *(raw(url, "GET", DOWNLOAD.replace("MLmodel", name)) for name in names)
        )
        assert [reply.status for reply in replies] == [200, 502] * 10
        assert {inbound.target for inbound in storage.seen} == {"/good"}
