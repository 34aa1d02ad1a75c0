"""Header fields of whoever asks first must not choose what others are told."""

import asyncio

import pytest

from tests.integration.poisoning import (
    LISTING,
    MODES,
    PROVEN,
    SERVICE,
    UNKEYED,
    A,
    Access,
    Mode,
    content,
    outcome,
    reflect,
    send,
    serving,
)
from tests.integration.support import API, MODEL, READ, Head, Inbound, Upstream, proxied, raw, settle

KEYED: Head = [
    ("Cookie", "session=evil"),
    ("Forwarded", "host=evil.example"),
    ("Origin", "http://evil.example"),
    ("X-Databricks-Org-Id", "666"),
    ("X-Databricks-Traffic-Id", "evil"),
    ("X-Mlflow-Workspace", "evil"),
    ("X-Forwarded-User", "evil"),
    ("baggage", "sentry-release=1,user=evil"),
    ("X-Databricks-Unheard-Of", "evil"),
    ("X-Forwarded-Host", "evil.example"),
    ("X-Forwarded-Port", "666"),
    ("X-Forwarded-Prefix", "/evil"),
    ("X-Forwarded-Proto", "evil"),
    ("X-Forwarded-Scheme", "evil"),
    ("X-Host", "evil.example"),
    ("X-Original-URL", "/api/2.0/token/create"),
    ("X-Rewrite-URL", "/api/2.0/token/create"),
    ("X-Unheard-Of", "evil"),
]
"""What may be a credential, and goes out with the calls of those who send it alone."""
ADDRESS: Head = [("X-Forwarded-For", "6.6.6.6"), ("Forwarded", "for=6.6.6.6")]
"""What a server may refuse, but answers alike where it allows it."""
ALONE: Head = [
    ("Cache-Control", "no-cache"),
    ("Content-Encoding", "gzip"),
    ("Pragma", "no-cache"),
    ("X-HTTP-Method", "DELETE"),
    ("X-HTTP-Method-Override", "DELETE"),
    ("X_Method_Override", "PUT"),
]
"""What makes a request one that is not shared at all."""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "field", [*UNKEYED, *KEYED, *ADDRESS, *ALONE], ids=lambda field: f"{field[0]}={field[1]}"
)
async def test_a_field_of_whoever_asked_first_reaches_nobody_else(
    upstream: Upstream, access: Access, mode: Mode, field: tuple[str, str]
) -> None:
    upstream.respond = reflect
    async with serving(upstream, access(mode)) as url:
        alone = await send(url, mode.target, mode.victim)
    async with serving(upstream, access(mode)) as url:
        attack = await send(url, mode.target, [*mode.attacker, field])
        after = await send(url, mode.target, mode.victim)
    assert alone.status == attack.status == 200
    assert content(after) == content(alone)
    # They are the same question unless the field separates them, so that something was at stake.
    counted = KEYED if mode is PROVEN else [*KEYED, *ADDRESS]
    separate = field in ALONE or (field in counted and mode.target is LISTING and mode is not SERVICE)
    assert (outcome(after) == "hit") is not separate


@pytest.mark.parametrize("mode", MODES)
async def test_nor_does_it_while_they_wait_for_the_same_call(
    upstream: Upstream, access: Access, mode: Mode
) -> None:
    upstream.respond = reflect
    async with serving(upstream, access(mode)) as url:
        alone = await send(url, mode.target, mode.victim)
    async with serving(upstream, access(mode)) as url:
        for who in (mode.attacker, mode.victim):
            # So that in ``proven`` mode what is held below is the call that they share.
            await send(url, f"{API}{MODEL}?name=m", [*who, *([] if who else A)])
            await send(url, f"{API}model-versions/get?name=m&version=1", [*who, *([] if who else A)])
        held, hold = len(upstream.seen), asyncio.Event()

        async def respond(inbound: Inbound) -> None:
            await hold.wait()
            await reflect(inbound)

        upstream.respond = respond
        evil = [field for field in UNKEYED if field[0] not in {"Expect", "Upgrade"}]
        attack = asyncio.create_task(send(url, mode.target, [*mode.attacker, *evil]))
        while len(upstream.seen) == held:
            await settle()
        after = asyncio.create_task(send(url, mode.target, mode.victim))
        while (await raw(url, "GET", "/-/status.json")).json()["requests"] < 2:
            await settle()
        await settle()
        hold.set()
        assert content(await after) == content(alone)
        assert content(await attack)[2] == content(alone)[2]
        assert outcome(await after) == "fwd=miss; collapsed"


@pytest.mark.parametrize("mode", MODES)
async def test_a_shared_call_says_what_its_key_says(upstream: Upstream, access: Access, mode: Mode) -> None:
    upstream.respond = reflect
    async with serving(upstream, access(mode)) as url:
        evil = [field for field in UNKEYED if field[0] not in {"Expect", "Upgrade"}]
        await send(url, mode.target, [*mode.attacker, *evil])
    for call in upstream.seen:
        names = sorted(name.lower() for name, _ in call.headers)
        credential = ["authorization"] if mode.target is LISTING else []
        assert names == ["accept-encoding", *credential, "host", "user-agent"]
        assert call.all("Host") == [upstream.url.removeprefix("http://")]


async def test_who_refuses_stored_answers_is_heard_by_a_proxy_behind(upstream: Upstream) -> None:
    upstream.respond = reflect
    async with proxied(upstream.url) as inner, proxied(inner) as outer:
        for _ in range(2):
            reply = await send(outer, READ, [*A, ("Pragma", "no-cache")])
            assert reply.status == 200
        assert len(upstream.seen) == 2
        assert [call.all("Cache-Control") for call in upstream.seen] == [["no-cache"]] * 2
