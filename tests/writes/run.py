"""One writer, readers in the air all the while, and what each read may have been answered."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import aiohttp

from mlflow_proxy.settings import AccessSettings, ArtifactSettings, BudgetSettings, CacheSettings
from tests.integration.support import HIT, Api, proxied
from tests.writes.workspace import ADMIN, NAMES, PERMISSIONS, TOKENS, Question, RememberingWorkspace

READERS = 8
PREFIXES = tuple(
    f"/{root}/{version}/{preview}mlflow/"
    for root in ("api", "ajax-api")
    for version in ("2.0", "3.0")
    for preview in ("", "preview/")
)
_READ_UNDER = ("/api/2.0/mlflow/", "/api/2.0/mlflow/", "/ajax-api/2.0/preview/mlflow/", "/api/3.0/mlflow/")
_HARMLESS = ("runs/log-metric", "experiments/set-experiment-tag", "traces", "logged-models/m-1/tags")
_TTL = 3600
"""Seconds: nothing expires, so that only writes can make anything go."""


@dataclass
class Seen:
    """What came of it; ``stale`` has a line for each answer that no state since the last write explains."""

    writes: Counter[str] = field(default_factory=Counter)
    reads: Counter[str] = field(default_factory=Counter)
    stale: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Write:
    """A call that may change something, and by whom."""

    kind: str
    method: str
    path: str
    body: dict[str, Any]
    token: str = ADMIN


class Run:
    """So many writes and at least so many reads through one proxy in front of one workspace."""

    def __init__(self, api: Api, workspace: RememberingWorkspace, seed: int) -> None:
        self.seen = Seen()
        self._api = api
        self._workspace = workspace
        self._seed = seed
        self._pace = asyncio.Semaphore(0)
        """Released by each read: between two writes there is something that the next can make wrong."""
        self._answered = 0
        """The state in which the last write that was answered has left the workspace."""

    async def go(self, writes: int, reads: int) -> Seen:
        """Write, and read until both numbers are reached."""
        writing = asyncio.create_task(self._write(writes, reads))
        async with asyncio.TaskGroup() as readers:
            for number in range(READERS):
                readers.create_task(self._read(Random(f"{self._seed} reader {number}"), writing, reads))
        await writing
        return self.seen

    async def _write(self, count: int, reads: int) -> None:
        chance = Random(f"{self._seed} writer")
        for number in range(count):
            for _ in range(reads // count):
                await self._pace.acquire()
            each = write(chance, number)
            reply = await self._api.call(each.method, each.path, each.body, token=each.token)
            self._answered = len(self._workspace.states) - 1
            self.seen.writes[f"{each.kind} {reply.status}"] += 1

    async def _read(self, chance: Random, writing: asyncio.Task[None], reads: int) -> None:
        while not writing.done() or self.seen.reads.total() < reads:
            asked = question(chance)
            prefix, since = chance.choice(_READ_UNDER), self._answered
            reply = await self._api.call(
                asked.method, prefix + asked.endpoint, dict(asked.parameters), token=asked.token
            )
            got = reply.status, json.loads(reply.body) if reply.status == 200 else {}
            self._pace.release()
            possible = range(since, len(self._workspace.states))
            self.seen.reads["hit" if reply.outcome == HIT else "other"] += 1
            if not any(self._workspace.truth(state, asked) == got for state in possible):
                self.seen.stale.append(f"{prefix}{asked}: {got}, {reply.outcome}, states {possible}")


def write(chance: Random, number: int) -> Write:
    """Make up a write that the workspace may carry out."""
    name, version, other = chance.choice(NAMES), chance.choice("12"), chance.choice(NAMES)
    prefix = chance.choice(PREFIXES)
    kinds = {
        "update": ("PATCH", "registered-models/update", {"name": name, "description": str(number)}),
        "tag": ("POST", "registered-models/set-tag", {"name": name, "key": "k", "value": str(number)}),
        "alias": ("POST", "registered-models/alias", {"name": name, "alias": "champion", "version": version}),
        "stage": (
            "POST",
            "model-versions/transition-stage",
            {"name": name, "version": version, "stage": chance.choice(["Production", "Staging"])},
        ),
        "version": ("POST", "model-versions/create", {"name": name, "source": "s"}),
        "delete version": ("DELETE", "model-versions/delete", {"name": name, "version": version}),
        "create": ("POST", "registered-models/create", {"name": name}),
        "delete": ("DELETE", "registered-models/delete", {"name": name}),
        "rename": ("POST", "registered-models/rename", {"name": name, "new_name": other}),
        "harmless": ("POST", chance.choice(_HARMLESS), {"name": name}),
    }
    weights = {"create": 4, "version": 2, "permissions": 4, "harmless": 4}
    kind = chance.choices(
        [*kinds, "permissions"], [weights.get(each, 1) for each in (*kinds, "permissions")]
    )[0]
    token = ADMIN if chance.random() < 0.9 else "stranger"
    if kind == "permissions":
        method = chance.choice(["POST", "PUT", "PATCH", "DELETE"])
        readers = chance.sample(TOKENS, chance.randrange(len(TOKENS) + 1))
        where = chance.choice([prefix, prefix.removesuffix("mlflow/")]).rstrip("/")
        body = {"name": name, "readers": readers}
        return Write(kind, method, f"{where}{PERMISSIONS}{number}", body, token)
    method, path, said = kinds[kind]
    return Write(kind, method, prefix + path, said, token)


def question(chance: Random) -> Question:
    """Make up a read."""
    name, version, token = chance.choice(NAMES), chance.choice("12"), chance.choice(TOKENS)
    method, endpoint, asked = chance.choice(
        [
            ("GET", "registered-models/get", {"name": name}),
            ("GET", "registered-models/alias", {"name": name, "alias": "champion"}),
            ("POST", "registered-models/get-latest-versions", {"name": name}),
            ("GET", "registered-models/search", {}),
            ("GET", "model-versions/get", {"name": name, "version": version}),
            ("GET", "model-versions/search", {}),
            ("GET", "model-versions/get-download-uri", {"name": name, "version": version}),
            ("GET", "model-versions/list-artifacts", {"name": name, "version": version, "path": "data"}),
        ]
    )
    return Question(method, endpoint, tuple(asked.items()), token)


async def run(writes: int, reads: int, seed: int) -> Seen:
    """Run against a proxy of its own in mode ``proven``, where most is shared."""
    cache = CacheSettings(mutable_ttl=_TTL, pending_ttl=_TTL, unverified_ttl=_TTL, not_found_ttl=_TTL)
    access = AccessSettings(sharing="proven", proof_ttl=_TTL, refusal_ttl=_TTL)
    much, as_it_is = BudgetSettings(registry_limit=10**6), ArtifactSettings(rewrite_dbfs=False)
    async with (
        RememberingWorkspace(Random(f"{seed} workspace")) as workspace,
        proxied(workspace.url, cache=cache, access=access, budget=much, artifacts=as_it_is) as url,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        return await Run(Api(session, url), workspace, seed).go(writes, reads)


def report(seen: Seen) -> Iterator[str]:
    """Yield lines for people."""
    yield f"{seen.writes.total()} writes: " + ", ".join(
        f"{n} {kind}" for kind, n in sorted(seen.writes.items())
    )
    yield f"{seen.reads.total()} reads, {seen.reads['hit']} of them hits; {len(seen.stale)} stale"
    yield from seen.stale[:20]
