"""What is compressed stays so or is decoded for all, and what was said of its bytes stays true."""

import gzip

import pytest

from tests.integration.support import API, PLAIN, READ, Head, RawReply, Upstream, answering, raw
from tests.integration.wire import ANSWER, lower_names


async def test_compressed_bodies_stay_compressed_both_ways(upstream: Upstream, proxy_url: str) -> None:
    packed = gzip.compress(b"something" * 100)
    upstream.respond = answering(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(packed), packed)
    )
    fields = [("Content-Encoding", "gzip"), ("Content-Length", str(len(packed)))]
    for target in (PLAIN, f"{API}registered-models/set-tag"):
        reply = await raw(proxy_url, "POST", target, fields, packed)
        assert (reply.body, reply.all("Content-Encoding")) == (packed, ["gzip"])
        assert upstream.seen[-1].received == packed
        assert upstream.seen[-1].all("Content-Encoding") == ["gzip"]


DESCRIBED = [
    ("etag", '"a"'),
    ("content-md5", "Q2hlY2sgSW50ZWdyaXR5IQ=="),
    ("digest", "sha-256=4REjxQ4yrqUVicfSKYNO/cF9zNj5ANbzgDZt3/h3Qxo="),
    ("content-digest", "sha-256=:4REjxQ4yrqUVicfSKYNO/cF9zNj5ANbzgDZt3/h3Qxo=:"),
    ("repr-digest", "sha-256=:4REjxQ4yrqUVicfSKYNO/cF9zNj5ANbzgDZt3/h3Qxo=:"),
    ("accept-ranges", "bytes"),
    ("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT"),
    ("vary", "Accept-Encoding"),
]
"""What a server may say of the bytes of its answer, and the last two of what they mean."""


def described(body: bytes, *others: tuple[str, str], etag: str = '"a"') -> bytes:
    fields = [*DESCRIBED[1:], ("etag", etag), *others, ("Content-Length", str(len(body)))]
    lines = [f"{name}: {value}" for name, value in fields]
    return "\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode() + body


def description(reply: RawReply) -> Head:
    """Return what an answer says of its body, sorted."""
    names = {name for name, _ in DESCRIBED} | {"content-encoding"}
    return sorted(field for field in lower_names(reply.headers) if field[0] in names)


@pytest.mark.parametrize(
    ("etag", "then"), [('"a"', ['W/"a"']), ('W/"a"', ['W/"a"']), ("a", []), ('"a-gzip"', ['W/"a-gzip"'])]
)
@pytest.mark.parametrize("body", [ANSWER, b""])
async def test_what_was_said_of_coded_bytes_is_not_said_of_decoded_ones(
    upstream: Upstream, proxy_url: str, etag: str, then: list[str], body: bytes
) -> None:
    packed = body and gzip.compress(body)
    upstream.respond = answering(described(packed, ("Content-Encoding", "gzip"), etag=etag))
    for _ in range(2):
        reply = await raw(proxy_url, "GET", READ)
        assert reply.body == body
        assert reply.complete
        assert description(reply) == sorted([*(("etag", each) for each in then), *DESCRIBED[-2:]])


@pytest.mark.parametrize("coding", [[], [("Content-Encoding", "identity")]])
async def test_what_is_said_of_bytes_that_stay_is_passed_on(
    upstream: Upstream, proxy_url: str, coding: list[tuple[str, str]]
) -> None:
    upstream.respond = answering(described(ANSWER, *coding))
    for _ in range(2):
        reply = await raw(proxy_url, "GET", READ)
        assert (reply.body, description(reply)) == (ANSWER, sorted(DESCRIBED))


async def test_what_is_said_of_coded_bytes_that_pass_is_passed_on(upstream: Upstream, proxy_url: str) -> None:
    packed = gzip.compress(ANSWER)
    upstream.respond = answering(described(packed, ("Content-Encoding", "gzip")))
    for method, target in (("GET", PLAIN), ("POST", f"{API}registered-models/set-tag")):
        reply = await raw(proxy_url, method, target)
        assert reply.body == packed
        assert description(reply) == sorted([*DESCRIBED, ("content-encoding", "gzip")])


async def test_what_was_said_of_an_answer_is_not_said_of_one_that_is_rewritten(
    upstream: Upstream, proxy_url: str
) -> None:
    upstream.respond = answering(described(b'{"artifact_uri": "dbfs:/databricks/m/1"}'))
    reply = await raw(proxy_url, "GET", f"{API}model-versions/get-download-uri?name=m&version=1")
    assert reply.json() == {"artifact_uri": "mlflow-artifacts:/mlflow-proxy/m/1"}
    assert description(reply) == sorted(DESCRIBED[-2:])


async def test_a_compressed_answer_that_is_shared_is_readable_for_all(
    upstream: Upstream, proxy_url: str
) -> None:
    packed = gzip.compress(ANSWER)
    upstream.respond = answering(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(packed), packed)
    )
    for coding in ("gzip", "identity"):
        reply = await raw(proxy_url, "GET", READ, [("Accept-Encoding", coding)])
        assert reply.body == ANSWER
        assert reply.complete
        assert not reply.all("Content-Encoding")
    assert len(upstream.seen) == 1
