"""What attacks on shared answers have in common: the two who ask, each way to share, and how they ask.

The workspace here says back all that it was told, so that whatever leaks into a shared call is seen in the
answers of others. Each case compares what a victim gets after an attacker with what it gets alone.
"""

import hashlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

from mlflow_proxy.settings import AccessSettings, CacheSettings
from tests.integration.support import (
    API,
    CONFIG,
    LATEST,
    LIST,
    Head,
    Inbound,
    RawClient,
    RawReply,
    Upstream,
    proxied,
    request_bytes,
)

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

Access = Callable[[Mode], AccessSettings]


def access_settings(folder: Path, mode: Mode) -> AccessSettings:
    """Return the settings of a way to share, whose files are in the folder."""
    if mode.name != "service":
        return AccessSettings.model_validate({"sharing": mode.name})
    (folder / "token").write_text("dapi-of-the-principal\n")
    known = {name: hashlib.sha256(f"token-{name}".encode()).hexdigest() for name in "ab"}
    lines = ["[clients]", *(f'{name} = "sha256:{digest}"' for name, digest in known.items()), ""]
    (folder / "clients.toml").write_text("\n".join(lines))
    return AccessSettings(
        sharing="service", token_file=str(folder / "token"), clients_file=str(folder / "clients.toml")
    )


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
