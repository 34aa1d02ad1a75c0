"""The two ends of the wire: raw clients, an upstream that shows every byte it got, and the proxy between."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from multidict import CIMultiDictProxy
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

from mlflow_proxy.clock import Clock
from mlflow_proxy.demo.answers import Fault
from mlflow_proxy.demo.journal import Arrivals
from mlflow_proxy.serving import serving
from mlflow_proxy.settings import (
    AccessSettings,
    AdminSettings,
    ArtifactSettings,
    BudgetSettings,
    CacheSettings,
    ConnectionSettings,
    Settings,
    TlsSettings,
)
from tests.streams import StreamServer, reset

API = "/api/2.0/mlflow/"
MUCH = 10_000
"""A registry limit that no test reaches unless it wants to."""

# What Cache-Status says
STORED = "fwd=miss; stored"
MISS = "fwd=miss"
HIT = "hit"
COLLAPSED = "fwd=miss; collapsed"
BYPASS = "fwd=bypass"
FRESH = "fwd=request"

MODEL = "registered-models/get"
LIST = "model-versions/list-artifacts"
SIGN = "model-versions/get-signed-download-uri"
LATEST = "registered-models/get-latest-versions"
CONFIG = "/.well-known/databricks-config"

READ = f"{API}{MODEL}?name=m"
"""A read that the proxy stores and shares."""
PLAIN = "/api/2.0/some/thing"
"""A request that means nothing to the proxy: its body streams."""
HELD = f"{API}runs/log-batch"
"""A write whose body the proxy holds."""
UNREACHED = {PLAIN: 502, READ: 503}
"""What is answered for a workspace that cannot be reached or makes no sense: reads may be asked again."""

Head = list[tuple[str, str]]


def outcome(statuses: Sequence[str]) -> str:
    """Return what the one Cache-Status field says that this cache did, without the time that is left."""
    [status] = statuses
    name, _, outcome = status.partition("; ttl=")[0].partition("; ")
    assert name == "mlflow-proxy"
    return outcome


QUIET = ConnectionSettings(forwarded_fields="never")
OWN = AccessSettings(sharing="credential")
"""Each credential has answers of its own, whatever the upstream is. Both together make a proxy that neither
says nor asks the upstream anything of its own accord."""


@asynccontextmanager
async def proxied(
    upstream: str,
    *,
    cache: CacheSettings | None = None,
    budget: BudgetSettings | None = None,
    connections: ConnectionSettings | None = None,
    artifacts: ArtifactSettings | None = None,
    access: AccessSettings | None = None,
    tls: TlsSettings | None = None,
    admin: AdminSettings | None = None,
    allowed_hosts: Sequence[str] = (),
    host: str | Sequence[str] = "127.0.0.1",
    administered: Callable[[str], None] = lambda url: None,
    clock: Clock | None = None,
) -> AsyncIterator[str]:
    """Serve a proxy in this process, a quiet one unless told otherwise; yields its URL."""
    connections = connections or QUIET
    if "forwarded_fields" not in connections.model_fields_set:
        connections = connections.model_copy(update={"forwarded_fields": QUIET.forwarded_fields})
    settings = Settings(
        upstream=upstream,
        host=host,
        port=0,
        allowed_hosts=tuple(allowed_hosts),
        shutdown_grace=0.01,  # aiohttp takes 0 for ever, so that a test that fails would hang
        cache=cache or CacheSettings(mutable_ttl=3600, not_found_ttl=3600),  # nothing expires meanwhile
        budget=budget or BudgetSettings(registry_limit=MUCH),
        connections=connections,
        artifacts=artifacts or ArtifactSettings(),
        access=access or OWN,
        tls=tls or TlsSettings(),
        admin=admin or AdminSettings(),
    )
    async with serving(settings, administered=administered, clock=clock) as url:
        yield url


async def stalled(progress: Callable[[], int]) -> None:
    """Wait until nothing moves any more: the event loop goes round and round without progress."""
    last, quiet = -1, 0
    while quiet < 500:
        await asyncio.sleep(0)
        quiet = quiet + 1 if progress() == last else 0
        last = progress()


async def settle() -> None:
    """Let everything happen that can happen without a further byte from the test."""
    await stalled(lambda: 0)


async def refuses(url: str) -> bool:
    """Whether a connection is refused: nothing listens there any more.

    One that is reset instead was let in by a listener that closed at that moment, and says nothing yet.
    """
    try:
        _, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
    except ConnectionError as error:
        return isinstance(error, ConnectionRefusedError)
    writer.close()
    return False


# -- what is asked of an emulated workspace --------------------------------------------------------


def count(number: int) -> Callable[[Arrivals], bool]:
    """Hold once so many calls have arrived."""
    return lambda arrivals: len(arrivals) >= number


def first(number: int, fault: Fault) -> Callable[[web.Request], Fault | None]:
    """Spoil the first calls only."""
    left = iter(range(number))
    return lambda _: fault if next(left, None) is not None else None


# -- a client that says exactly what it is told ----------------------------------------------------


@dataclass(frozen=True)
class RawReply:
    """A response as it came: ``broken`` if the connection was reset rather than closed."""

    line: str
    headers: Head
    body: bytes
    broken: bool = False

    @property
    def status(self) -> int:
        return int(self.line.split(" ")[1]) if self.line else 0

    def all(self, name: str) -> list[str]:
        return [value for field_name, value in self.headers if field_name.lower() == name.lower()]

    @property
    def outcome(self) -> str:
        """What the cache did."""
        return outcome(self.all("Cache-Status"))

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def complete(self) -> bool:
        """Whether the framing says that nothing is missing."""
        if self.all("Transfer-Encoding"):
            return self.body.endswith(b"0\r\n\r\n")
        return len(self.body) == int((self.all("Content-Length") or ["-1"])[0])


@dataclass
class RawClient:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def connect(cls, url: str) -> Self:
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def rest(self) -> RawReply:
        """Read until the connection ends."""
        received, broken = bytearray(), False
        try:
            while chunk := await self.reader.read(1 << 16):
                received += chunk
        except ConnectionError:
            broken = True
        head, _, body = bytes(received).partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        return RawReply(line, fields(lines), body, broken)

    async def close(self) -> None:
        self.writer.transport.abort()
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def request_bytes(
    method: str, target: str, headers: Sequence[tuple[str, str]] = (), body: bytes = b""
) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: proxy.localhost", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


async def raw(
    url: str, method: str, target: str, headers: Sequence[tuple[str, str]] = (), body: bytes = b""
) -> RawReply:
    """Send one request over a connection of its own."""
    async with await RawClient.connect(url) as client:
        await client.send(request_bytes(method, target, headers, body))
        return await client.rest()


# -- an upstream that shows what it got ------------------------------------------------------------


@dataclass
class Inbound:
    """One request as it arrived; ``received`` is its body, once something has read it."""

    line: str
    headers: Head
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    received: bytes | None = None

    @property
    def target(self) -> str:
        return self.line.split(" ")[1]

    def all(self, name: str) -> list[str]:
        return [value for field_name, value in self.headers if field_name.lower() == name.lower()]

    async def body(self) -> bytes:
        if "chunked" in self.all("Transfer-Encoding"):
            whole = bytearray()
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                whole += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readexactly(2)
            return bytes(whole)
        return await self.reader.readexactly(int((self.all("Content-Length") or ["0"])[0]))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Send RST."""
        reset(self.writer)


Respond = Callable[[Inbound], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


async def sharing(url: str) -> dict[str, str]:
    """Return how a proxy shares answers, and why."""
    status: dict[str, dict[str, str]] = (await raw(url, "GET", "/-/status.json")).json()
    return status["sharing"]


async def until_shared(url: str, mode: str = "proven") -> str:
    """Wait until answers are shared so; returns why."""
    while (found := await sharing(url))["mode"] != mode:
        await settle()
    return found["reason"]


def answering(data: bytes) -> Respond:
    """Take the whole request, then say ``data``."""

    async def respond(inbound: Inbound) -> None:
        inbound.received = await inbound.body()
        await inbound.send(data)

    return respond


def with_files(respond: Respond, *names: str) -> Respond:
    """Answer whatever is asked about a directory with these files, and leave the rest to ``respond``."""
    listing = json.dumps({"files": [{"path": name} for name in names]}).encode()
    list_files = answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(listing), listing))

    async def by_endpoint(inbound: Inbound) -> None:
        await (list_files if f"/{LIST}?" in inbound.target else respond)(inbound)

    return by_endpoint


class Upstream(StreamServer):
    """A server that parses no more than it must. Its ``respond`` may be changed at any time."""

    def __init__(self, respond: Respond | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.respond = respond or answering(OK)
        self.seen: list[Inbound] = []

        self.url = ""

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"
        return self

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
            inbound = Inbound(line, fields(lines), reader, writer)
            self.seen.append(inbound)
            await self.respond(inbound)


def fields(lines: list[str]) -> Head:
    return [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]


def sampled(text: str, name: str, **labels: str) -> float:
    """Return the value of a metric in what Prometheus gets, summed over the labels that are not named."""
    found = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert found, name
    return sum(found)


async def metrics(url: str) -> str:
    """Return what Prometheus gets."""
    return (await raw(url, "GET", "/-/metrics")).body.decode()


# -- a client of the API ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """A response of the API through the proxy."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def outcome(self) -> str:
        """What the cache did, without its name, and without the time that is left."""
        return outcome(self.headers.getall("Cache-Status"))

    @property
    def ttl(self) -> int | None:
        """The seconds left of a stored answer, as Cache-Status says; None if it does not."""
        left = self.headers["Cache-Status"].partition("; ttl=")[2]
        return int(left) if left else None

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Api:
    """Speaks to one proxy."""

    session: aiohttp.ClientSession
    url: str

    async def call(
        self,
        method: str,
        endpoint: str,
        parameters: dict[str, Any] | None = None,
        *,
        token: str = "token-a",
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """Make a call, parameters in the query of a GET and in the body otherwise."""
        own = {"Authorization": f"Bearer {token}"} if token else {}
        target = self.url + (endpoint if endpoint.startswith("/") else API + endpoint)
        url = URL(target, encoded=True)
        body = None
        if method in {"GET", "HEAD"}:
            url = url.update_query(parameters) if parameters else url
        else:
            body = parameters
        async with self.session.request(
            method, url, json=body, headers=own | (headers or {}), allow_redirects=False
        ) as response:
            return Reply(response.status, response.headers, await response.read())

    async def get(self, endpoint: str, *, token: str = "token-a", **parameters: str) -> Reply:
        return await self.call("GET", endpoint, parameters, token=token)

    async def metric(self, name: str, **labels: str) -> float:
        """Return the value of a metric, summed over the labels that are not named."""
        async with self.session.get(f"{self.url}/-/metrics") as response:
            return sampled(await response.text(), name, **labels)

    async def until_metric(self, name: str, value: float, **labels: str) -> None:
        """Ask for a metric until it has a value; the test's time-out is the limit."""
        while await self.metric(name, **labels) != value:
            await settle()

    async def budgets(self) -> dict[str, dict[str, Any]]:
        """Return what the status says of each budget group."""
        async with self.session.get(f"{self.url}/-/status.json") as response:
            groups: dict[str, dict[str, Any]] = (await response.json())["groups"]
        return groups
