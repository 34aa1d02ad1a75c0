"""Attacks on sharing by proof: another caller's failure, and what is older than a write through the proxy."""

import asyncio
import json
from http.cookies import SimpleCookie
from typing import Any

import pytest

from mlflow_proxy.settings import AccessSettings, BudgetSettings, CacheSettings
from tests.integration.support import (
    API,
    HIT,
    LIST,
    MODEL,
    MUCH,
    SIGN,
    Inbound,
    RawClient,
    Upstream,
    proxied,
    raw,
    request_bytes,
    settle,
)
from tests.integration.test_callers import (
    CREDENTIAL,
    LASTING,
    LISTING,
    PROVEN,
    REFUSED,
    Answer,
    answer_to,
    ask,
    asked_for,
    bearer,
    joined,
    workspace,
)

PERMISSIONS = "/api/2.0/permissions/registered-models/1"
VERSION = f"{API}model-versions/get?name=m&version=1"


def who(inbound: Inbound) -> str:
    return next(iter(inbound.all("Authorization")), "").removeprefix("Bearer ")


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_an_unavailability_is_for_the_caller_that_met_it(upstream: Upstream, status: int) -> None:
    def judge(inbound: Inbound) -> Answer | None:
        if LIST in inbound.target and who(inbound) == "odd":
            fields = [("X-Auth-Request-Access-Token", "secret-of-odd")]
            return status, {"error_code": "ODD", "message": "the quota of odd is used up"}, fields
        return None

    upstream.respond = workspace(judge)
    async with proxied(upstream.url, access=PROVEN, cache=LASTING) as url:
        for token in ("odd", "b", "c"):
            await ask(url, token, target=f"{API}{SIGN}?name=m&version=1&path=MLmodel")
        replies = await joined(upstream, url, LISTING, "odd", "b", "c")
    assert [reply.all("X-Auth-Request-Access-Token") for reply in replies[1:]] == [[], []]
    assert [reply.status for reply in replies] == [status, 200, 200]


async def test_who_waits_for_anothers_call_when_access_ends_is_asked_for_anew(upstream: Upstream) -> None:
    """What the call brings may have been written after the end."""
    readers, content = {"a", "b"}, "old"

    def judge(inbound: Inbound) -> Answer | None:
        if inbound.line.startswith("PATCH"):
            return 200, {}, ()
        if who(inbound) not in readers:
            return REFUSED
        if LIST in inbound.target:
            return 200, {"root_uri": "dbfs:/r", "files": [{"path": content}]}, ()
        return None

    upstream.respond = workspace(judge)
    async with proxied(upstream.url, access=PROVEN, cache=LASTING) as url:
        for token in ("a", "b"):
            await ask(url, token, target=f"{API}{SIGN}?name=m&version=1&path=MLmodel")
        respond, hold = upstream.respond, asyncio.Event()

        async def held(inbound: Inbound) -> None:
            if LIST in inbound.target:
                await hold.wait()
            await respond(inbound)

        upstream.respond = held
        first = asyncio.create_task(ask(url, "a"))
        while not asked_for(upstream, LIST):
            await settle()
        second = asyncio.create_task(ask(url, "b"))
        while (await raw(url, "GET", "/-/status.json")).json()["requests"] < 2:
            await settle()
        await settle()
        readers.discard("b")
        assert (await raw(url, "PATCH", PERMISSIONS, bearer("admin"))).status == 200
        content = "written-after"
        hold.set()
        assert b"written-after" in (await first).body
        reply = await second
    assert (reply.status, b"written-after" in reply.body) == (403, False)


@pytest.mark.parametrize("access", [CREDENTIAL, PROVEN], ids=["credential", "proven"])
async def test_what_was_asked_before_a_write_says_nothing_about_versions_after_it(
    upstream: Upstream, access: AccessSettings
) -> None:
    """Version 1 is deleted with its model and created again; its files are still being uploaded."""
    state: dict[str, Any] = {"status": "READY", "created": 1, "files": ["a", "b"]}

    def judge(inbound: Inbound) -> Answer | None:
        if not inbound.line.startswith("GET"):
            return 200, {}, ()
        if "model-versions/get?" in inbound.target:
            version = {"name": "m", "version": "1", "status": state["status"]}
            return 200, {"model_version": {**version, "creation_timestamp": state["created"]}}, ()
        if LIST in inbound.target:
            return 200, {"root_uri": "r", "files": [{"path": path} for path in state["files"]]}, ()
        return 200, {"registered_model": {"name": "m", "creation_timestamp": state["created"]}}, ()

    upstream.respond = usual = workspace(judge)
    cache = CacheSettings(mutable_ttl=0.001, listing_ttl=3600, unverified_ttl=0.001, pending_ttl=0.001)
    async with proxied(upstream.url, access=access, cache=cache) as url:
        await ask(url, "a", target=f"{API}{MODEL}?name=m")
        hold, said = asyncio.Event(), asyncio.Event()

        async def held(inbound: Inbound) -> None:
            if "model-versions/get?" in inbound.target and not said.is_set():
                said.set()
                old = judge(inbound)
                await hold.wait()
                await workspace(lambda _: old)(inbound)
                return
            await usual(inbound)

        upstream.respond = held
        asking = asyncio.create_task(ask(url, "a", target=VERSION))
        await said.wait()
        json_field = ("Content-Type", "application/json"), ("Content-Length", "12")
        name = b'{"name":"m"}'
        target = f"{API}registered-models/"
        assert (await raw(url, "DELETE", f"{target}delete", [*bearer("a"), *json_field], name)).status == 200
        state.update(status="PENDING_REGISTRATION", created=2, files=["a"])
        assert (await raw(url, "POST", f"{target}create", [*bearer("a"), *json_field], name)).status == 200
        hold.set()
        await asking
        await ask(url, "a")
        state["files"] = ["a", "b"]
        await asyncio.sleep(0.05)
        assert b'"b"' in (await ask(url, "a")).body


@pytest.mark.parametrize(
    "field",
    [
        ("Forwarded", 'for="a;host=mallory"'),
        ("Forwarded", 'for="a,host=mallory"'),
        ("Forwarded", 'for=a;by="b;proto=https;host=mallory"'),
    ],
)
async def test_a_host_in_quotes_is_no_address(upstream: Upstream, field: tuple[str, str]) -> None:
    """Servers that part the field without heeding quotes take it for the host."""

    def judge(inbound: Inbound) -> Answer | None:
        hosts = [
            part.partition("host=")[2].strip('"')
            for value in inbound.all("Forwarded")
            for part in value.replace(",", ";").split(";")
            if part.strip().startswith("host=")
        ]
        if LIST in inbound.target and hosts:
            return 200, {"root_uri": "r", "files": [{"path": f"of-{hosts[0]}"}]}, ()
        return None

    upstream.respond = workspace(judge)
    async with proxied(upstream.url, access=PROVEN, cache=LASTING) as url:
        assert b"of-mallory" in (await ask(url, "mallory", field)).body
        assert b"mallory" not in (await ask(url, "b")).body


async def test_a_refusal_in_ones_own_name_withdraws_the_proof(upstream: Upstream) -> None:
    readers = {"a", "b"}

    def judge(inbound: Inbound) -> Answer | None:
        return None if who(inbound) in readers else REFUSED

    upstream.respond = workspace(judge)
    async with proxied(upstream.url, access=PROVEN, cache=LASTING) as url:
        assert (await ask(url, "a")).status == 200
        assert (await ask(url, "b")).status == 200
        readers.discard("b")
        assert (await ask(url, "b", target=f"{LISTING}&path=d")).status == 403
        assert (await ask(url, "b")).status == 403


async def test_cookies_that_a_blank_parts_are_not_taken_for_one(upstream: Upstream) -> None:
    """Python's own parser takes them for two."""

    def judge(inbound: Inbound) -> Answer | None:
        cookies = SimpleCookie()
        for value in inbound.all("Cookie"):
            cookies.load(value)
        session = cookies.get("session")
        return REFUSED if session is not None and session.value == "mallory" else None

    upstream.respond = workspace(judge)
    async with proxied(upstream.url, access=PROVEN, cache=LASTING) as url:
        assert (await ask(url, "a", ("Cookie", "AWSALB=1 session=alice"))).status == 200
        assert (await ask(url, "a", ("Cookie", "AWSALB=1 session=mallory"))).status == 403


async def test_a_reason_phrase_is_its_callers_own(upstream: Upstream) -> None:
    async def respond(inbound: Inbound) -> None:
        body = json.dumps(answer_to(inbound)[1]).encode()
        head = f"HTTP/1.1 200 OK for {who(inbound)}\r\nContent-Length: {len(body)}\r\n\r\n"
        await inbound.send(head.encode() + body)

    upstream.respond = respond
    async with proxied(upstream.url, access=PROVEN, cache=LASTING) as url:
        await ask(url, "secret")
        reply = await ask(url, "b")
    assert (reply.outcome, reply.line) == (HIT, "HTTP/1.1 200 OK")


async def test_what_one_caller_is_told_of_a_version_decides_nothing_for_others(upstream: Upstream) -> None:
    files = ["a"]

    def judge(inbound: Inbound) -> Answer | None:
        if "model-versions/get?" in inbound.target:
            status = "READY" if who(inbound) == "odd" else "PENDING_REGISTRATION"
            version = {"name": "m", "version": "1", "status": status, "creation_timestamp": 1}
            return 200, {"model_version": version}, [("Cache-Control", "private")]
        if LIST in inbound.target:
            return 200, {"root_uri": "r", "files": [{"path": path} for path in files]}, ()
        return None

    upstream.respond = workspace(judge)
    cache = CacheSettings(mutable_ttl=0.001, listing_ttl=3600, unverified_ttl=0, pending_ttl=0)
    async with proxied(upstream.url, access=PROVEN, cache=cache) as url:
        await ask(url, "odd", target=VERSION)
        await ask(url, "b")
        files.append("b")
        assert b'"b"' in (await ask(url, "b")).body


@pytest.mark.parametrize("spelt", ["m ", " m", "M", "m\t", "m\u0301", "\u1e3f", "\uff4d", "m\u200b"])
async def test_a_write_counts_by_every_name_that_a_database_may_take_for_the_same(
    upstream: Upstream, spelt: str
) -> None:
    """MySQL's usual collation tells neither case nor accents nor width apart, others no blanks at ends."""
    there = True

    def judge(inbound: Inbound) -> Answer | None:
        nonlocal there
        if inbound.line.startswith("DELETE"):
            there = False
            return 200, {}, ()
        return None if there else (404, {"error_code": "RESOURCE_DOES_NOT_EXIST"}, ())

    upstream.respond = workspace(judge)
    async with proxied(upstream.url, access=PROVEN, cache=LASTING) as url:
        assert (await ask(url, "a")).status == 200
        body = json.dumps({"name": spelt}).encode()
        head = [*bearer("a"), ("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        assert (await raw(url, "DELETE", f"{API}registered-models/delete", head, body)).status == 200
        assert (await ask(url, "a")).status == 404


@pytest.mark.parametrize("leaves", ["client", "workspace"])
async def test_a_write_that_is_carried_out_after_its_answer_was_lost_is_seen_soon(
    upstream: Upstream, leaves: str
) -> None:
    readers = {"a", "b"}
    arrived, carry_out, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def judge(inbound: Inbound) -> Answer | None:
        return None if who(inbound) in readers else REFUSED

    usual = workspace(judge)

    async def respond(inbound: Inbound) -> None:
        if not inbound.line.startswith("PATCH"):
            await usual(inbound)
            return
        await inbound.body()
        arrived.set()

        async def later() -> None:
            await carry_out.wait()
            readers.discard("b")
            done.set()

        task = asyncio.create_task(later())
        if leaves == "workspace":
            inbound.reset()
        await task
        await inbound.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    upstream.respond = respond
    budget = BudgetSettings(registry_limit=MUCH, patience=3)
    async with proxied(upstream.url, access=PROVEN, cache=LASTING, budget=budget) as url:
        assert (await ask(url, "a")).status == 200
        async with await RawClient.connect(url) as client:
            await client.send(request_bytes("PATCH", PERMISSIONS, bearer("admin")))
            await arrived.wait()
            if leaves == "workspace":
                await client.rest()
        while (await raw(url, "GET", "/-/status.json")).json()["requests"] > 0:
            await settle()  # until the proxy knows
        assert (await ask(url, "b")).status == 200
        carry_out.set()
        await done.wait()
        await settle()
        while (await ask(url, "b")).status != 403:
            await settle()  # no longer than a client's patience lasts
