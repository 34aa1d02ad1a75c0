"""Answers that are broken or made to break something, and the check that nothing was left behind."""

import json

from tests.integration.support import (
    OK,
    PLAIN,
    READ,
    Inbound,
    RawClient,
    RawReply,
    Respond,
    Upstream,
    answering,
    with_files,
)

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
DIRECTORY = f"{ARTIFACTS}?path=mlflow-proxy/m/1"
DOWNLOAD = f"{ARTIFACTS}/mlflow-proxy/m/1/MLmodel"


async def exchange(client: RawClient, target: str, method: str = "GET") -> RawReply:
    """Send a request over a connection that is kept, and read its answer and no more."""
    await client.send(f"{method} {target} HTTP/1.1\r\nHost: proxy.localhost\r\n\r\n".encode())
    head = (await client.reader.readuntil(b"\r\n\r\n")).decode("latin-1").removesuffix("\r\n\r\n")
    line, *lines = head.split("\r\n")
    reply = RawReply(
        line, [(name, value.strip()) for name, _, value in (each.partition(":") for each in lines)], b""
    )
    if method == "HEAD" or reply.status in {204, 304}:
        return reply
    body = bytearray()
    if reply.all("Transfer-Encoding"):
        while size := int(await client.reader.readuntil(b"\r\n"), 16):
            body += (await client.reader.readexactly(size + 2))[:-2]
        await client.reader.readexactly(2)
    else:
        body += await client.reader.readexactly(int(reply.all("Content-Length")[0]))
    return RawReply(reply.line, reply.headers, bytes(body))


def said(reply: RawReply) -> str:
    """Return the message of an error in the API's form; the last resort for bugs is none."""
    assert reply.all("Content-Type") == ["application/json"]
    assert reply.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
    message: str = reply.json()["message"]
    assert message
    assert "The proxy failed" not in message
    return message


async def all_is_well(client: RawClient, upstream: Upstream, *targets: str) -> None:
    """Check with the same client, over the same connection, that nothing was left behind."""
    upstream.respond = answering(OK)
    for target in targets or (PLAIN, READ):
        reply = await exchange(client, target)
        assert (reply.status, reply.body) == (200, b"{}")
        assert reply.outcome != "hit", "nothing of before was kept"


def then_close(data: bytes) -> Respond:
    async def respond(inbound: Inbound) -> None:
        inbound.received = await inbound.body()
        await inbound.send(data)
        inbound.writer.close()

    return respond


def ok(*fields: bytes, status: bytes = b"200 OK", version: bytes = b"1.1") -> bytes:
    return b"\r\n".join([b"HTTP/" + version + b" " + status, *fields, b"Content-Length: 2", b"", b"{}"])


def chunked(body: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked", *fields, b"", body])


_CHUNKS = b"2\r\n{}\r\n0\r\n\r\n"
MALFORMED = {
    "cr-in-a-value": ok(b"X-A: a\rSet-Cookie: b=1"),
    "nul-in-a-value": ok(b"X-A: a\0b"),
    "controls-in-a-value": ok(b"X-A: a\x01\x7f"),
    "nul-in-a-name": ok(b"X\0A: a"),
    "space-in-a-name": ok(b"X A: a"),
    "space-before-the-colon": ok(b"Content-Length : 9"),
    "folded-space-before-the-colon": ok(b"Transfer-Encoding : chunked"),
    "no-name": ok(b": a"),
    "no-colon": ok(b"nonsense"),
    "length-and-coding": chunked(_CHUNKS, b"Content-Length: 2"),
    "two-lengths": ok(b"Content-Length: 3"),
    "the-same-length-twice": ok(b"Content-Length: 2"),
    "a-list-of-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n{}",
    "negative-length": b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}",
    "signed-length": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}",
    "hexadecimal-length": b"HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\n{}",
    "empty-length": b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n{}",
    "the-longest-length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n{}" % (2**64 - 1),
    "a-longer-length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n{}" % 2**70,
    "coding-before-chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + _CHUNKS,
    "coding-only": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n{}",
    "unknown-coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n" + _CHUNKS,
    "chunked-twice": chunked(_CHUNKS, b"Transfer-Encoding: chunked"),
    "chunked-in-1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNKS,
    "chunk-size-nonsense": chunked(b"zz\r\nok\r\n0\r\n\r\n"),
    "chunk-size-negative": chunked(b"-2\r\n{}\r\n0\r\n\r\n"),
    "chunk-size-prefixed": chunked(b"0x2\r\n{}\r\n0\r\n\r\n"),
    "chunk-size-too-large": chunked(b"f" * 20 + b"\r\nok\r\n0\r\n\r\n"),
    "chunk-too-long": chunked(b"2\r\nokay\r\n0\r\n\r\n"),
    "chunk-lines-end-in-lf": chunked(b"2\nok\n0\n\n"),
    "trailer-that-frames": chunked(b"2\r\n{}\r\n0\r\nContent-Length: 99\r\n\r\n"),
    "trailer-malformed": chunked(b"2\r\n{}\r\n0\r\nX \0: 1\r\n\r\n"),
    "too-many-fields": ok(*[b"X-A: a"] * 300),
    "too-long-a-field": ok(b"X-A: " + b"a" * 70_000),
    "too-long-a-name": ok(b"a" * 70_000 + b": a"),
    "too-long-a-reason": ok(status=b"200 " + b"a" * 70_000),
    "cr-in-the-reason": ok(status=b"200 a\rSet-Cookie: b=1"),
    "status-99": ok(status=b"99 OK"),
    "status-099": ok(status=b"099 OK"),
    "status-000": ok(status=b"000 OK"),
    "status-1000": ok(status=b"1000 OK"),
    "status-minus": ok(status=b"-200 OK"),
    "status-words": ok(status=b"two hundred"),
    "status-101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n" + OK,
    "status-101-bare": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "http-0.9": b"<html>hello</html>\r\n\r\n",
    "http-2.0": ok(version=b"2.0"),
    "http-9.9": ok(version=b"9.9"),
    "http-2-frames": b"\0\0\x12\x04\0\0\0\0\0" + b"\0" * 18,
    "more-than-its-length": OK + b"MORE",
    "more-than-nothing": b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nMORE",
    "two-answers-the-first-of-which-was-the-last": ok(b"Connection: close") + OK,
    "old-websocket": ok(b"Sec-WebSocket-Key1: 1"),
}


EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


def saying(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


def signing(url: str) -> Respond:
    return with_files(answering(saying(json.dumps({"signed_uri": url}).encode())), "MLmodel")


DEEP = [b"[" * depth + b"]" * depth for depth in (300, 900, 990, 1100, 100_000)]


def files(*entries: object) -> bytes:
    return json.dumps({"files": entries}).encode()


def file(path: object, **more: object) -> dict[str, object]:
    return {"path": path, "is_dir": False, "file_size": 1, **more}
