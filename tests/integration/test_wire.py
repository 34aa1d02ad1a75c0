"""What crosses the proxy, byte for byte, and what becomes of connections that break."""

import asyncio
import gzip
import json
import socket
from contextlib import closing, suppress

import pytest

from mlflow_proxy.settings import BudgetSettings, CacheSettings, ConnectionSettings
from tests.integration.support import (
    API,
    MUCH,
    OK,
    Head,
    Inbound,
    RawClient,
    RawReply,
    Upstream,
    answering,
    proxied,
    raw,
    request_bytes,
    stalled,
)

READ = f"{API}registered-models/get?name=m"
"""A read that the proxy stores and shares."""
ANSWER = b'{"registered_model": {"name": "m"}}'
PLAIN = "/api/2.0/some/thing"
"""A request that means nothing to the proxy."""


def error_code(reply: RawReply) -> str:
    assert reply.all("Content-Type") == ["application/json"]
    assert reply.complete
    document = reply.json()
    assert document["message"]
    return str(document["error_code"])


def lower_names(fields: Head) -> Head:
    return [(name.lower(), value) for name, value in fields]


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/a%2Fb%2f%25/%C3%BC",
        "/a//b///",
        "//a/b",
        "/a/../b/./c",
        "/a;x=1/b;y",
        pytest.param(
            "/a?",
            marks=pytest.mark.xfail(reason="the URL library drops a lone question mark", strict=True),
        ),
        "/a?b=2&a=1&b=1&&=",
        "/a?x=%2F+%20%7e~&y=a?b/c;d",
        "/a%zz?%",
        "/a@b:c!$&'()*,=|^`",
        f"{API}registered-models/get?name=m&name=n",
        f"{API}registered-models/",
        f"{API}registered-models/../runs/get?run_id=%41",
        "/api/2.0/mlflow-artifacts/artifacts/1/../mlflow-proxy/m/1/f",
        "/api/2.0/mlflow-artifacts/artifacts?path=1%2Fa",
    ],
)
async def test_a_target_arrives_as_it_was_written(upstream: Upstream, proxy_url: str, target: str) -> None:
    assert (await raw(proxy_url, "GET", target)).status == 200
    assert [inbound.line for inbound in upstream.seen] == [f"GET {target} HTTP/1.1"]


async def test_request_fields_keep_order_and_repetition(upstream: Upstream, proxy_url: str) -> None:
    kept = [
        ("x-b", "1"),
        ("Authorization", "Bearer t"),
        ("X-a", "first"),
        ("Cookie", "a=1; b=2"),
        ("X-A", "second"),
        ("X-Utf-8", "caf\u00c3\u00a9"),
        ("x-b", ""),
        ("X-a", "third"),
        ("Accept-Encoding", "br;q=0.1"),
    ]
    dropped = [
        ("Connection", "X-Nominated"),
        ("X-Nominated", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authorization", "Basic x"),
        ("Proxy-Connection", "keep-alive"),
        ("TE", "trailers"),
    ]
    await raw(proxy_url, "GET", PLAIN, [*dropped[:2], *kept, *dropped[2:]])
    [inbound] = upstream.seen
    host = ("host", upstream.url.removeprefix("http://"))
    assert lower_names(inbound.headers) == [host, *lower_names(kept)]


async def test_response_fields_keep_order_and_repetition(upstream: Upstream, proxy_url: str) -> None:
    upstream.respond = answering(
        b"HTTP/1.1 299 Quite Good\r\nset-cookie: a=1\r\nX-One: 1\r\nSet-Cookie: b=2\r\nDate: yesterday\r\n"
        b"Connection: keep-alive, X-Nominated\r\nX-Nominated: 1\r\nKeep-Alive: timeout=5\r\n"
        b"Proxy-Authenticate: Basic\r\nX-Utf-8: caf\xc3\xa9\r\nX-Empty:\r\nContent-Length: 2\r\n\r\n{}"
    )
    reply = await raw(proxy_url, "GET", PLAIN)
    assert reply.line == "HTTP/1.1 299 Quite Good"
    assert lower_names(reply.headers) == [
        ("set-cookie", "a=1"),
        ("x-one", "1"),
        ("set-cookie", "b=2"),
        ("date", "yesterday"),
        ("x-utf-8", "caf\u00c3\u00a9"),
        ("x-empty", ""),
        ("content-length", "2"),
        ("cache-status", "mlflow-proxy; fwd=bypass"),
        ("connection", "close"),
    ]
    assert reply.body == b"{}"


@pytest.mark.parametrize("target", [PLAIN, READ])
async def test_nothing_is_said_that_the_workspace_did_not_say(
    upstream: Upstream, proxy_url: str, target: str
) -> None:
    reply = await raw(proxy_url, "GET", target)
    assert (reply.all("Content-Type"), reply.all("Server")) == ([], [])
    upstream.respond = answering(
        b"HTTP/1.1 200 OK\r\nServer: databricks\r\nContent-Type: a/b\r\nContent-Length: 0\r\n\r\n"
    )
    reply = await raw(proxy_url, "GET", target, [("Cache-Control", "no-cache")])
    assert (reply.all("Content-Type"), reply.all("Server")) == (["a/b"], ["databricks"])


@pytest.mark.parametrize(
    ("target", "status"),
    [
        # Not 429 and, for reads, 500 and 503: they are repeated inside.
        *((PLAIN, status) for status in (400, 401, 403, 404, 409, 418, 500, 501, 503)),
        *((READ, status) for status in (400, 401, 403, 404, 409, 418, 501)),
    ],
)
async def test_errors_pass_byte_for_byte(
    upstream: Upstream, proxy_url: str, target: str, status: int
) -> None:
    body = b'{ "error_code":"X",\n  "message" : "\xff\xfe" }\n'
    upstream.respond = answering(
        b"HTTP/1.1 %d Reason Given\r\nContent-Type: application/json;v=1\r\nX-Id: 7\r\nRetry-After: 0.5\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (status, len(body), body)
    )
    reply = await raw(proxy_url, "GET", target)
    assert reply.line == f"HTTP/1.1 {status} Reason Given"
    assert reply.body == body
    assert reply.all("Content-Type") == ["application/json;v=1"]
    assert reply.all("X-Id") == ["7"]
    assert reply.all("Retry-After") == ["0.5"]
    assert len(upstream.seen) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", [PLAIN, READ])
async def test_redirects_are_the_clients_affair(
    upstream: Upstream, proxy_url: str, target: str, status: int
) -> None:
    upstream.respond = answering(
        b"HTTP/1.1 %d Elsewhere\r\nLocation: /Login?next=%%2F\r\nContent-Length: 0\r\n\r\n" % status
    )
    reply = await raw(proxy_url, "GET", target)
    assert (reply.status, reply.all("Location")) == (status, ["/Login?next=%2F"])
    assert len(upstream.seen) == 1


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


async def test_a_shared_call_asks_for_the_whole_unconditionally(upstream: Upstream, proxy_url: str) -> None:
    own = [
        ("Range", "bytes=0-0"),
        ("If-Range", '"x"'),
        ("If-Match", '"x"'),
        ("If-None-Match", '"x"'),
        ("If-Modified-Since", "Sun, 01 Mar 2026 12:00:00 GMT"),
        ("If-Unmodified-Since", "Sun, 01 Mar 2026 12:00:00 GMT"),
    ]
    upstream.respond = answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER))
    for fields in (own, []):
        assert (await raw(proxy_url, "GET", READ, fields)).body == ANSWER
    [inbound] = upstream.seen
    assert {name for name, _ in lower_names(inbound.headers)} == {"host", "accept-encoding", "user-agent"}


@pytest.mark.parametrize(
    ("target", "body"),
    [("/.well-known/databricks-config", b'{"oidc_endpoint": "https://w.test/oidc"}'), (READ, ANSWER)],
)
async def test_a_shared_answer_brings_nobody_anothers_cookie(
    upstream: Upstream, proxy_url: str, target: str, body: bytes
) -> None:
    head = b"HTTP/1.1 200 OK\r\nSet-Cookie: session=1\r\nSet-Cookie: b=2\r\nContent-Length: %d\r\n\r\n"
    upstream.respond = answering(head % len(body) + body)
    for _ in range(2):
        reply = await raw(proxy_url, "GET", target)
        assert (reply.body, reply.all("Set-Cookie")) == (body, [])
    assert len(upstream.seen) == 1


@pytest.mark.parametrize("target", [PLAIN, READ])
async def test_head_tells_the_length_and_sends_nothing(
    upstream: Upstream, proxy_url: str, target: str
) -> None:
    upstream.respond = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nETag: x\r\n\r\n")
    reply = await raw(proxy_url, "HEAD", target)
    assert (reply.status, reply.all("Content-Length"), reply.body) == (200, ["1234"], b"")
    assert upstream.seen[0].line == f"HEAD {target} HTTP/1.1"


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_without_a_body_have_none(upstream: Upstream, proxy_url: str, status: int) -> None:
    upstream.respond = answering(b'HTTP/1.1 %d Such\r\nETag: "x"\r\n\r\n' % status)
    reply = await raw(proxy_url, "GET", PLAIN, [("If-None-Match", '"x"')])
    assert (reply.line, reply.all("ETag"), reply.body) == (f"HTTP/1.1 {status} Such", ['"x"'], b"")
    assert not reply.all("Transfer-Encoding")
    assert upstream.seen[0].all("If-None-Match") == ['"x"']


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
@pytest.mark.parametrize("target", [PLAIN, f"{API}registered-models/odd", f"{API}runs/log-batch"])
async def test_any_method_takes_its_body_along(
    upstream: Upstream, proxy_url: str, method: str, target: str
) -> None:
    assert (await raw(proxy_url, method, target, [("Content-Length", "3")], b"\x00\xff\n")).status == 200
    [inbound] = upstream.seen
    assert (inbound.line, inbound.received) == (f"{method} {target} HTTP/1.1", b"\x00\xff\n")
    assert inbound.all("Content-Length") == ["3"]
    assert not inbound.all("Content-Type")


@pytest.mark.parametrize("target", [PLAIN, f"{API}model-versions/set-tag"])
async def test_a_chunked_upload_stays_chunked(upstream: Upstream, proxy_url: str, target: str) -> None:
    body = b"4\r\nwiki\r\n5;ext=1\r\npedia\r\n0\r\n\r\n"
    reply = await raw(proxy_url, "POST", target, [("Transfer-Encoding", "chunked")], body)
    assert reply.status == 200
    [inbound] = upstream.seen
    assert inbound.received == b"wikipedia"
    assert inbound.all("Transfer-Encoding") == ["chunked"]
    assert not inbound.all("Content-Length")


async def test_a_chunked_answer_arrives_whole(upstream: Upstream, proxy_url: str) -> None:
    upstream.respond = answering(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    assert (await raw(proxy_url, "GET", READ)).body == b"abcde"
    reply = await raw(proxy_url, "GET", PLAIN)
    assert reply.complete
    assert b"abc" in reply.body
    assert b"de" in reply.body


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("target", [PLAIN, f"{API}registered-models/odd"])
async def test_no_body_is_not_an_empty_one(
    upstream: Upstream, proxy_url: str, method: str, target: str
) -> None:
    await raw(proxy_url, method, target)
    assert [name.lower() for name, _ in upstream.seen[0].headers] == ["host"]


@pytest.mark.parametrize("fields", ["", "Connection: keep-alive\r\n"])
async def test_a_client_of_http_1_0_gets_no_chunks(upstream: Upstream, proxy_url: str, fields: str) -> None:
    upstream.respond = answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
    async with await RawClient.connect(proxy_url) as client:
        await client.send(f"GET {PLAIN} HTTP/1.0\r\n{fields}\r\n".encode())
        reply = await client.rest()
    assert (reply.status, reply.body, reply.all("Transfer-Encoding")) == (200, b"{}", [])


async def test_interim_answers_are_not_the_answer(upstream: Upstream, proxy_url: str) -> None:
    upstream.respond = answering(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK)
    assert (await raw(proxy_url, "GET", PLAIN)).status == 200


async def test_an_upload_that_is_refused_early_is_answered_early(upstream: Upstream, proxy_url: str) -> None:
    async def refuse(inbound: Inbound) -> None:
        await inbound.send(b"HTTP/1.1 413 Too Much\r\nContent-Length: 2\r\n\r\nno")
        await asyncio.Event().wait()

    upstream.respond = refuse
    async with await RawClient.connect(proxy_url) as client:
        await client.send(request_bytes("PUT", PLAIN, [("Content-Length", "1000")], b"the beginning"))
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413 Too Much\r\n")
        assert await client.reader.readexactly(2) == b"no"


_BLOCK = bytes(1 << 16)
_BLOCKS = 1024
_FAR_LESS = (_BLOCKS // 2) << 16
"""Sockets' buffers on the way hold some of the 64 MiB, and so may the proxy, but not half of it."""


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_large_upload_waits_for_a_slow_upstream(
    upstream: Upstream, proxy_url: str, chunked: bool
) -> None:
    gate = asyncio.Event()
    taken = 0

    async def slowly(inbound: Inbound) -> None:
        nonlocal taken
        await gate.wait()
        if chunked:
            taken = len(await inbound.body())
        while not chunked and taken < _BLOCKS << 16:
            taken += len(await inbound.reader.read(1 << 20))
        await inbound.send(OK)

    upstream.respond = slowly
    sent = 0
    framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(_BLOCKS << 16))

    async def upload(client: RawClient) -> None:
        nonlocal sent
        await client.send(request_bytes("PUT", PLAIN, [framing]))
        for _ in range(_BLOCKS):
            await client.send(b"10000\r\n" + _BLOCK + b"\r\n" if chunked else _BLOCK)
            sent += len(_BLOCK)
        if chunked:
            await client.send(b"0\r\n\r\n")

    async with await RawClient.connect(proxy_url) as client:
        uploading = asyncio.create_task(upload(client))
        await stalled(lambda: sent + len(upstream.seen))
        assert upstream.seen, "the request does not wait for its body"
        assert not uploading.done()
        assert 0 < sent < _FAR_LESS
        gate.set()
        await uploading
        assert (await client.rest()).status == 200
    assert taken == _BLOCKS << 16


async def test_a_large_download_waits_for_a_slow_client(upstream: Upstream, proxy_url: str) -> None:
    sent = 0

    async def largely(inbound: Inbound) -> None:
        nonlocal sent
        await inbound.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (_BLOCKS << 16))
        for _ in range(_BLOCKS):
            await inbound.send(_BLOCK)
            sent += len(_BLOCK)

    upstream.respond = largely
    async with await RawClient.connect(proxy_url) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(request_bytes("GET", PLAIN))
        await stalled(lambda: sent)
        assert 0 < sent < _FAR_LESS
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        length = len((await client.rest()).body)
    assert length == _BLOCKS << 16


async def test_an_expectation_is_met_before_the_body_comes(upstream: Upstream, proxy_url: str) -> None:
    async with await RawClient.connect(proxy_url) as client:
        await client.send(request_bytes("POST", PLAIN, [("Expect", "100-continue"), ("Content-Length", "2")]))
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"hi")
        assert (await client.rest()).status == 200
    assert upstream.seen[0].received == b"hi"
    assert not upstream.seen[0].all("Expect")


# -- an upstream that fails ------------------------------------------------------------------------

UNREACHED = {PLAIN: 502, READ: 503}
"""What is answered when the workspace cannot be reached: reads may be asked again."""


@pytest.mark.parametrize("target", [PLAIN, READ])
async def test_refused_is_an_error(target: str) -> None:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))  # bound but not listening: nobody else gets the port either
        async with proxied(f"http://127.0.0.1:{listener.getsockname()[1]}") as url:
            reply = await raw(url, "GET", target)
    assert reply.status == UNREACHED[target]
    assert error_code(reply) == "TEMPORARILY_UNAVAILABLE"


@pytest.mark.parametrize("target", [PLAIN, READ])
@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 OK\r\nContent-", b"SSH-2.0-OpenSSH_9.6\r\n\r\n"])
async def test_an_end_before_the_answer_is_an_error(
    upstream: Upstream, proxy_url: str, target: str, data: bytes
) -> None:
    async def hang_up(inbound: Inbound) -> None:
        await inbound.send(data)
        inbound.writer.close()

    upstream.respond = hang_up
    reply = await raw(proxy_url, "GET", target)
    assert reply.status == UNREACHED[target]
    assert error_code(reply) == "TEMPORARILY_UNAVAILABLE"


@pytest.mark.parametrize("target", [PLAIN, READ])
async def test_a_reset_is_an_error(upstream: Upstream, proxy_url: str, target: str) -> None:
    async def reset(inbound: Inbound) -> None:
        inbound.reset()

    upstream.respond = reset
    reply = await raw(proxy_url, "GET", target)
    assert reply.status == UNREACHED[target]
    assert error_code(reply) == "TEMPORARILY_UNAVAILABLE"


@pytest.mark.parametrize("target", [PLAIN, READ])
async def test_an_unknown_host_name_is_an_error(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with proxied("http://workspace.invalid") as url:
        monkeypatch.setattr(socket, "getaddrinfo", fail)
        reply = await raw(url, "GET", target)
    assert reply.status == UNREACHED[target]
    assert error_code(reply) == "TEMPORARILY_UNAVAILABLE"
    assert "resolved" in reply.json()["message"]


async def test_a_host_name_that_cannot_be_one_is_502() -> None:
    async with proxied(f"http://{'a' * 70}.example") as url:
        assert (await raw(url, "GET", PLAIN)).status == 502


@pytest.mark.parametrize("target", [PLAIN, READ])
async def test_silence_is_504(upstream: Upstream, target: str) -> None:
    async def say_nothing(inbound: Inbound) -> None:
        await asyncio.Event().wait()

    upstream.respond = say_nothing
    impatient = ConnectionSettings(read_timeout=0.1)
    if target == READ:  # what is shared has the patience of those who wait for it
        impatient = ConnectionSettings()
    # Enough to leave in on a slow machine: who loses patience before that gets a 429.
    budget = BudgetSettings(registry_limit=MUCH, patience=2 if target == READ else 0.1)
    async with proxied(upstream.url, connections=impatient, budget=budget) as url:
        reply = await raw(url, "GET", target)
    assert reply.status == 504
    assert error_code(reply) == "DEADLINE_EXCEEDED"


_CUT = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n0123456789",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n",
]


@pytest.mark.parametrize("data", _CUT)
@pytest.mark.parametrize("by_reset", [False, True])
async def test_a_truncated_body_never_looks_complete(
    upstream: Upstream, proxy_url: str, data: bytes, by_reset: bool
) -> None:
    relayed = asyncio.Event()

    async def break_off(inbound: Inbound) -> None:
        await inbound.send(data)
        await relayed.wait()
        if by_reset:
            inbound.reset()
        else:
            inbound.writer.close()

    upstream.respond = break_off
    async with await RawClient.connect(proxy_url) as client:
        await client.send(request_bytes("GET", PLAIN))
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        relayed.set()
        body = bytearray()
        with suppress(ConnectionError):
            while chunk := await client.reader.read(1 << 16):
                body += chunk
    assert b"0\r\n\r\n" not in body
    assert len(body) < 100


async def test_a_truncated_body_ends_a_connection_that_was_to_be_kept(
    upstream: Upstream, proxy_url: str
) -> None:
    async def break_off(inbound: Inbound) -> None:
        await inbound.send(_CUT[0])
        inbound.writer.close()

    upstream.respond = break_off
    async with await RawClient.connect(proxy_url) as client:
        await client.send(f"GET {PLAIN} HTTP/1.1\r\nHost: proxy.localhost\r\n\r\n".encode())
        assert not (await client.rest()).complete


@pytest.mark.parametrize("data", _CUT)
async def test_a_truncated_answer_is_an_error_for_all_and_is_not_stored(
    upstream: Upstream, proxy_url: str, data: bytes
) -> None:
    async def break_off(inbound: Inbound) -> None:
        await inbound.send(data)
        inbound.writer.close()

    upstream.respond = break_off
    reply = await raw(proxy_url, "GET", READ)
    assert reply.status == 503
    assert int(reply.all("Retry-After")[0]) >= 1
    assert error_code(reply) == "TEMPORARILY_UNAVAILABLE"
    upstream.respond = answering(OK)
    reply = await raw(proxy_url, "GET", READ)
    assert (reply.status, reply.body) == (200, b"{}")


async def test_an_answer_too_large_to_store_streams(upstream: Upstream) -> None:
    body = bytes(10_000)
    upstream.respond = answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    async with proxied(upstream.url, cache=CacheSettings.model_validate({"max_entry_bytes": 5000})) as url:
        reply = await raw(url, "GET", READ)
    assert reply.body == body
    assert reply.all("Cache-Status") == ["mlflow-proxy; fwd=bypass"]


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_upload_is_never_repeated_from_its_middle(
    upstream: Upstream, proxy_url: str, chunked: bool
) -> None:
    """The upstream drops a kept-alive connection in the middle of the second request's body."""
    await raw(proxy_url, "PUT", PLAIN, [("Content-Length", "0")])
    gone = asyncio.Event()

    async def drop(inbound: Inbound) -> None:
        if upstream.seen[0].writer is inbound.writer:
            await inbound.reader.readuntil(b"first half")
            inbound.reset()
            gone.set()
        else:
            inbound.received = await inbound.body()
            await inbound.send(OK)

    upstream.respond = drop
    framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "21")
    async with await RawClient.connect(proxy_url) as client:
        await client.send(request_bytes("PUT", PLAIN, [framing]))
        await client.send(b"a\r\nfirst half\r\n" if chunked else b"first half")
        await gone.wait()
        await client.send(b"b\r\nsecond half\r\n0\r\n\r\n" if chunked else b"second half")
        reply = await client.rest()
    assert reply.status == 502
    assert all(inbound.received in {None, b"", b"first halfsecond half"} for inbound in upstream.seen)


async def test_an_upload_that_streams_is_not_repeated_after_a_refusal(
    upstream: Upstream, proxy_url: str
) -> None:
    async def refuse_first(inbound: Inbound) -> None:
        inbound.received = await inbound.body()
        refusal = b"HTTP/1.1 429 Too Many\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"
        await inbound.send(refusal if len(upstream.seen) == 1 else OK)

    upstream.respond = refuse_first
    framing = [("Transfer-Encoding", "chunked")]
    target = f"{API}model-versions/set-tag"
    reply = await raw(proxy_url, "POST", target, framing, b"4\r\nwiki\r\n0\r\n\r\n")
    assert (reply.status, reply.all("Retry-After")) == (429, ["0"])
    assert [inbound.received for inbound in upstream.seen] == [b"wiki"]


# -- a client that goes ----------------------------------------------------------------------------


async def test_a_client_that_goes_in_the_middle_of_its_upload(upstream: Upstream, proxy_url: str) -> None:
    ended: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def take(inbound: Inbound) -> None:
        try:
            ended.set_result(await inbound.body())
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            ended.set_exception(error)

    upstream.respond = take
    async with await RawClient.connect(proxy_url) as client:
        await client.send(request_bytes("PUT", PLAIN, [("Content-Length", "100")], b"half"))
        await stalled(lambda: len(upstream.seen))
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await ended


async def test_a_client_that_goes_in_the_middle_of_its_download(upstream: Upstream, proxy_url: str) -> None:
    gone = asyncio.Event()

    async def pour(inbound: Inbound) -> None:
        await inbound.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                await inbound.send(b"10000\r\n" + _BLOCK + b"\r\n")
        except ConnectionError:
            gone.set()
            raise

    upstream.respond = pour
    async with await RawClient.connect(proxy_url) as client:
        await client.send(request_bytes("GET", PLAIN))
        await client.reader.readexactly(1000)
    await gone.wait()


async def test_own_errors_are_json_of_the_api(upstream: Upstream, proxy_url: str) -> None:
    reply = await raw(proxy_url, "GET", "/-/nothing")
    assert reply.status == 404
    assert json.loads(reply.body)["error_code"] == "ENDPOINT_NOT_FOUND"
    assert not upstream.seen
