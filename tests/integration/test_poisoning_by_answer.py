"""What an answer brings one client, or refuses it, must not reach another."""

import asyncio
import json
from collections.abc import Sequence
from urllib.parse import quote

import pytest

from tests.integration.poisoning import (
    CREDENTIAL,
    LISTING,
    MODES,
    PROVEN,
    SERVICE,
    UNKEYED,
    A,
    Access,
    B,
    Mode,
    outcome,
    reflect,
    said,
    send,
    serving,
)
from tests.integration.support import (
    API,
    LIST,
    MODEL,
    READ,
    Head,
    Inbound,
    RawReply,
    Respond,
    Upstream,
    answering,
    raw,
    settle,
)


@pytest.mark.parametrize("mode", MODES)
async def test_what_an_answer_brings_one_client_it_brings_no_other(
    upstream: Upstream, access: Access, mode: Mode
) -> None:
    own = ["Set-Cookie: a=1", "Set-Cookie2: b=2", "Clear-Site-Data: *", "Authentication-Info: nextnonce=1"]
    own += ["Location: /a", "Authorization: Bearer a", "X-Auth-Request-Access-Token: a"] * (
        mode is not CREDENTIAL
    )
    kept = ["ETag: x", "Vary: Accept", "Last-Modified: Sun, 01 Mar 2026 12:00:00 GMT"]
    upstream.respond = after_proof(answering(said(b'{"files": []}', fields=[*own, *kept])))
    async with serving(upstream, access(mode)) as url:
        for who in (mode.attacker, mode.victim):
            reply = await send(url, mode.target, who)
            names = {name.lower() for name, _ in reply.headers}
            assert not names & {line.partition(":")[0].lower() for line in own}
            assert {line.partition(":")[0].lower() for line in kept} <= names


def after_proof(answer: Respond) -> Respond:
    """Let everyone prove that he may read the model, and give this answer to all else."""

    async def respond(inbound: Inbound) -> None:
        if f"{API}{MODEL}" in inbound.line or "model-versions/get?" in inbound.line:
            await answering(said(b'{"registered_model": {"name": "m", "creation_timestamp": 1}}'))(inbound)
        else:
            await answer(inbound)

    return respond


async def naming(inbound: Inbound) -> None:
    """Answer with who asked, as an answer that depends on it."""
    who = (inbound.all("Authorization") or ["nobody"])[0]
    body = json.dumps({"files": [], "who": who}).encode()
    await answering(said(body, fields=["Vary: Accept, Authorization"]))(inbound)


async def test_what_depends_on_the_credential_by_its_own_word_is_not_shared(
    upstream: Upstream, access: Access
) -> None:
    upstream.respond = after_proof(naming)
    async with serving(upstream, access(PROVEN)) as url:
        for _ in range(2):
            for who in (A, B):
                reply = await send(url, LISTING, who)
                assert json.loads(reply.body)["who"] == who[0][1]
        assert outcome(reply) == "hit"
    calls = [call for call in upstream.seen if call.target == LISTING]
    assert len(calls) == 2, "each one's own, once"


async def test_a_proof_is_asked_where_the_read_is(upstream: Upstream, access: Access) -> None:
    """A session of the web interface is none for programs."""
    upstream.respond = reflect
    under = "/ajax-api/2.0/mlflow/"
    async with serving(upstream, access(PROVEN)) as url:
        assert (await send(url, f"{under}{LIST}?name=m&version=1", A)).status == 200
    assert [call.target.startswith(under) for call in upstream.seen] == [True, True]


async def at_once(upstream: Upstream, url: str, target: str, who: Sequence[Head]) -> list[RawReply]:
    """Ask in this order, such that the first call is in the air until all have asked."""
    answer, hold, before = upstream.respond, asyncio.Event(), len(upstream.seen)

    async def respond(inbound: Inbound) -> None:
        await hold.wait()
        await answer(inbound)

    upstream.respond = respond
    asking = [asyncio.create_task(send(url, target, who[0]))]
    while len(upstream.seen) == before:
        await settle()
    asking += [asyncio.create_task(send(url, target, each)) for each in who[1:]]
    while (await raw(url, "GET", "/-/status.json")).json()["requests"] < len(who):
        await settle()
    await settle()
    hold.set()
    return await asyncio.gather(*asking)


async def proven_by_both(url: str) -> None:
    for who in (A, B):
        await send(url, READ, who)
        await send(url, f"{API}model-versions/get?name=m&version=1", who)


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "307 Redirect", "308 Redirect", "401 No", "403 No"]
)
async def test_neither_a_redirect_nor_a_refusal_is_for_those_who_waited_with_another_credential(
    upstream: Upstream, access: Access, status: str
) -> None:
    async def answer(inbound: Inbound) -> None:
        who = inbound.all("Authorization")[0]
        await answering(said(who.encode(), status, [f"Location: /login?for={quote(who)}"]))(inbound)

    upstream.respond = after_proof(answer)
    async with serving(upstream, access(PROVEN)) as url:
        await proven_by_both(url)
        replies = await at_once(upstream, url, LISTING, [A, B])
        assert [reply.body.decode() for reply in replies] == [A[0][1], B[0][1]]
        assert outcome((await at_once(upstream, url, LISTING, [A]))[0]) != "hit"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("status", "fields"),
    [
        ("200 OK", ["Vary: *"]),
        ("203 Transformed", []),
        ("206 Partial", []),
        ("300 Choices", []),
        ("301 Moved", ["Location: http://evil.example/"]),
        ("302 Found", ["Location: http://evil.example/"]),
        ("308 Moved", ["Location: http://evil.example/"]),
        ("400 Bad", []),
        ("405 No", []),
        ("410 Gone", []),
        ("414 Long", []),
        ("431 Large", []),
        ("501 No", []),
    ],
)
async def test_only_what_was_found_or_not_is_stored(
    upstream: Upstream, access: Access, mode: Mode, status: str, fields: list[str]
) -> None:
    upstream.respond = after_proof(answering(said(b"{}", status, fields)))
    async with serving(upstream, access(mode)) as url:
        for _ in range(2):
            reply = await send(url, mode.target, mode.attacker)
            assert (reply.line.split(" ")[1], outcome(reply)) == (status[:3], "fwd=miss")


@pytest.mark.parametrize("mode", [CREDENTIAL, PROVEN, SERVICE], ids=lambda mode: mode.name)
async def test_an_error_that_is_shared_is_what_each_would_have_got(
    upstream: Upstream, access: Access, mode: Mode
) -> None:
    """The attacker's fields would make a workspace answer 400; it does not get them."""

    async def strict(inbound: Inbound) -> None:
        evil = [name for name, value in inbound.headers if "evil" in value]
        status = "400 Bad Request" if evil or "bad" in inbound.target else "200 OK"
        await answering(said(json.dumps({"files": [], "evil": evil}).encode(), status))(inbound)

    evil = [field for field in UNKEYED if "evil" in field[1] and field[0] not in {"Expect", "Upgrade"}]
    upstream.respond = after_proof(strict)
    async with serving(upstream, access(mode)) as url:
        await proven_by_both(url)
        replies = await at_once(upstream, url, LISTING, [[*mode.attacker, *evil], mode.victim])
        assert [reply.status for reply in replies] == [200, 200]
        bad = f"{LISTING}&path=bad"
        replies = await at_once(upstream, url, bad, [[*mode.attacker, *evil], mode.victim, mode.victim])
        assert [(reply.status, json.loads(reply.body)["evil"]) for reply in replies] == [(400, [])] * 3
        # Where credentials of their own stand behind one call, each other one asks for itself.
        assert len([call for call in upstream.seen if "bad" in call.target]) == (2 if mode is PROVEN else 1)
