"""A redirect of storage leads to no place that the workspace could not have named itself."""

from pathlib import Path

import pytest

from mlflow_proxy.settings import ConnectionSettings
from tests.certificates import Authority
from tests.integration.forward_proxy import ForwardProxy
from tests.integration.storage_destinations import (
    DOWNLOAD,
    FILE,
    SIGNATURE,
    Network,
    naming,
    signings,
    stored,
)
from tests.integration.support import Inbound, RawReply, Upstream, proxied, raw


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
