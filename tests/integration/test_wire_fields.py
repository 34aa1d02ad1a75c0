"""Targets, fields and statuses cross the proxy as they were written."""

import json

import pytest

from tests.integration.support import API, PLAIN, READ, Upstream, answering, raw
from tests.integration.wire import ANSWER, lower_names


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


async def test_own_errors_are_json_of_the_api(upstream: Upstream, proxy_url: str) -> None:
    reply = await raw(proxy_url, "GET", "/-/nothing")
    assert reply.status == 404
    assert json.loads(reply.body)["error_code"] == "ENDPOINT_NOT_FOUND"
    assert not upstream.seen
