"""A request that two readers could take differently is refused, or goes on in one form."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mlflow_proxy.settings import TlsSettings
from tests.certificates import Authority
from tests.integration.framing import (
    BEHIND,
    CL,
    LINE,
    SECOND,
    TE,
    WAYS,
    Normalised,
    Refused,
    both,
    chunked,
    exchange,
    get,
    of,
)
from tests.integration.support import API, PLAIN, RawClient, Upstream, proxied, raw

READ = f"{API}registered-models/get-latest-versions?name=m"
"""A read that the proxy stores, of which ``{}`` is an answer."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", of(Refused))
async def test_refused(upstream: Upstream, proxy_url: str, case: Refused, way: str) -> None:
    reply = await exchange(proxy_url, WAYS[way](case.sent + SECOND))
    assert (reply.line[:12], reply.broken) == (f"HTTP/1.1 {case.status}", False)
    assert reply.complete, "and nothing behind it"
    assert reply.all("Content-Type") == ["application/json"]
    assert reply.all("Connection") == ["close"]
    assert reply.json()["error_code"] == "INVALID_PARAMETER_VALUE"
    assert "proxy.localhost" not in reply.json()["message"], "it repeats nothing"
    # What a chunked body's end is found wrong with has begun to stream, but its end has not come.
    begun, upstream.seen[:] = list(upstream.seen), []
    assert way == "in pieces" or not begun
    assert all(inbound.line == LINE and inbound.received is None for inbound in begun)
    for outcome in ("fwd=miss; stored", "hit"):
        canary = await raw(proxy_url, "GET", READ)
        assert (canary.status, canary.body) == (200, b"{}")
        assert canary.outcome == outcome
    assert [inbound.line for inbound in upstream.seen] == [f"GET {READ} HTTP/1.1"]
    assert all(inbound.received is None for inbound in begun)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", of(Normalised))
async def test_normalised(upstream: Upstream, proxy_url: str, case: Normalised, way: str) -> None:
    last = f"GET {BEHIND}/last HTTP/1.1\r\nHost: proxy.localhost\r\nConnection: close\r\n\r\n".encode()
    behind = b"" if b"HTTP/1.0" in case.sent else SECOND + last
    reply = await exchange(proxy_url, WAYS[way](case.sent + behind))
    assert reply.status == 200
    lines = [case.line] if case.last else [case.line, f"GET {BEHIND} HTTP/1.1", f"GET {BEHIND}/last HTTP/1.1"]
    assert [inbound.line for inbound in upstream.seen] == lines
    assert [inbound.received for inbound in upstream.seen] == [case.body, b"", b""][: len(lines)]
    for inbound in upstream.seen[1:]:
        assert [name.lower() for name, _ in inbound.headers] == ["host"]
    first = upstream.seen[0]
    framing = first.all("Transfer-Encoding") + first.all("Content-Length")
    assert framing in (["chunked"], [str(len(case.body))]) or (not framing and not case.body)
    names = [name.lower() for name, _ in first.headers]
    assert names.count("host") == 1
    assert not {"connection", "upgrade", "http2-settings", "expect", "authorization", "x-checksum"} & {*names}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "sent",
    [
        get(PLAIN, "Connection: close"),
        get(PLAIN, version="HTTP/1.0"),
        get(PLAIN, "Connection: keep-alive", "Connection: close", version="HTTP/1.0"),
        chunked(b"0\r\nHost: other\r\n\r\n"),
        chunked(b"0\r\nAuthorization: Bearer other\r\n\r\n"),
    ],
)
async def test_nothing_is_taken_behind_the_last_request(
    upstream: Upstream, proxy_url: str, sent: bytes, way: str
) -> None:
    reply = await exchange(proxy_url, WAYS[way](sent + SECOND))
    assert reply.status in {0, 200, 400}  # by what was there already when something came behind it
    assert {inbound.target for inbound in upstream.seen} <= {PLAIN}


async def test_over_tls_too(upstream: Upstream, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("proxy")
    settings = TlsSettings(certificate=str(pair.certificate), key=str(pair.key))
    async with proxied(upstream.url, tls=settings) as url:
        parts = urlsplit(url)
        connection = await asyncio.open_connection(parts.hostname, parts.port, ssl=authority.client())
        async with RawClient(*connection) as client:
            await client.send(both(CL, TE))
            answer = await client.reader.readuntil(b"}")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert not upstream.seen
