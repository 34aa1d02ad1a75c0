"""Where the workspace can send door A: its storage, and nowhere that trusts the proxy's machine."""

import asyncio
import json
import socket
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from mlflow_proxy.demo.workspace import EmulatedWorkspace
from mlflow_proxy.settings import ArtifactSettings, ConnectionSettings
from tests.certificates import Authority
from tests.integration.conftest import FILES
from tests.integration.forward_proxy import ForwardProxy
from tests.integration.support import SIGN, Api, Head, Inbound, RawReply, Upstream, proxied, raw, with_files

DOWNLOAD = "/api/2.0/mlflow-artifacts/artifacts/mlflow-proxy/m/1/MLmodel"
FILE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfile"
SIGNATURE = "s3cr3t"


@dataclass
class Network:
    """Names lead where a test says, and every address leads to this machine once it is allowed."""

    names: dict[str, list[str]] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)
    """Addresses that were connected to, but for this machine's own as the tests' clients use them."""
    ports: dict[int, int] = field(default_factory=dict)
    """Where other ports than the one asked for answer."""


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    network = Network({"workspace.test": ["10.0.0.1"]})
    resolve, connect = socket.getaddrinfo, BaseSelectorEventLoop.sock_connect

    def getaddrinfo(host: Any, port: Any, *rest: Any, **more: Any) -> Sequence[Any]:
        if host not in network.names:
            return resolve(host, port, *rest, **more)
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                (address, port, 0, 0) if ":" in address else (address, port),
            )
            for address in network.names[host]
        ]

    async def sock_connect(loop: BaseSelectorEventLoop, sock: socket.socket, address: Any) -> None:
        network.asked.append((address[0], address[1]))
        await connect(loop, sock, ("127.0.0.1", network.ports.get(address[1], address[1])))

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(BaseSelectorEventLoop, "sock_connect", sock_connect)
    return network


def naming(workspace: Upstream, url: object, headers: Sequence[Mapping[str, object]] = ()) -> None:
    """Let a workspace name a place for every file."""
    body = json.dumps({"signed_uri": url, "headers": list(headers)}).encode()

    async def respond(inbound: Inbound) -> None:
        inbound.received = await inbound.body()
        await inbound.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    workspace.respond = with_files(respond, "MLmodel")


def signings(workspace: Upstream) -> int:
    return sum(SIGN in inbound.target for inbound in workspace.seen)


def stored(storage: Upstream) -> None:
    async def respond(inbound: Inbound) -> None:
        inbound.received = await inbound.body()
        await inbound.send(FILE)

    storage.respond = respond


def refused(reply: RawReply) -> str:
    assert (reply.status, reply.json()["error_code"]) == (502, "TEMPORARILY_UNAVAILABLE")
    message: str = reply.json()["message"]
    assert message.startswith("The place that the workspace names for this file was not asked: ")
    assert SIGNATURE not in message
    return message


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


# -- redirects ---------------------------------------------------------------------------------------------


def redirecting(storage: Upstream, *locations: str, status: int = 307) -> None:
    fields = "".join(f"Location: {location}\r\n" for location in locations)
    head = f"HTTP/1.1 {status} Elsewhere\r\n{fields}Content-Length: 0\r\n\r\n".encode()

    async def respond(inbound: Inbound) -> None:
        inbound.received = await inbound.body()
        await inbound.send(head)

    storage.respond = respond


def refused_redirect(reply: RawReply) -> str:
    assert (reply.status, reply.json()["error_code"]) == (502, "TEMPORARILY_UNAVAILABLE")
    message: str = reply.json()["message"]
    assert message.startswith("The place that storage redirects to for this file was not asked: ")
    assert SIGNATURE not in message
    return message


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_redirects_of_storage_are_followed(upstream: Upstream, status: int, method: str) -> None:
    async with Upstream() as storage, Upstream() as elsewhere, proxied(upstream.url) as url:
        stored(elsewhere)
        naming(upstream, f"{storage.url}/x?sig={SIGNATURE}")
        redirecting(storage, f"{elsewhere.url}/y%2Fz?sig=%2b+/=", status=status)
        reply = await raw(url, method, DOWNLOAD, [("Range", "bytes=0-3"), ("Authorization", "Bearer secret")])
        assert (reply.status, reply.all("Location")) == (200, [])
        assert reply.body == (b"file" if method == "GET" else b"")
        [inbound] = elsewhere.seen
        assert inbound.line == "GET /y%2Fz?sig=%2b+/= HTTP/1.1"
        assert inbound.all("Range") == ["bytes=0-3"]
        assert {name.lower() for name, _ in inbound.headers} <= {"host", "accept", "accept-encoding", "range"}


@pytest.mark.parametrize("status", [300, 303, 304, 305, 399])
async def test_other_redirects_are_errors(upstream: Upstream, status: int) -> None:
    async with Upstream() as storage, Upstream() as elsewhere, proxied(upstream.url) as url:
        naming(upstream, f"{storage.url}/x?sig={SIGNATURE}")
        redirecting(storage, f"{elsewhere.url}/y", status=status)
        reply = await raw(url, "GET", DOWNLOAD)
        assert (reply.status, reply.all("Location")) == (502, [])
        assert not elsewhere.seen


async def test_signed_fields_stay_with_their_origin(upstream: Upstream) -> None:
    key = ("x-amz-server-side-encryption-customer-key", SIGNATURE)
    fields = [{"name": key[0], "value": key[1]}]
    async with Upstream() as storage, Upstream() as elsewhere, proxied(upstream.url) as url:
        naming(upstream, f"{storage.url}/x", fields)

        async def respond(inbound: Inbound) -> None:
            # There and back, then there to stay: the origin that was signed for gets its fields again.
            onward = {"/x": "/same", "/same": f"{elsewhere.url}/there"}.get(inbound.target)
            location = "" if onward is None else f"Location: {onward}\r\n"
            said = f"HTTP/1.1 {307 if onward else 200} X\r\n{location}Content-Length: 0\r\n\r\n"
            await inbound.send(said.encode())

        storage.respond = respond
        redirecting(elsewhere, f"{storage.url}/back")
        assert (await raw(url, "GET", DOWNLOAD)).status == 200
        assert [inbound.target for inbound in storage.seen] == ["/x", "/same", "/back"]
        assert all(inbound.all(key[0]) == [key[1]] for inbound in storage.seen)
        [there] = elsewhere.seen
        assert there.all(key[0]) == []


async def test_another_region_of_the_same_bucket_gets_signed_fields(tmp_path: Path, network: Network) -> None:
    """S3's 307 to the regional host, which refuses what lacks a field that was signed."""
    key = "x-amz-server-side-encryption-customer-key"
    authority = Authority(tmp_path)
    signed, region, other = (
        f"{each}.amazonaws.com" for each in ("b.s3", "b.s3.eu-west-1", "other.s3.eu-west-1")
    )
    context = authority.issue("storage", "127.0.0.1", signed, region, other).context()
    async with (
        Upstream(tls=context) as workspace,
        Upstream(tls=context) as storage,
        proxied(workspace.url, connections=ConnectionSettings(ca_file=str(authority.file))) as url,
    ):
        network.names |= {host: ["10.1.2.3"] for host in (signed, region, other)}
        network.ports[443] = storage.port
        naming(workspace, f"https://{signed}/x", [{"name": key, "value": SIGNATURE}])
        for target, fields in ((region, [SIGNATURE]), (other, [])):
            storage.seen.clear()

            async def respond(inbound: Inbound, target: str = target) -> None:
                moved = f"HTTP/1.1 307 X\r\nLocation: https://{target}/x\r\nContent-Length: 0\r\n\r\n"
                await inbound.send(moved.encode() if inbound.all("Host") == [signed] else FILE)

            storage.respond = respond
            assert (await raw(url, "GET", DOWNLOAD)).body == b"file"
            assert [(inbound.all("Host"), inbound.all(key)) for inbound in storage.seen] == [
                ([signed], [SIGNATURE]),
                ([target], fields),
            ]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "0x7f.1",
        "0.0.0.0",
        "169.254.169.254",
        "2852039166",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "metadata.google.internal",
        "leads.test",
    ],
)
async def test_redirects_are_checked_like_the_first(upstream: Upstream, network: Network, host: str) -> None:
    network.names["leads.test"] = ["169.254.169.254"]
    async with (
        Upstream() as storage,
        Upstream() as inside,
        proxied(f"http://workspace.test:{upstream.port}") as url,
    ):
        naming(upstream, f"http://10.1.2.3:{storage.port}/x?sig={SIGNATURE}&Expires=9999999999")
        redirecting(storage, f"http://{host}:{inside.port}/latest/meta-data?{SIGNATURE}")
        for _ in range(2):
            refused_redirect(await raw(url, "GET", DOWNLOAD))
        assert not inside.seen
        assert inside.port not in {port for _, port in network.asked}, "nothing was connected to"
        assert signings(upstream) == 1, "no signature is to blame"
        stored(storage)
        assert (await raw(url, "GET", DOWNLOAD)).body == b"file"


@pytest.mark.parametrize(
    "location", ["ftp://10.1.2.3/x", "file:///etc/passwd", "https://u:p@10.1.2.3/x", "/y#z", "/a b", "//["]
)
async def test_redirects_to_what_is_no_url(upstream: Upstream, location: str) -> None:
    async with Upstream() as storage, proxied(upstream.url) as url:
        naming(upstream, f"{storage.url}/x")
        redirecting(storage, location)
        refused_redirect(await raw(url, "GET", DOWNLOAD))
        assert len(storage.seen) == 1


@pytest.mark.parametrize(
    ("locations", "asked", "reason"),
    [
        ([("/x",)], 1, "go round"),
        ([("",)], 1, "go round"),
        ([("/y",), ("/x",)], 2, "go round"),
        ([("/1",), ("/2",), ("/3",), ("/4",)], 4, "more than 3"),
        ([()], 1, "one place"),
        ([("/a", "/b")], 1, "one place"),
    ],
)
async def test_redirects_come_to_an_end(
    upstream: Upstream, locations: list[tuple[str, ...]], asked: int, reason: str
) -> None:
    async with Upstream() as storage, proxied(upstream.url) as url:
        naming(upstream, f"{storage.url}/x")

        async def respond(inbound: Inbound) -> None:
            fields = "".join(f"Location: {each}\r\n" for each in locations[len(storage.seen) - 1])
            await inbound.send(f"HTTP/1.1 302 X\r\n{fields}Content-Length: 0\r\n\r\n".encode())

        storage.respond = respond
        assert reason in refused_redirect(await raw(url, "GET", DOWNLOAD))
        assert len(storage.seen) == asked


async def test_redirects_do_not_leave_https(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = authority.issue("both").context()
    for tls in (context, None):  # a workspace without TLS may have storage without it, but not this one
        async with (
            Upstream(tls=tls) as workspace,
            Upstream(tls=context) as storage,
            Upstream() as elsewhere,
            proxied(workspace.url, connections=ConnectionSettings(ca_file=str(authority.file))) as url,
        ):
            naming(workspace, f"{storage.url}/x")
            redirecting(storage, f"{elsewhere.url}/y")
            assert "not https" in refused_redirect(await raw(url, "GET", DOWNLOAD))
            assert not elsewhere.seen


async def test_a_forward_proxy_is_not_redirected_to_such_places(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ForwardProxy() as forward, Upstream() as workspace, Upstream() as storage:
        monkeypatch.setenv("HTTP_PROXY", f"http://{forward.host}")
        naming(workspace, f"http://storage.test:{storage.port}/x")
        redirecting(storage, f"http://169.254.169.254:{storage.port}/y")
        async with proxied(f"http://workspace.test:{workspace.port}") as url:
            refused_redirect(await raw(url, "GET", DOWNLOAD))
        assert len(forward.lines) == 2


# -- through a forward proxy -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "2852039166", "0xa9.0xfe.0xa9.0xfe", "metadata.google.internal", "0.0.0.0"]
)
async def test_a_forward_proxy_is_not_asked_for_such_places(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    async with ForwardProxy() as forward, Upstream() as workspace, Upstream() as storage:
        monkeypatch.setenv("HTTP_PROXY", f"http://{forward.host}")
        naming(workspace, f"http://{host}:{storage.port}/x?sig={SIGNATURE}")
        async with proxied(f"http://workspace.test:{workspace.port}") as url:
            refused(await raw(url, "GET", DOWNLOAD))
        assert len(forward.lines) == 1, "the workspace"
        assert not storage.seen


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1"])
async def test_a_forward_proxy_does_not_open_this_machine(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    async with ForwardProxy() as forward, Upstream() as workspace, Upstream() as storage:
        monkeypatch.setenv("HTTP_PROXY", f"http://{forward.host}")
        naming(workspace, f"http://{host}:{storage.port}/x?sig={SIGNATURE}")
        async with proxied(f"http://workspace.test:{workspace.port}") as url:
            refused(await raw(url, "GET", DOWNLOAD))
        assert not storage.seen


async def test_the_forward_proxy_itself_may_be_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ForwardProxy() as forward, Upstream() as workspace, Upstream() as storage:
        monkeypatch.setenv("HTTP_PROXY", f"http://{forward.host}")
        stored(storage)
        naming(workspace, f"http://storage.test:{storage.port}/x?sig={SIGNATURE}")
        async with proxied(f"http://workspace.test:{workspace.port}") as url:
            assert (await raw(url, "GET", DOWNLOAD)).body == b"file"
        assert len(forward.lines) == 2


# -- header fields that go with a URL -------------------------------------------------------------------


async def test_storage_gets_signed_fields_and_nothing_that_frames_or_proves(upstream: Upstream) -> None:
    signed: Head = [
        ("x-ms-version", "2024-08-04"),
        ("X-Amz-Security-Token", "a/b+c=="),
        ("Content-Type", "application/octet-stream"),
    ]
    not_sent = [
        ("Authorization", "Bearer s3cr3t"),
        ("authorization", "Basic s3cr3t"),
        ("Cookie", "session=s3cr3t"),
        ("Host", "evil.example"),
        ("Content-Length", "5"),
        ("Transfer-Encoding", "chunked"),
        ("Connection", "keep-alive, X-Nominated"),
        ("X-Nominated", "s3cr3t"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authorization", "Basic s3cr3t"),
        ("TE", "trailers"),
        ("Trailer", "X"),
        ("Upgrade", "h2c"),
        ("Expect", "100-continue"),
        ("Range", "bytes=0-0"),
        ("If-None-Match", "*"),
    ]
    async with Upstream() as storage, proxied(upstream.url) as url:
        stored(storage)
        fields = [{"name": name, "value": value} for name, value in (*not_sent, *signed)]
        naming(upstream, f"{storage.url}/x?sig=%2B+/=", fields)
        own = [("Authorization", "Bearer client"), ("Cookie", "client=1")]
        assert (await raw(url, "GET", DOWNLOAD, own)).body == b"file"
        [inbound] = storage.seen
    assert inbound.line == "GET /x?sig=%2B+/= HTTP/1.1"
    assert sorted((name.lower(), value) for name, value in inbound.headers) == sorted(
        [*((name.lower(), value) for name, value in signed), ("host", storage.url.removeprefix("http://"))]
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-A", "a\r\nAuthorization: Bearer s3cr3t"),
        ("X-A", "a\nb"),
        ("X-A", "a\rb"),
        ("X-A", "a\0b"),
        ("X-A", "\x7f"),
        ("X-A", "\ud800"),
        ("X-A\r\nAuthorization: x", "a"),
        ("X-A: b", "a"),
        ("X A", "a"),
        ("X\0A", "a"),
        ("Authorization ", "Bearer s3cr3t"),
        ("", "a"),
        ("\u00fc", "a"),
    ],
)
async def test_fields_that_are_malformed(upstream: Upstream, name: str, value: str) -> None:
    async with Upstream() as storage, proxied(upstream.url) as url:
        naming(upstream, f"{storage.url}/x", [{"name": name, "value": value}])
        refused(await raw(url, "GET", DOWNLOAD))
        assert not storage.seen
        stored(storage)
        naming(upstream, f"{storage.url}/x")
        assert (await raw(url, "GET", DOWNLOAD)).body == b"file"


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
