"""Which callers share an answer: fields that tell nothing do not part them, and no restriction disappears."""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl

import pytest
from structlog.testing import capture_logs

from mlflow_proxy.settings import AccessSettings, CacheSettings
from tests.integration.support import (
    API,
    HIT,
    LIST,
    MODEL,
    SIGN,
    Head,
    Inbound,
    RawReply,
    Respond,
    Upstream,
    proxied,
    raw,
    settle,
)

LASTING = CacheSettings(
    mutable_ttl=3600, not_found_ttl=3600, pending_ttl=3600, unverified_ttl=3600, listing_ttl=3600
)
LISTING = f"{API}{LIST}?name=m&version=1"
CREDENTIAL, PROVEN = AccessSettings(sharing="credential"), AccessSettings(sharing="proven")
Answer = tuple[int, dict[str, Any] | bytes, Sequence[tuple[str, str]]]


def bearer(token: str) -> Head:
    return [("Authorization", f"Bearer {token}")]


def answer_to(inbound: Inbound) -> Answer:
    """Return what a workspace says that lets everyone read; listings name their caller's workspace."""
    asked = dict(parse_qsl(inbound.target.partition("?")[2]))
    if MODEL in inbound.target:
        return 200, {"registered_model": {"name": asked["name"], "creation_timestamp": 1}}, ()
    if SIGN in inbound.target:
        return 200, {"signed_uri": f"https://storage.test/r/{asked['path']}?sig=1"}, ()
    return 200, {"root_uri": "dbfs:/r", "files": [{"path": "MLmodel"}]}, ()


def workspace(judge: Callable[[Inbound], Answer | None]) -> Respond:
    """Make a workspace that answers by ``judge``, and as usual where that returns None."""

    async def respond(inbound: Inbound) -> None:
        inbound.received = await inbound.body()
        status, content, fields = judge(inbound) or answer_to(inbound)
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (("Content-Type", "application/json"), *fields)]
        await inbound.send("\r\n".join([*lines, "", ""]).encode() + body)

    return respond


def asked_for(upstream: Upstream, endpoint: str) -> list[Inbound]:
    return [inbound for inbound in upstream.seen if endpoint in inbound.target]


async def ask(url: str, token: str, *fields: tuple[str, str], target: str = LISTING) -> RawReply:
    return await raw(url, "GET", target, [*bearer(token), *fields])


async def joined(upstream: Upstream, url: str, target: str, *tokens: str) -> list[RawReply]:
    """Ask in this order; the first call is answered when all have asked."""
    respond, hold, before = upstream.respond, asyncio.Event(), len(upstream.seen)

    async def held(inbound: Inbound) -> None:
        await hold.wait()
        await respond(inbound)

    upstream.respond = held
    asking = [asyncio.create_task(ask(url, tokens[0], target=target))]
    while len(upstream.seen) == before:
        await settle()
    asking += [asyncio.create_task(ask(url, token, target=target)) for token in tokens[1:]]
    while (await raw(url, "GET", "/-/status.json")).json()["requests"] < len(tokens):
        await settle()
    await settle()
    upstream.respond = respond
    hold.set()
    return await asyncio.gather(*asking)


def on_the_way(number: int) -> Head:
    """Return the fields of one request behind a mesh, a tracing library and a sticky load balancer."""
    return [
        ("traceparent", f"00-{number:032x}-{number:016x}-01"),
        ("b3", f"{number:032x}-{number:016x}-1"),
        ("X-B3-TraceId", f"{number:032x}"),
        ("x-datadog-trace-id", str(number)),
        ("sentry-trace", f"{number:032x}-{number:016x}"),
        ("baggage", f"sentry-trace_id={number:032x}"),
        ("X-Amzn-Trace-Id", f"Root=1-{number:08x}"),
        ("X-Cloud-Trace-Context", f"{number:032x}/1"),
        ("newrelic", str(number)),
        ("uber-trace-id", f"{number:x}:1:0:1"),
        ("Request-Id", f"|{number}."),
        ("x-correlation-id", str(number)),
        ("X-Request-ID", str(number)),
        ("CF-Ray", f"{number:x}-FRA"),
        ("x-envoy-attempt-count", str(number)),
        ("X-MLflow-Client-Version", f"3.{number}"),
        ("job_run_id", str(number)),
        ("Cookie", f"AWSALB={number}; AWSALBCORS={number}"),
    ]


@pytest.mark.parametrize("access", [CREDENTIAL, PROVEN], ids=["credential", "proven"])
async def test_what_is_new_on_every_call_parts_no_callers(upstream: Upstream, access: AccessSettings) -> None:
    upstream.respond = workspace(lambda inbound: None)
    async with proxied(upstream.url, access=access, cache=LASTING) as url:
        for number in range(20):
            assert (await ask(url, "a", *on_the_way(number))).status == 200
    assert len(asked_for(upstream, LIST)) == 1
    sent = {name.lower() for name, _ in asked_for(upstream, LIST)[0].headers}
    assert sent == {"host", "accept-encoding", "user-agent", "authorization"}


async def test_nor_do_addresses_those_who_have_proven(upstream: Upstream) -> None:
    upstream.respond = workspace(lambda inbound: None)
    async with proxied(upstream.url, access=PROVEN, cache=LASTING) as url:
        for number in range(20):
            address = f"10.0.0.{number}"
            fields = [("X-Forwarded-For", address), ("X-Real-IP", address), ("Forwarded", f"for={address}")]
            assert (await ask(url, f"token-{number}", *fields, *on_the_way(number))).status == 200
    assert len(asked_for(upstream, LIST)) == 1
    assert len(asked_for(upstream, MODEL)) == 20


REFUSED: Answer = (403, {"error_code": "PERMISSION_DENIED", "message": "no"}, ())


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("X-Forwarded-User", "alice", "mallory"),
        ("X-Forwarded-For", "10.0.0.1", "6.6.6.6"),
        ("X-Real-IP", "10.0.0.1", "6.6.6.6"),
        ("Forwarded", "for=10.0.0.1", "for=6.6.6.6"),
        ("Cookie", "AWSALB=1; session=alice", "AWSALB=1; session=mallory"),
        ("baggage", "sentry-release=1,user=alice", "sentry-release=1,user=mallory"),
        ("X-Unheard-Of", "alice", "mallory"),
    ],
)
@pytest.mark.parametrize("access", [CREDENTIAL, PROVEN], ids=["credential", "proven"])
async def test_no_restriction_disappears_with_a_field(
    upstream: Upstream, access: AccessSettings, field: str, good: str, bad: str
) -> None:
    def judge(inbound: Inbound) -> Answer | None:
        return (
            REFUSED
            if any(part in value for value in inbound.all(field) for part in ("mallory", "6.6.6.6"))
            else None
        )

    upstream.respond = workspace(judge)
    async with proxied(upstream.url, access=access, cache=LASTING) as url:
        for _ in range(2):
            assert (await ask(url, "a", (field, good))).status == 200
            assert (await ask(url, "a", (field, bad))).status == 403
            assert (await ask(url, "b", (field, bad))).status == 403


@pytest.mark.parametrize("access", [CREDENTIAL, PROVEN], ids=["credential", "proven"])
async def test_tenants_with_equal_names_have_their_own_and_do_not_drop_each_others(
    upstream: Upstream, access: AccessSettings
) -> None:
    def judge(inbound: Inbound) -> Answer | None:
        tenant = inbound.all("X-Mlflow-Workspace")[0]
        created = {"one": 1, "two": 2}[tenant]
        if "model-versions/get?" in inbound.target:
            version = {"name": "m", "version": "1", "creation_timestamp": created, "status": "READY"}
            return 200, {"model_version": {**version, "description": tenant}}, ()
        if MODEL in inbound.target:
            return 200, {"registered_model": {"name": "m", "creation_timestamp": created}}, ()
        return 200, {"root_uri": f"dbfs:/{tenant}"}, ()

    upstream.respond = workspace(judge)
    version = f"{API}model-versions/get?name=m&version=1"
    async with proxied(upstream.url, access=access, cache=LASTING) as url:
        for _ in range(10):
            for tenant in ("one", "two"):
                for target in (version, LISTING):
                    reply = await ask(url, "a", ("X-MLFLOW-WORKSPACE", tenant), target=target)
                    assert tenant in reply.body.decode()
    assert len(asked_for(upstream, "model-versions/get?")) == 2
    assert len(asked_for(upstream, LIST)) == 2


async def test_one_tenants_ready_keeps_no_unfinished_listing_of_another(upstream: Upstream) -> None:
    def judge(inbound: Inbound) -> Answer | None:
        tenant = inbound.all("X-Mlflow-Workspace")[0]
        if "model-versions/get?" in inbound.target:
            status = "READY" if tenant == "one" else "PENDING_REGISTRATION"
            return 200, {"model_version": {"name": "m", "version": "1", "status": status}}, ()
        return None

    upstream.respond = workspace(judge)
    cache = CacheSettings(mutable_ttl=3600, listing_ttl=3600, unverified_ttl=0, pending_ttl=0)
    async with proxied(upstream.url, access=CREDENTIAL, cache=cache) as url:
        one, two = ("X-MLFLOW-WORKSPACE", "one"), ("X-MLFLOW-WORKSPACE", "two")
        await ask(url, "a", one, target=f"{API}model-versions/get?name=m&version=1")
        outcomes = [(await ask(url, "a", tenant)).outcome == HIT for tenant in (one, one, two, two)]
    assert outcomes == [False, True, False, False]


async def test_a_login_page_is_nobody_elses_listing(upstream: Upstream) -> None:
    page = b"<html><form action=/login>"

    def judge(inbound: Inbound) -> Answer | None:
        if LIST in inbound.target and "expired" in inbound.all("Authorization")[0]:
            return 200, page, ()
        return None

    upstream.respond = workspace(judge)
    async with proxied(upstream.url, access=PROVEN, cache=LASTING) as url:
        assert (await ask(url, "expired")).body == page  # as without the proxy
        assert b"MLmodel" in (await ask(url, "b")).body
        await ask(url, "b", target=f"{API}{MODEL}?name=m")
        replies = await joined(upstream, url, f"{LISTING}&path=d", "expired", "b", "c")
        assert [reply.body == page for reply in replies] == [True, False, False]


async def test_a_proof_that_is_a_login_page_proves_nothing(upstream: Upstream) -> None:
    def judge(inbound: Inbound) -> Answer | None:
        expired = "expired" in inbound.all("Authorization")[0]
        if MODEL in inbound.target and expired:
            return 200, b"<html>", ()
        return REFUSED if expired else None

    upstream.respond = workspace(judge)
    async with proxied(upstream.url, access=PROVEN, cache=LASTING) as url:
        assert (await ask(url, "b")).status == 200
        for _ in range(2):
            assert (await ask(url, "expired")).status == 403


@pytest.mark.parametrize("status", [400, 407, 418, 422, 451, 500])
async def test_a_failure_is_for_the_caller_that_met_it(upstream: Upstream, status: int) -> None:
    def judge(inbound: Inbound) -> Answer | None:
        odd = LIST in inbound.target and "odd" in inbound.all("Authorization")[0]
        return (status, {"error_code": "ODD", "message": "odd"}, ()) if odd else None

    upstream.respond = workspace(judge)
    async with proxied(upstream.url, access=PROVEN, cache=LASTING) as url:
        for token in ("odd", "b", "c"):
            await ask(url, token, target=f"{API}{SIGN}?name=m&version=1&path=MLmodel")
        replies = await joined(upstream, url, LISTING, "odd", "b", "c")
    assert [reply.status for reply in replies] == [status, 200, 200]


@pytest.mark.parametrize(
    "field",
    ["Authorization: Bearer a", "X-Auth-Request-Access-Token: a", "Location: /a", "X-Unheard-Of: a"],
)
async def test_a_shared_answer_carries_no_field_about_one_caller(upstream: Upstream, field: str) -> None:
    name, _, value = field.partition(": ")
    kept = (("ETag", '"1"'), ("Last-Modified", "Sun, 01 Mar 2026 12:00:00 GMT"))

    def judge(inbound: Inbound) -> Answer | None:
        return (*answer_to(inbound)[:2], [(name, value), *kept])

    upstream.respond = workspace(judge)
    async with proxied(upstream.url, access=PROVEN, cache=LASTING) as url:
        await ask(url, "a")
        reply = await ask(url, "b")
        assert reply.outcome == HIT
        assert reply.all(name) == []
        assert [(name, reply.all(name)) for name, _ in kept] == [(name, [value]) for name, value in kept]


@pytest.mark.parametrize(
    "field", [("Vary", "Authorization"), ("Cache-Control", "private"), ("Cache-Control", "no-store")]
)
async def test_where_every_answer_is_personal_no_call_is_lost_on_sharing(
    upstream: Upstream, field: tuple[str, str]
) -> None:
    def judge(inbound: Inbound) -> Answer | None:
        who = inbound.all("Authorization")[0]
        if LIST in inbound.target:
            return 200, {"root_uri": who, "files": []}, [field]
        return None

    upstream.respond = workspace(judge)
    async with proxied(upstream.url, access=PROVEN, cache=LASTING) as url:
        for _ in range(2):
            for number in range(10):
                assert f"token-{number}" in (await ask(url, f"token-{number}")).body.decode()
        # From the third on each asks in its own name at once, so that nobody waits for another's call.
        replies = await joined(
            upstream, url, f"{LISTING}&path=d", *(f"token-{number}" for number in range(5))
        )
        assert all(reply.all("Cache-Status") != ["mlflow-proxy; fwd=miss; collapsed"] for reply in replies)
        metrics = (await raw(url, "GET", "/-/metrics")).body.decode()
    assert len(asked_for(upstream, LIST)) == 10 + 5
    reason = field[0].lower()
    assert f'mlflow_proxy_personal_answers_total{{reason="{reason}",route="{LIST}"}} 15.0' in metrics


async def test_no_cache_is_not_answered_from_a_remembered_refusal(upstream: Upstream) -> None:
    refused = True

    def judge(inbound: Inbound) -> Answer | None:
        return REFUSED if refused else None

    upstream.respond = workspace(judge)
    access = AccessSettings(sharing="proven", refusal_ttl=3600)
    async with proxied(upstream.url, access=access, cache=LASTING) as url:
        assert (await ask(url, "a")).status == 403
        refused = False
        assert (await ask(url, "a")).status == 403
        assert (await ask(url, "a", ("Cache-Control", "no-cache"))).status == 200
        assert (await ask(url, "a")).status == 200


async def test_a_dead_token_takes_nothing_from_the_others(upstream: Upstream) -> None:
    """Stale answers are not for a caller that was refused since; that says nothing about the others."""

    def judge(inbound: Inbound) -> Answer | None:
        if "model-versions/get?" in inbound.target:
            return 200, {"model_version": {"name": "m", "version": "1", "status": "READY"}}, ()
        dead = LIST in inbound.target and "dead" in inbound.all("Authorization")[0]
        return (401, {"error_code": "UNAUTHENTICATED", "message": "no"}, ()) if dead else None

    upstream.respond = workspace(judge)
    cache = CacheSettings(mutable_ttl=3600, listing_ttl=0.001, stale_if_error=3600)
    async with proxied(upstream.url, access=PROVEN, cache=cache) as url:
        assert (await ask(url, "b", target=f"{API}model-versions/get?name=m&version=1")).status == 200
        assert (await ask(url, "b")).status == 200
        assert (await ask(url, "dead", ("Cache-Control", "no-cache"))).status == 401
        down: Answer = (503, {"error_code": "TEMPORARILY_UNAVAILABLE", "message": "down"}, ())
        upstream.respond = workspace(lambda inbound: down if LIST in inbound.target else judge(inbound))
        assert (await ask(url, "b")).status == 200
        assert (await ask(url, "dead")).status == 503


async def test_a_field_that_keeps_equal_questions_apart_is_named_once(upstream: Upstream) -> None:
    upstream.respond = workspace(lambda inbound: None)
    with capture_logs() as lines:
        async with proxied(upstream.url, access=CREDENTIAL, cache=LASTING) as url:
            for number in range(5):
                await ask(url, "a", ("X-My-Trace", str(number)), ("Cookie", f"SERVERID={number}; session=s"))
                await ask(url, "a", ("X-MLFLOW-WORKSPACE", str(number)))
            metrics = (await raw(url, "GET", "/-/metrics")).body.decode()
    told = [
        line
        for line in lines
        if line["event"] == "equal questions are asked apart because of a request field"
    ]
    assert {line["field"]: line["remedy"].rpartition(" ")[2] for line in told} == {
        "X-My-Trace": "access.neutral_fields",
        "Cookie SERVERID": "access.neutral_cookies",
        "Cookie session": "access.neutral_cookies",
        "X-Mlflow-Workspace": "share",
    }
    assert 'split_questions_total{field="X-My-Trace",setting="access.neutral_fields"}' in metrics


async def test_an_operator_can_say_that_a_field_tells_nothing(upstream: Upstream) -> None:
    upstream.respond = workspace(lambda inbound: None)
    access = AccessSettings(
        sharing="credential", neutral_fields=("x-my-trace",), neutral_cookies=("SERVERID",)
    )
    async with proxied(upstream.url, access=access, cache=LASTING) as url:
        for number in range(5):
            await ask(url, "a", ("X-My-Trace", str(number)), ("Cookie", f"SERVERID={number}"))
    assert len(upstream.seen) == 1
