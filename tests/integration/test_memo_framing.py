"""The memo of hits and requests that two readers could take differently: it makes none of them another one.

Each case is sent over a connection on which the memo has just answered, with a head behind it that it knows.
"""

from contextlib import suppress

import pytest

from tests.integration.framing import Normalised, Refused, of
from tests.integration.memo import Line, get, hot, memo_hits
from tests.integration.support import API, RawClient, Upstream

READ = f"{API}registered-models/get-latest-versions?name=m"
"""A read that the proxy stores, of which ``{}`` is an answer."""
HOT = get(READ)


async def heated(url: str) -> RawClient:
    """Return a connection on which the memo has just answered."""
    await hot(url, HOT)
    client = await RawClient.connect(url)
    before = await memo_hits(url)
    assert (await Line(client).ask(HOT)).body == b"{}"
    assert await memo_hits(url) == before + 1
    return client


@pytest.mark.parametrize("case", of(Refused))
async def test_nothing_is_answered_behind_what_is_refused(proxy_url: str, case: Refused) -> None:
    async with await heated(proxy_url) as client:
        before = await memo_hits(proxy_url)
        with suppress(ConnectionError):
            await client.send(case.sent + HOT)
        reply = await client.rest()
        assert (reply.status, reply.broken) == (case.status, False)
        assert reply.complete, "and nothing behind it"
        assert await memo_hits(proxy_url) == before
    async with await RawClient.connect(proxy_url) as other:
        assert (await Line(other).ask(HOT)).body == b"{}"
    assert await memo_hits(proxy_url) == before + 1


@pytest.mark.parametrize("case", of(Normalised))
async def test_what_is_put_right_is_answered_first(
    upstream: Upstream, proxy_url: str, case: Normalised
) -> None:
    async with await heated(proxy_url) as client:
        arrived = len(upstream.seen)
        behind = b"" if b"HTTP/1.0" in case.sent else HOT + get(READ, "token-a", "Connection: close")
        await client.send(case.sent + behind)
        reply = await client.rest()
    assert reply.status == 200
    first, *others = upstream.seen[arrived:]
    assert (first.line, first.received) == (case.line, case.body)
    # It may be a write, so that the first of those behind it is asked anew. There are two, or none behind
    # the last request of a connection.
    assert {inbound.line for inbound in others} <= {f"GET {READ} HTTP/1.1"}
    assert reply.body.count(b"Cache-Status: mlflow-proxy; ") == (0 if case.last else 2)
