"""Attacks on what is shared: whoever asks first must not choose what others are told.

The workspace here says back all that it was told, so that whatever leaks into a shared call is seen in the
answers of others. Each case compares what a victim gets after an attacker with what it gets alone.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

import pytest

from mlflow_proxy import logs
from mlflow_proxy.settings import AccessSettings, AdminSettings, CacheSettings
from tests.integration.support import (
    API,
    CONFIG,
    LATEST,
    LIST,
    MODEL,
    Head,
    Inbound,
    RawClient,
    RawReply,
    Respond,
    Upstream,
    answering,
    proxied,
    raw,
    request_bytes,
    settle,
    with_files,
)

READ = f"{API}{MODEL}?name=m"
LISTING = f"{API}{LIST}?name=m&version=1"
JSON = ("Content-Type", "application/json")
LASTING = CacheSettings(
    mutable_ttl=3600, not_found_ttl=3600, pending_ttl=3600, unverified_ttl=3600, listing_ttl=3600
)


def said(
    body: bytes, status: str = "200 OK", fields: Sequence[str] = ("Content-Type: application/json",)
) -> bytes:
    return (
        "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields, "", ""]).encode() + body
    )


async def reflect(inbound: Inbound) -> None:
    """Say everything back but who asked and from where, which is not everyone's in ``proven`` mode."""
    inbound.received = await inbound.body()
    name = dict(parse_qsl(inbound.target.partition("?")[2])).get("name", "")
    fields = sorted((name.lower(), value) for name, value in inbound.headers)
    told: dict[str, Any] = {
        "registered_model": {"name": name, "creation_timestamp": 1},
        "model_version": {"name": name, "version": "1"},
        "model_versions": [],
        "files": [],
        "oidc_endpoint": "https://workspace.test/oidc",
        "line": inbound.line,
        "fields": [field for field in fields if field[0] != "authorization" and "6.6.6.6" not in field[1]],
        "body": inbound.received.decode("latin-1"),
    }
    echoed = [f"X-Told-{name}: {value}" for name, value in told["fields"]]
    await inbound.send(said(json.dumps(told).encode(), fields=["Content-Type: application/json", *echoed]))


@dataclass(frozen=True)
class Mode:
    """A way to share, and who the two are."""

    name: str
    attacker: Head
    victim: Head
    target: str = LISTING


A: Head = [("Authorization", "Bearer token-a")]
B: Head = [("Authorization", "Bearer token-b")]
CREDENTIAL, PROVEN = Mode("credential", A, A), Mode("proven", A, B)
SERVICE, DISCOVERY = Mode("service", A, B), Mode("credential", A, [], CONFIG)
MODES = [
    pytest.param(CREDENTIAL, id="credential"),
    pytest.param(PROVEN, id="proven"),
    pytest.param(SERVICE, id="service"),
    pytest.param(DISCOVERY, id="discovery"),
]


@pytest.fixture
def access(tmp_path: Path) -> Callable[[Mode], AccessSettings]:
    def settings(mode: Mode) -> AccessSettings:
        if mode.name != "service":
            return AccessSettings.model_validate({"sharing": mode.name})
        (tmp_path / "token").write_text("dapi-of-the-principal\n")
        known = {name: hashlib.sha256(f"token-{name}".encode()).hexdigest() for name in "ab"}
        lines = ["[clients]", *(f'{name} = "sha256:{digest}"' for name, digest in known.items()), ""]
        (tmp_path / "clients.toml").write_text("\n".join(lines))
        return AccessSettings(
            sharing="service", token_file=str(tmp_path / "token"), clients_file=str(tmp_path / "clients.toml")
        )

    return settings


Access = Callable[[Mode], AccessSettings]


@asynccontextmanager
async def serving(upstream: Upstream, access: AccessSettings) -> AsyncIterator[str]:
    hosts = [value for name, value in UNKEYED if name == "Host"]
    async with proxied(upstream.url, access=access, cache=LASTING, allowed_hosts=hosts) as url:
        yield url


async def send(
    url: str,
    target: str,
    fields: Head,
    body: bytes = b"",
    *,
    method: str = "GET",
) -> RawReply:
    """Send a request whose fields may have a Host of their own."""
    length = [("Content-Length", str(len(body)))] if body else []
    data = request_bytes(method, target, [*fields, *length], body)
    if any(name == "Host" for name, _ in fields):
        data = data.replace(b"Host: proxy.localhost\r\n", b"", 1)
    async with await RawClient.connect(url) as client:
        await client.send(data)
        reply = await client.rest()
    while reply.status == 100:
        head, _, rest = reply.body.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        named = (each.partition(":") for each in lines)
        reply = RawReply(line, [(name, value.strip()) for name, _, value in named], rest)
    return reply


def content(reply: RawReply) -> tuple[str, Head, bytes]:
    """Return what an answer says, without what the cache says of itself."""
    own = {"cache-status", "age", "date"}
    return reply.line, [field for field in reply.headers if field[0].lower() not in own], reply.body


def outcome(reply: RawReply) -> str:
    return reply.outcome


# -- fields that are not part of the key -----------------------------------------------------------

UNKEYED: Head = [
    ("Host", "evil.example"),
    ("Accept", "text/html"),
    ("Accept-Encoding", "br, identity;q=0"),
    ("Accept-Language", "tlh"),
    ("Cache-Control", "max-age=0"),
    ("Content-Type", "text/evil"),
    ("Expect", "100-continue"),
    ("If-Match", '"evil"'),
    ("If-Modified-Since", "Sun, 01 Mar 2026 12:00:00 GMT"),
    ("If-None-Match", "*"),
    ("If-Range", '"evil"'),
    ("Mlflow-Proxy-Client", "evil"),
    ("Range", "bytes=0-0"),
    ("Referer", "http://evil.example/"),
    ("TE", "trailers, evil"),
    ("Trailer", "X-Evil"),
    ("Upgrade", "evil"),
    ("User-Agent", "<script>evil</script>"),
    ("traceparent", "00-evil"),
    ("tracestate", "evil=1"),
    ("X-B3-TraceId", "evil"),
    ("Cookie", "AWSALB=evil"),
    ("baggage", "sentry-release=evil"),
    ("job_run_id", "evil"),
    ("X-Request-Id", "evil"),
]
"""What says neither who asks nor what for: with or without it, a request is the same question."""
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


# -- questions that look alike ---------------------------------------------------------------------

Question = tuple[str, bytes]


def got(query: str, endpoint: str = LIST, prefix: str = API) -> Question:
    return f"{prefix}{endpoint}?{query}", b""


def posted(body: str | bytes) -> Question:
    return f"{API}{LATEST}", body.encode() if isinstance(body, str) else body


async def ask(url: str, question: Question, who: Head) -> RawReply:
    target, body = question
    if body:
        return await send(url, target, [*who, JSON], body, method="POST")
    return await send(url, target, who)


DIFFERENT = [
    (got("name=m&version=1"), got("name=M&version=1")),
    (got("name=m&version=1"), got("name=m&version=01")),
    (got("name=m&version=1"), got("name=m%20&version=1")),
    (got("name=m&version=1"), got("name=m%00&version=1")),
    (got("name=m&version=1"), got("name=m&version=1&Name=n")),
    (got("name=m&version=1"), got("name=m&version=1&x=")),
    (got("name=m&version=1"), got("name=m%26version%3D1")),
    (got("name=a+b&version=1"), got("name=a%2Bb&version=1")),
    (got("name=a%2Fb&version=1"), got("name=a%252Fb&version=1")),
    (got("name=%C3%A9&version=1"), got("name=e%CC%81&version=1")),
    (got("name=m&version=1&path=a"), got("name=m&version=1&path=/a")),
    (got("name=m&version=1&path=a"), got("name=m&version=1&path=a%00")),
    (got("name=m&version=1"), got("name=m&version=1&page_token=t")),
    (got("name=m&version=1"), got("name=m&version=1", "model-versions/get")),
    (got("name=m", LATEST), posted('{"name": "m"}')),
    (got('json:name="m"', LATEST), posted('{"name": "m"}')),
    (got("json%3Aname=%22m%22", LATEST), posted('{"name": "m"}')),
    (got("name=m"), got("name=m", prefix="/ajax-api/2.0/mlflow/")),
    (got("name=m"), got("name=m", prefix="/api/2.0/preview/mlflow/")),
    (posted('{"name": "m"}'), posted('{"name": ["m"]}')),
    (posted('{"name": "1"}'), posted('{"name": 1}')),
    (posted('{"name": null}'), posted('{"name": "null"}')),
    (posted('{"name": true}'), posted('{"name": "true"}')),
    (posted('{"name": "m"}'), posted('{"name": "m", "stages": []}')),
    (posted('{"name": "m", "stages": ["a", "b"]}'), posted('{"name": "m", "stages": ["b", "a"]}')),
    (posted('{"name": "m", "stages": ["a,b"]}'), posted('{"name": "m", "stages": ["a", "b"]}')),
    (posted('{"name": "m"}'), posted('{"Name": "m"}')),
]


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
@pytest.mark.parametrize("mode", [CREDENTIAL, SERVICE], ids=lambda mode: mode.name)
async def test_questions_that_differ_have_answers_of_their_own(
    upstream: Upstream, access: Access, mode: Mode, first: Question, second: Question
) -> None:
    upstream.respond = reflect
    for one, other in ((first, second), (second, first)):
        async with serving(upstream, access(mode)) as url:
            alone = await ask(url, other, mode.victim)
        async with serving(upstream, access(mode)) as url:
            attack = await ask(url, one, mode.attacker)
            after = await ask(url, other, mode.victim)
        assert content(after) == content(alone)
        assert content(after) != content(attack)


ALIKE = [
    (got("name=m&version=1"), got("version=1&name=m")),
    (got("name=m&version=1"), got("%6e%61me=%6D&version=%31")),
    (got("name=a+b&version=1"), got("name=a%20b&version=1")),
    (got("name=m&version=1&path=a/b"), got("name=m&version=1&path=a%2fb%2F")),
    (got("name=m&version=1"), got("name=m&version=1&path=&page_token=")),
    (got("name=~'!()*&version=1"), got("name=%7e%27%21%28%29%2a&version=1")),
    (posted('{"name": "m\u00fc", "stages": []}'), posted('{ "stages":[],\n"n\\u0061me": "m\\u00fc" }')),
]


@pytest.mark.parametrize(("first", "second"), ALIKE)
@pytest.mark.parametrize("mode", [CREDENTIAL, SERVICE], ids=lambda mode: mode.name)
async def test_spellings_of_one_question_are_asked_in_one(
    upstream: Upstream, access: Access, mode: Mode, first: Question, second: Question
) -> None:
    upstream.respond = reflect
    asked: set[bytes] = set()
    for one, other in ((first, second), (second, first)):
        async with serving(upstream, access(mode)) as url:
            replies = [await ask(url, one, mode.attacker), await ask(url, other, mode.victim)]
        assert outcome(replies[1]) == "hit"
        asked.update(reply.body for reply in replies)
    assert len(asked) == 1


DOUBTFUL = [
    got("name=m&name=n"),
    got("name=m&%6eame=n"),
    got("name=m;version=1"),
    got("name=m&&version=1"),
    got("name=m&version"),
    got("=m"),
    got("name=%zz"),
    got("name=%ff"),
    got("name=m&_method=DELETE"),
    (f"{CONFIG}?x=1", b""),
    posted('{"name": "m", "name": "n"}'),
    posted('{"name": "m", "\\u006eame": "n"}'),
    posted('{"name": NaN}'),
    posted('{"name": 1e999}'),
    posted('{"name": 1.0}'),
    posted('{"name": 9007199254740993}'),
    posted('{"name": "\\ud800"}'),
    posted(b'\xef\xbb\xbf{"name": "m"}'),
    posted('{"name": "m"}'.encode("utf-16")),
    posted(b'{"name": "\xff"}'),
    posted('{"name": ' + "[" * 3000 + "]" * 3000 + "}"),
]


@pytest.mark.parametrize("question", DOUBTFUL, ids=repr)
@pytest.mark.parametrize("mode", [CREDENTIAL, PROVEN, SERVICE], ids=lambda mode: mode.name)
async def test_what_can_be_read_in_two_ways_is_asked_by_each(
    upstream: Upstream, access: Access, mode: Mode, question: Question
) -> None:
    upstream.respond = reflect
    target, body = question
    async with serving(upstream, access(mode)) as url:
        for who in (mode.attacker, mode.victim):
            assert outcome(await ask(url, question, who)) == "fwd=bypass"
    assert [(call.target, call.received) for call in upstream.seen] == [(target, body)] * 2


@pytest.mark.parametrize(
    ("method", "fields", "body"),
    [
        ("GET", [], b"{}"),
        ("GET", [JSON], b'{"name": "n"}'),
        ("GET", [("Content-Encoding", "gzip")], b"x"),
        ("POST", [JSON, ("Content-Encoding", "gzip")], b'{"name": "m"}'),
        ("POST", [("Content-Type", "text/plain")], b'{"name": "m"}'),
        ("POST", [("Content-Type", "application/json; charset=utf-7")], b'{"name": "m"}'),
    ],
)
@pytest.mark.parametrize("mode", MODES)
async def test_a_body_that_is_not_in_the_key_is_not_in_a_shared_call(
    upstream: Upstream, access: Access, mode: Mode, method: str, fields: Head, body: bytes
) -> None:
    upstream.respond = reflect
    target = mode.target if method == "GET" else f"{API}{LATEST}"
    who = mode.attacker
    async with serving(upstream, access(mode)) as url:
        attack = await send(url, target, [*who, *fields], body, method=method)
        assert (attack.status, outcome(attack)) == (200, "fwd=bypass")
        if method == "GET":
            assert json.loads((await send(url, target, mode.victim)).body)["body"] == ""


# -- answers that are not everyone's ---------------------------------------------------------------


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


# -- proofs about another model --------------------------------------------------------------------


def lenient(read_name: Callable[[str, str], str]) -> Respond:
    """Make a workspace that finds a model's name in its own way; token-a may read "a", token-b everything."""

    async def respond(inbound: Inbound) -> None:
        inbound.received = await inbound.body()
        path, _, query = inbound.target.partition("?")
        if inbound.received:
            pairs = json.loads(inbound.received, object_pairs_hook=lambda members: members)
            query = "&".join(f"{quote(str(name))}={quote(str(value))}" for name, value in pairs)
        name = read_name(path, query)
        if name != "a" and inbound.all("Authorization") == [A[0][1]]:
            await inbound.send(said(b"{}", "403 Forbidden"))
            return
        found = {"registered_model": {"name": name, "creation_timestamp": 1}, "files": [], "secret": name}
        await inbound.send(said(json.dumps(found).encode()))

    return respond


def last_name(path: str, query: str) -> str:
    pairs = parse_qsl(query.replace(";", "&"), keep_blank_values=True)
    return [value for name, value in pairs if name.strip("[] \0").lower() == "name"][-1]


def first_name(path: str, query: str) -> str:
    return next(value for name, value in parse_qsl(query) if name == "name")


def trimmed_in_proofs(path: str, query: str) -> str:
    name = first_name(path, query)
    return name.strip().casefold() if path.endswith(MODEL) else name


SECRETS = [f"{API}{LIST}?name=b&version=1", f"{API}registered-models/get-latest-versions?name=b"]


@pytest.mark.parametrize(
    "trick",
    [
        "name=b&name=a",
        "name=b&%6eame=a",
        "name=b&Name=a",
        "name=b&NAME=a",
        "name=b&name[]=a",
        "name=b&name%5B%5D=a",
        "name=b&name%20=a",
        "name=b&name%00=a",
        "name=b;name=a",
        "name=b&&name=a",
    ],
)
async def test_no_proof_of_one_model_is_taken_for_another(
    upstream: Upstream, access: Access, trick: str
) -> None:
    upstream.respond = lenient(last_name)
    async with serving(upstream, access(PROVEN)) as url:
        for secret in SECRETS:
            assert (await send(url, secret, B)).json()["secret"] == "b"
        assert (await send(url, f"{API}{MODEL}?{trick}", A)).status == 200
        for secret in SECRETS:
            reply = await send(url, secret, A)
            assert (reply.status, reply.body) == (403, b"{}")
        # Nor is a read that is spelt so given what others got.
        for endpoint in (LIST, LATEST):
            for tail in (trick, trick.replace("=b", "=\0").replace("=a", "=b").replace("=\0", "=a")):
                reply = await send(url, f"{API}{endpoint}?{quote(tail, safe='=&%[];')}", A)
                assert reply.status == 403 or reply.json()["secret"] == "a"


@pytest.mark.parametrize("name", ["a ", " a", "A", "a\t", "a\n"])
async def test_a_proof_that_names_another_model_opens_nothing(
    upstream: Upstream, access: Access, name: str
) -> None:
    """The workspace trims and folds names where they are proven and nowhere else."""
    secret = f"{API}{LIST}?name={quote(name)}&version=1"
    strict = lenient(first_name)

    async def respond(inbound: Inbound) -> None:
        insider = inbound.all("Authorization") == [B[0][1]]
        await (strict if insider else lenient(trimmed_in_proofs))(inbound)

    upstream.respond = respond
    async with serving(upstream, access(PROVEN)) as url:
        assert (await send(url, secret, B)).json()["secret"] == name
        for _ in range(2):
            assert (await send(url, secret, A)).status == 403
        proofs = [call for call in upstream.seen if f"{API}{MODEL}" in call.target]
        assert len(proofs) == 3, "each once, and again after a refusal"


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "a", "name": "b"}',
        '{"name": "a", "\\u006eame": "b"}',
        '{"name": "a", "Name": "b"}',
        '{"name": "a", "name[]": "b"}',
        '{"name": "a", "name ": "b"}',
        '{"name": "a", "name\\u0000": "b"}',
    ],
)
async def test_a_body_names_one_model_or_is_asked_by_each(
    upstream: Upstream, access: Access, body: str
) -> None:
    upstream.respond = lenient(last_name)
    async with serving(upstream, access(PROVEN)) as url:
        assert (await ask(url, posted(body), B)).json()["secret"] == "b"
        assert (await ask(url, posted(body), A)).status == 403


# -- endpoints of the proxy's own, and paths that look like others ---------------------------------


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/-/purge", 401),
        ("/-/purge?all=true", 401),
        ("/-/../-/purge", 404),
        ("/-/./purge", 404),
        ("/-//purge", 404),
        ("/-/%70urge", 404),
        ("/-/purge/", 404),
        ("/-/purge;x", 404),
        ("/-/PURGE", 404),
        ("/-/x/../purge", 404),
        ("/-/%2e%2e/-/purge", 404),
        ("//-/purge", 200),
        ("/%2d/purge", 200),
        ("/%2D/purge", 200),
        ("/-%2fpurge", 200),
        ("/%2f-/purge", 200),
        ("/./-/purge", 200),
        ("/x/../-/purge", 200),
        ("/-;x/purge", 200),
        ("/-\\purge", 400),
        ("/\\-/purge", 400),
        ("http://proxy.localhost/-/purge", 400),
        ("HTTP://127.0.0.1/-/purge", 400),
        ("/-/purge#", 400),
        ("-/purge", 400),
    ],
)
async def test_no_other_way_leads_to_commands(upstream: Upstream, target: str, status: int) -> None:
    upstream.respond = reflect
    token = AdminSettings.model_validate({"token": "of-the-operator-and-long-enough"})
    body = b'{"all": true}'
    async with proxied(upstream.url, admin=token) as url:
        await send(url, READ, A)
        reply = await send(url, target, [*A, JSON], b"" if "all=" in target else body, method="POST")
        assert reply.status == status, reply
        passed = [call.target for call in upstream.seen[1:]]
        assert passed == ([target] if status == 200 else [])
        # What is passed on is a write of unknown reach: it drops everything as well, but is no command here.
        assert outcome(await send(url, READ, A)) == ("fwd=miss; stored" if passed else "hit")


@pytest.mark.parametrize(
    "path",
    [
        "registered-models%2fdelete",
        "registered%252dmodels/delete",
        "registered-models;x=1/delete",
        "registered-models%5cdelete",
        "Registered-Models/Delete",
        "registered-models/delete/",
        "./registered-models/delete",
        "/registered-models/delete",
        "x/%2e%2e/registered-models/delete",
        "registered-models%00/delete",
        "registered-models/%ff",
    ],
)
async def test_what_a_server_may_take_for_a_write_is_one(upstream: Upstream, path: str) -> None:
    upstream.respond = reflect
    async with proxied(upstream.url) as url:
        await send(url, READ, A)
        assert outcome(await send(url, READ, A)) == "hit"
        reply = await send(url, f"{API}{path}?name=other", A, method="DELETE")
        assert (reply.status, outcome(reply)) == (200, "fwd=bypass")
        assert upstream.seen[-1].target == f"{API}{path}?name=other"
        assert outcome(await send(url, READ, A)) == "fwd=miss; stored"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("name=other", ("X-HTTP-Method-Override", "DELETE")),
        ("name=other", ("X-HTTP-Method", "DELETE")),
        ("name=other", ("x_method_override", "DELETE")),
        ("name=other&_method=DELETE", ("X-Any", "1")),
    ],
)
async def test_a_read_that_may_be_a_write_drops_what_it_may_have_changed(
    upstream: Upstream, query: str, field: tuple[str, str]
) -> None:
    upstream.respond = reflect
    async with proxied(upstream.url) as url:
        await send(url, READ, A)
        for endpoint in (MODEL, "registered-models/delete"):
            assert outcome(await send(url, f"{API}{endpoint}?{query}", [*A, field])) == "fwd=bypass"
            assert upstream.seen[-1].all(field[0]) == [field[1]]
            assert outcome(await send(url, READ, A)) == "fwd=miss; stored"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("artifacts/mlflow-proxy%252Fm/1/f", 200),
        ("artifacts/./mlflow-proxy/m/1/f", 200),
        ("artifacts//mlflow-proxy/m/1/f", 200),
        ("/artifacts/mlflow-proxy/m/1/f", 200),
        ("artifacts/x/../mlflow-proxy/m/1/f", 200),
        ("Artifacts/MLflow-Proxy/m/1/f", 200),
        ("artifacts/mlflow-proxy%2Fm/1/..%2f..%2fother/1/f", 400),
        ("artifacts/mlflow-proxy/m/1/%2e%2e/%2e%2e/other/1/f", 400),
        ("artifacts/mlflow-proxy/m/1/..%5c..%5cf", 400),
        ("artifacts/mlflow-proxy/m/1/f%00", 400),
        ("artifacts/mlflow-proxy/m/1//f", 400),
        ("artifacts/mlflow-proxy/m/1/%ff", 400),
        ("artifacts;x/mlflow-proxy/m/1/f", 501),
        ("%61rtifacts/mlflow-proxy/m/1/f", 501),
        ("artifacts?path=mlflow-proxy/m/1&path=x", 400),
        ("artifacts?path=x&path=mlflow-proxy/m/1", 400),
        ("artifacts?path=x;path=mlflow-proxy/m/1", 400),
        ("artifacts?path=x&path=%6dlflow-proxy%2fm/1", 400),
    ],
)
async def test_a_file_is_the_workspaces_or_the_proxys_by_every_reading(
    upstream: Upstream, path: str, status: int
) -> None:
    upstream.respond = reflect
    target = f"/api/2.0/mlflow-artifacts/{path}"
    async with proxied(upstream.url) as url:
        reply = await send(url, target.replace(" ", "%20"), A)
    assert reply.status == status
    assert [call.target for call in upstream.seen] == ([target] if status == 200 else [])
    if status == 200:
        assert outcome(reply) == "fwd=bypass"


async def test_the_end_of_a_line_in_a_files_name_is_part_of_it(upstream: Upstream) -> None:
    upstream.respond = with_files(reflect, "f\r\nX: 1")
    async with proxied(upstream.url) as url:
        reply = await send(url, "/api/2.0/mlflow-artifacts/artifacts/mlflow-proxy/m/1/f%0d%0aX:%201", A)
    assert reply.status == 502, "the workspace signs nothing"
    signing = upstream.seen[-1]
    assert "path=f%0D%0AX%3A%201" in signing.target
    assert not signing.all("X")


# -- ends of lines in what is said back ------------------------------------------------------------


async def test_ends_of_lines_stay_encoded(upstream: Upstream) -> None:
    upstream.respond = reflect
    async with proxied(upstream.url) as url:
        for query in ("name=m%0d%0aX-Injected:%201", "name=m%0D%0A%0d%0aGET%20/evil"):
            reply = await send(url, f"{API}{MODEL}?{query}", A)
            assert reply.status == 200
            [call] = upstream.seen
            assert call.target.lower() == f"{API}{MODEL}?{query}".lower().replace(":", "%3a").replace(
                "/e", "%2fe"
            )
            assert not call.all("X-Injected")
            upstream.seen.clear()
        body = json.dumps({"name": "m\r\nX-Injected: 1"})
        assert (await ask(url, posted(body), A)).status == 200
        assert upstream.seen[0].received == b'{"name":"m\\r\\nX-Injected: 1"}'


@pytest.mark.parametrize("value", ["evil\rX-Injected: 1", "evil\x0bX-Injected: 1", "evil\0", "evil\r"])
async def test_a_name_for_the_share_of_the_budget_injects_nothing(upstream: Upstream, value: str) -> None:
    upstream.respond = reflect
    async with proxied(upstream.url) as inner, proxied(inner) as outer:
        await send(outer, f"{API}{MODEL}?name=first", A)
        for target in (READ, "/x"):
            await send(outer, target, [*A, ("Mlflow-Proxy-Client", value)])
        assert (await send(outer, READ, A)).status == 200
    assert upstream.seen
    for call in upstream.seen:
        assert not call.all("X-Injected")
        assert not call.all("Mlflow-Proxy-Client")


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/-/x%0d%0aX-Injected:1"),
        ("GET", "/-/purge?%0d%0aX-Injected:1"),
        ("GET", '/-/"\\'),
        ("POST", "/-/purge?name=%0d%0aX-Injected:%201&x=%22"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/mlflow-proxy/%0d%0aX-Injected:1/1/f"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts?path=mlflow-proxy/%22%0d%0a/1"),
    ],
)
async def test_own_errors_are_json_whatever_they_name(upstream: Upstream, method: str, target: str) -> None:
    async with proxied(upstream.url) as url:
        reply = await send(url, target, [], method=method)
    assert 400 <= reply.status < 500
    assert set(reply.json()) == {"error_code", "message"}
    assert reply.complete
    assert not reply.all("X-Injected")


async def test_a_place_that_the_workspace_names_is_one_line(upstream: Upstream) -> None:
    async with proxied(upstream.url) as url:
        upstream.respond = answering(said(b"", "302 Found", ["Location: /a%0d%0aX-Injected:1"]))
        for target in (READ, "/x"):
            reply = await send(url, target, A)
            assert (reply.status, reply.all("Location")) == (302, ["/a%0d%0aX-Injected:1"])
            assert not reply.all("X-Injected")
        upstream.respond = answering(said(b"", "302 Found", ["Location: /a\rX-Injected: 1"]))
        for target in (READ, "/x"):
            reply = await send(url, target, A)
            assert not reply.all("X-Injected")
            assert "\r" not in "".join(reply.all("Location"))


@pytest.mark.parametrize("form", ["json", "console"])
async def test_a_name_writes_no_line_of_the_log(
    upstream: Upstream, form: str, capfd: pytest.CaptureFixture[str]
) -> None:
    forged = "2026-01-01T00:00:00Z [error    ] forged"
    logs.configure("debug", "json" if form == "json" else "console")
    breaks, texts = ("\n", "\r\n", "\x1b[2K", "\u2028", "\x85"), (forged, "forged")
    async with proxied(upstream.url) as url:
        for name in [f"m{between}{text}" for between in breaks for text in texts]:
            assert (await send(url, f"/-/purge?name={quote(name)}", [], method="POST")).status == 200
    lines = capfd.readouterr().err.splitlines()
    assert ["forged" in line and "purged" in line for line in lines] == [True] * 10
    assert all(line.isprintable() for line in lines)
