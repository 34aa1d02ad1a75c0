"""Content codings that are wrong, unknown or burst must break nothing and change no answer."""

import gzip
import zlib

import pytest

from mlflow_proxy.settings import CacheSettings
from tests.integration.hostile_answers import DIRECTORY, all_is_well, exchange, said
from tests.integration.support import API, PLAIN, READ, RawClient, Upstream, answering, proxied, raw

pytestmark = pytest.mark.usefixtures("no_waiting")

TEXT = b'{"registered_model": {"name": "m"}}'
PACKED = gzip.compress(TEXT)


def coded(coding: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n%b" % (
        coding,
        len(body),
        body,
    )


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(coded(b"gzip", PACKED), id="gzip"),
        pytest.param(coded(b"x-gzip", PACKED), id="x-gzip"),
        pytest.param(coded(b"deflate", zlib.compress(TEXT)), id="deflate"),
        pytest.param(coded(b"deflate, gzip", gzip.compress(zlib.compress(TEXT))), id="both"),
        pytest.param(
            coded(b"deflate\r\nContent-Encoding: gzip", gzip.compress(zlib.compress(TEXT))), id="two fields"
        ),
        pytest.param(coded(b"identity", TEXT), id="none"),
    ],
)
async def test_answers_in_codings_that_were_asked_for(
    upstream: Upstream, client: RawClient, data: bytes
) -> None:
    upstream.respond = answering(data)
    for outcome in ("fwd=miss; stored", "hit"):
        reply = await exchange(client, READ)
        assert (reply.body, reply.all("Content-Encoding")) == (TEXT, [])
        assert reply.outcome == outcome
    assert upstream.seen[0].all("Accept-Encoding") == ["gzip, deflate"]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(coded(b"gzip", TEXT), id="not coded"),
        pytest.param(coded(b"gzip", PACKED[:-9]), id="ends early"),
        pytest.param(coded(b"gzip", PACKED[:-1]), id="ends in its length"),
        pytest.param(coded(b"gzip", PACKED + b"more"), id="more after it"),
        pytest.param(coded(b"gzip", PACKED[:-8] + b"\0" * 8), id="another checksum"),
        pytest.param(coded(b"deflate", PACKED), id="the other coding"),
        pytest.param(coded(b"gzip, gzip", PACKED), id="coded once"),
    ],
)
async def test_an_answer_that_does_not_decode_is_a_broken_one(
    upstream: Upstream, client: RawClient, data: bytes
) -> None:
    upstream.respond = answering(data)
    reply = await exchange(client, READ)
    assert reply.status == 503
    assert "does not decode" in said(reply)
    await all_is_well(client, upstream)
    upstream.respond = answering(data)
    reply = await exchange(client, PLAIN)
    assert reply.all("Content-Encoding")
    assert data.endswith(reply.body), "what only passes through is the client's to decode"


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"br, gzip", b"gzip, gzip, gzip"])
async def test_a_coding_that_was_not_asked_for_is_the_clients_affair(
    upstream: Upstream, client: RawClient, coding: bytes
) -> None:
    """As without the proxy: the one who asks in its own words gets the answer as it came."""
    upstream.respond = answering(coded(coding, b"opaque"))
    for _ in range(2):
        reply = await exchange(client, READ)
        assert (reply.status, reply.body) == (200, b"opaque")
        assert reply.all("Content-Encoding") == [coding.decode()]
        assert reply.all("Cache-Status") == ["mlflow-proxy; fwd=bypass"]
    assert [inbound.all("Accept-Encoding") for inbound in upstream.seen] == [["gzip, deflate"], []] * 2
    await all_is_well(client, upstream)


async def test_door_a_cannot_read_other_codings(upstream: Upstream, client: RawClient) -> None:
    upstream.respond = answering(coded(b"br", b"opaque"))
    reply = await exchange(client, DIRECTORY)
    assert reply.status == 502
    assert "coding" in said(reply)


@pytest.mark.parametrize("size", [100_001, 50_000_000])
async def test_what_bursts_is_streamed_as_it_came(upstream: Upstream, size: int) -> None:
    bomb = gzip.compress(bytes(size))
    upstream.respond = answering(coded(b"gzip", bomb))
    cache = CacheSettings.model_validate({"max_entry_bytes": 100_000})
    async with proxied(upstream.url, cache=cache) as url, await RawClient.connect(url) as client:
        reply = await exchange(client, READ)
        assert (reply.body, reply.all("Content-Encoding")) == (bomb, ["gzip"])
        assert reply.all("Cache-Status") == ["mlflow-proxy; fwd=bypass"]
        await all_is_well(client, upstream)


@pytest.mark.parametrize("target", [PLAIN, f"{API}registered-models/set-tag", f"{API}runs/log-batch"])
async def test_bodies_of_requests_are_never_decoded(upstream: Upstream, proxy_url: str, target: str) -> None:
    for body in (PACKED, b"not gzip at all"):
        fields = [("Content-Encoding", "gzip"), ("Content-Length", str(len(body)))]
        assert (await raw(proxy_url, "POST", target, fields, body)).status == 200
        assert upstream.seen[-1].received == body
        assert upstream.seen[-1].all("Content-Encoding") == ["gzip"]
