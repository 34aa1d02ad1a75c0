"""The same happenings for a proxy with the memo and one without, and every difference between them."""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mlflow_proxy.settings import AccessSettings, CacheSettings
from tests.integration.memo import Line, memo_hits
from tests.integration.service import clients_toml, replace
from tests.integration.support import RawClient, RawReply, metrics, proxied, raw
from tests.machine import Hands
from tests.memo.workspace import DIRECTORIES, MODELS, Workspace

Sharing = Literal["credential", "proven", "service"]
TOKENS = ("a", "b", "c")
API = "/api/2.0/mlflow/"


@dataclass
class Side:
    """One of the two proxies, its workspace, and the clients' connections to it."""

    url: str
    workspace: Workspace
    clients_file: Path
    lines: dict[int, Line] = field(default_factory=dict)

    async def line(self, number: int) -> Line:
        if number not in self.lines:
            self.lines[number] = Line(await RawClient.connect(self.url))
        return self.lines[number]

    async def hang_up(self, number: int) -> None:
        if number in self.lines:
            await self.lines.pop(number).client.close()

    async def ask(self, number: int, packet: bytes, answers: int) -> list[RawReply]:
        """Send a packet and return the answers, less if the connection ends."""
        connection = await self.line(number)
        replies = []
        try:
            await connection.client.send(packet)
            for _ in range(answers):
                replies.append(await connection.reply(head=packet.startswith(b"HEAD")))
                if replies[-1].all("Connection") == ["close"]:
                    await self.hang_up(number)
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            await self.hang_up(number)
        return replies

    async def counted(self) -> list[str]:
        """Return the metrics that both proxies have to agree on."""
        text = await metrics(self.url)
        return sorted(
            line
            for line in text.splitlines()
            if line.startswith(
                (
                    "mlflow_proxy_requests_total",
                    "mlflow_proxy_request_seconds_count",
                    "mlflow_proxy_upstream_calls_total",
                    "mlflow_proxy_personal_answers_total",
                    "mlflow_proxy_proofs_total",
                    "mlflow_proxy_cache_entries",
                )
            )
        )


@asynccontextmanager
async def side(sharing: Sharing, hands: Hands, directory: Path, *, memo: bool) -> AsyncIterator[Side]:
    """Serve one of them."""
    access, clients_file = _access(sharing, directory)
    cache = CacheSettings(
        max_bytes=25_000, memo_bytes=1_000_000 if memo else 0, unverified_ttl=20, not_found_ttl=4
    )
    workspace = Workspace()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(workspace.upstream)
        url = await stack.enter_async_context(
            proxied(workspace.upstream.url, access=access, cache=cache, clock=hands.clock())
        )
        found = Side(url, workspace, clients_file)
        try:
            yield found
        finally:
            for number in list(found.lines):
                await found.hang_up(number)


def _access(sharing: Sharing, directory: Path) -> tuple[AccessSettings, Path]:
    """Return the settings of a way to share, and the file of clients, which one of them reads."""
    directory.mkdir()
    clients_file, token_file = directory / "clients.toml", directory / "token"
    clients_file.write_text(clients_toml({each: each for each in TOKENS}))
    token_file.write_text("principal")
    files = {"clients_file": str(clients_file), "token_file": str(token_file)}
    own = files if sharing == "service" else {}
    return AccessSettings.model_validate({"sharing": sharing, "refusal_ttl": 3, **own}), clients_file


@dataclass
class Differences:
    """What came of a run."""

    steps: int = 0
    hits: int = 0
    """Requests that the memo answered."""
    found: list[str] = field(default_factory=list)


def target(chance: random.Random) -> str:
    """Return something to ask: usually what was asked before."""
    model = chance.choice([*MODELS, *MODELS, "missing"])
    path = chance.choice(DIRECTORIES)
    return chance.choice(
        [
            f"{API}registered-models/get?name={model}",
            f"{API}model-versions/get?name={model}&version=1",
            f"{API}model-versions/list-artifacts?name={model}&version=1&path={path}",
            f"{API}model-versions/list-artifacts?name={model}&version=1&path={path}",
            f"/api/2.0/mlflow-artifacts/artifacts?path=mlflow-proxy/{model}/1/{path}".rstrip("/"),
            "/.well-known/databricks-config",
            "/api/2.0/some/thing",
        ]
    )


def packet(chance: random.Random) -> tuple[bytes, int]:
    """Return what a client sends at once, and how many requests that is."""
    drawn = chance.random()
    count = chance.choice((2, 3)) if drawn < 0.05 else 1
    method = "HEAD" if 0.05 < drawn < 0.08 else "GET"
    more = {1: "Cache-Control: no-cache", 2: "Connection: close", 3: "X-Request-Id: 7"}.get(
        chance.randrange(40)
    )
    requests = b""
    for _ in range(count):
        fields = ["Host: proxy.localhost", f"Authorization: Bearer {chance.choice(TOKENS)}"]
        if chance.random() < 0.05:
            fields.reverse()
        lines = [f"{method} {target(chance)} HTTP/1.1", *fields, *([more] if more else [])]
        requests += "\r\n".join([*lines, "", ""]).encode()
    return requests, count


async def run(sharing: Sharing, seed: int, steps: int, directory: Path) -> Differences:
    """Let so many things happen to both; a difference ends it."""
    chance, hands, result = random.Random(seed), Hands(wall=time.time()), Differences()
    async with (
        side(sharing, hands, directory / "with", memo=True) as one,
        side(sharing, hands, directory / "without", memo=False) as other,
    ):
        sides = (one, other)
        for result.steps in range(1, steps + 1):
            what = await _happen(chance, hands, sides)
            if one.workspace.calls != other.workspace.calls:
                both = itertools.zip_longest(one.workspace.calls, other.workspace.calls)
                what += [f"call {number}: {a} and {b}" for number, (a, b) in enumerate(both) if a != b][:3]
            if result.steps % 50 == 0 and (await one.counted()) != (await other.counted()):
                what += sorted(set(await one.counted()) ^ set(await other.counted()))
            if what:
                result.found += [f"{sharing}, seed {seed}, step {result.steps}:", *what]
                break
        result.hits = await memo_hits(one.url)
    return result


async def _happen(chance: random.Random, hands: Hands, sides: tuple[Side, Side]) -> list[str]:
    """Let one thing happen to both; returns how they differ."""
    drawn = chance.random()
    if drawn < 0.80:
        number, (data, count) = chance.randrange(6), packet(chance)
        return _compared(data, *[await side.ask(number, data, count) for side in sides])
    if drawn < 0.90:
        seconds = chance.choice((0.2, 0.5, 1.1, 3.0, 7.0, 25.0, 70.0))
        hands.go(seconds, seconds)
        return []
    if drawn < 0.93:
        model = chance.choice(MODELS)
        body = b'{"name": "%b"}' % model.encode()
        fields = [("Authorization", "Bearer a"), ("Content-Type", "application/json")]
        fields += [("Content-Length", str(len(body)))]
        path = chance.choice((f"{API}registered-models/update", f"{API}registered-models/delete"))
        method = "DELETE" if path.endswith("delete") else "PATCH"
        return _compared(body, *[[await raw(side.url, method, path, fields, body)] for side in sides])
    if drawn < 0.95:
        model, token = chance.choice(MODELS), chance.choice(TOKENS)
        for side in sides:
            side.workspace.state.readers[model] ^= {token}
        return []
    if drawn < 0.96:
        query = chance.choice(("all=true", f"name={chance.choice(MODELS)}"))
        replies = [[await raw(side.url, "POST", f"/-/purge?{query}")] for side in sides]
        return [] if replies[0][0].body == replies[1][0].body else [f"purge {query}: {replies}"]
    if drawn < 0.97:
        known = {each: each for each in TOKENS if chance.random() < 0.8}
        for side in sides:
            replace(side.clients_file, clients_toml(known))
        hands.go(2.5, 2.5)
        return []
    if drawn < 0.98:
        model = chance.choice(MODELS)
        for side in sides:
            side.workspace.state.created[model] += 1
        return []
    number = chance.randrange(6)
    for side in sides:
        await side.hang_up(number)
    return []


def _compared(asked: bytes, some: list[RawReply], others: list[RawReply]) -> list[str]:
    if [_essence(each) for each in some] == [_essence(each) for each in others]:
        return []
    return [f"{asked!r}", *(f"with: {each}" for each in some), *(f"without: {each}" for each in others)]


def _essence(reply: RawReply) -> tuple[object, ...]:
    """Return a reply without what the machine's clock says: the date of one that has none of its own."""
    headers = [(name, "" if name == "Date" else value) for name, value in reply.headers]
    return reply.line, headers, reply.body
