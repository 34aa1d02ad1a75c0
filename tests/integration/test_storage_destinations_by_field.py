"""Header fields that go with a signed URL neither frame, nor prove who asks, nor inject others."""

import pytest

from tests.integration.storage_destinations import DOWNLOAD, naming, refused, stored
from tests.integration.support import Head, Upstream, proxied, raw


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
