"""Members of a fleet whose caches the tests ask, and what lies in Redis of them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from redis.asyncio import Redis

from mlflow_proxy.fleet.connection import Connection
from mlflow_proxy.fleet.sealing import Sealing
from mlflow_proxy.fleet.session import Session
from mlflow_proxy.fleet.shared_cache import SharedCache
from mlflow_proxy.mlflow_api.messages import StoredResponse
from mlflow_proxy.mlflow_api.reads import Key, Read
from mlflow_proxy.mlflow_api.routes import match
from mlflow_proxy.reading.store import Entry, Invalidation

ROUTE = match("GET", "/api/2.0/mlflow/model-versions/list-artifacts")
SECRET = "a secret of the whole fleet"
URL = b"https://storage.test/file?X-Amz-Signature=0123456789"
METADATA = Invalidation(frozenset({"MODEL"}), files=False)
FILES = Invalidation(frozenset({"model"}), files=True)
OTHER = Invalidation(frozenset({"other"}), files=True)
EVERYTHING = Invalidation(None, files=True)


def read(model: str | None = "model", partition: str = "credential", path: str = "") -> Read:
    return Read(Key(partition, "GET", ROUTE.path, (("name", model or ""), ("path", path))), ROUTE, model, "1")


def entry(
    body: bytes = URL, lifetime: float = 60.0, *, about: Read | None = None, survives: bool = False
) -> Entry:
    now = asyncio.get_running_loop().time()
    about = about or read()
    headers = (("Content-Type", "application/json"), ("X-Odd", "\udcff"))
    return Entry(StoredResponse(200, "OK", headers, body), about.model, "1", survives, now, now + lifetime)


def never() -> float:
    return float("inf")


class Member:
    """A proxy's part in the cache; `calls` is what the workspace was asked by all of them."""

    def __init__(
        self,
        url: str,
        name: str,
        calls: list[str],
        secret: str,
        prefix: str,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.url = url
        self.name = name
        self.calls = calls
        self.forgotten: list[Invalidation] = []
        self.outcomes: Counter[str] = Counter()
        self.connection = Connection(url)
        self.session = Session(self.connection, prefix, Sealing(secret, "workspace"), name, self._observe)
        self.cache = SharedCache(
            self.session, self.forgotten.append, clock or asyncio.get_running_loop().time
        )
        self.running = asyncio.create_task(self.cache.run())

    def _observe(self, how: str) -> None:
        self.outcomes[how] += 1

    async def ready(self) -> None:
        await until(lambda: self.cache.connected)
        self.forgotten.clear()

    async def get(
        self,
        about: Read | None = None,
        *,
        answer: Entry | Exception | None = None,
        hold: asyncio.Event | None = None,
        deadline: Callable[[], float] = never,
    ) -> tuple[bytes, str]:
        """Read through the cache; returns the body and how it came."""
        about = about or read()
        async with self.cache.turn(about, deadline) as turn:
            if turn.found is None:
                self.calls.append(self.name)
                if hold is not None:
                    await hold.wait()
                if isinstance(answer, Exception):
                    raise answer
                turn.brought = answer or entry(about=about)
                return turn.brought.response.body, "fetched"
            return turn.found.response.body, "joined" if turn.joined else "hit"

    async def stop(self) -> None:
        self.running.cancel()
        with suppress(asyncio.CancelledError):
            await self.running
        await self.connection.close()


async def until(what: Callable[[], object]) -> None:
    while not what():  # noqa: ASYNC110 - looks at what has no event
        await asyncio.sleep(0.002)


@asynccontextmanager
async def fleet(
    url: str,
    count: int = 2,
    *,
    secrets: Sequence[str] = (),
    prefix: str = "test:{ws}",
    wait: bool = True,
    clock: Callable[[], float] | None = None,
) -> AsyncIterator[list[Member]]:
    calls: list[str] = []
    members = [
        Member(url, f"member-{number}", calls, secrets[number] if secrets else SECRET, prefix, clock)
        for number in range(count)
    ]
    try:
        if wait:
            for member in members:
                await member.ready()
        yield members
    finally:
        for member in members:
            await member.stop()


async def landed(member: Member) -> None:
    """Wait until what a member brought is where others find it."""
    await until(lambda: not member.session.background)


async def waits(member: Member) -> None:
    """Wait until a member was told that another one is fetching the only thing that is being fetched."""
    await until(lambda: member.session.leases.waiters and not member.session.background)
    [lease] = await keys(member, "lease:")
    assert await command(member, "HGET", lease, "awaited") == b"1"


async def command(member: Member, *words: str | bytes | int) -> Any:
    """Say something to Redis as somebody else would."""
    async with Redis.from_url(member.url) as client:
        return await client.execute_command(*words)  # type: ignore[no-untyped-call]


async def keys(member: Member, kind: str = "") -> list[bytes]:
    return [key for key in await command(member, "KEYS", "*") if f":{kind}".encode() in key]
