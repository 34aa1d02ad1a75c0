"""One cache and one flight for many members, on a real Redis; the workspace is a list of what was asked."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from redis.asyncio import Redis

from mlflow_proxy.errors import (
    BadGatewayError,
    FleetUnavailableError,
    GatewayTimeoutError,
    OverBudgetError,
    TooLargeToShareError,
)
from mlflow_proxy.fleet import presence, shared_cache
from mlflow_proxy.fleet.connection import Connection
from mlflow_proxy.fleet.sealing import Sealing
from mlflow_proxy.fleet.session import Session
from mlflow_proxy.fleet.shared_cache import SharedCache
from mlflow_proxy.mlflow_api.messages import StoredResponse
from mlflow_proxy.mlflow_api.reads import Key, Read
from mlflow_proxy.mlflow_api.routes import match
from mlflow_proxy.reading.store import Entry, Invalidation
from tests.fleet.redis_server import RedisServer

ROUTE = match("GET", "/api/2.0/mlflow/model-versions/list-artifacts")
SECRET = "a secret of the whole fleet"
URL = b"https://storage.test/file?X-Amz-Signature=0123456789"


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


# -- one cache -------------------------------------------------------------------------------------


async def test_what_one_member_fetched_serves_all(redis: RedisServer) -> None:
    async with fleet(redis.url, 3) as members:
        first, *others = members
        assert await first.get() == (URL, "fetched")
        await landed(first)
        for member in others:
            assert await member.get() == (URL, "hit")
        assert first.calls == ["member-0"]


async def test_an_answer_comes_as_it_was_with_the_rest_of_its_life(redis: RedisServer) -> None:
    async with fleet(redis.url) as (first, second):
        brought = entry(lifetime=60, survives=True)
        await first.get(answer=brought)
        await landed(first)
        async with second.cache.turn(read(), never) as turn:
            found = turn.found
        assert found is not None
        assert found.response == brought.response
        assert (found.model, found.version, found.survives_metadata_writes) == ("model", "1", True)
        assert found.stored_at == pytest.approx(brought.stored_at, abs=1)
        assert found.expires_at == pytest.approx(brought.expires_at, abs=1)


async def test_credentials_questions_and_workspaces_never_mix(redis: RedisServer) -> None:
    async with fleet(redis.url) as (first, second), fleet(redis.url, 1, prefix="test:{other}") as (third,):
        await first.get(read())
        await landed(first)
        for member, about in [
            (second, read(partition="another")),
            (second, read(path="sub")),
            (second, read("other")),
            (third, read()),
        ]:
            assert (await member.get(about))[1] == "fetched"


async def test_what_has_expired_is_fetched_again(redis: RedisServer) -> None:
    async with fleet(redis.url) as (first, second):
        await first.get(answer=entry(lifetime=0.2))
        await landed(first)
        while await keys(first, "entry:"):  # noqa: ASYNC110 - Redis drops it by its own clock
            await asyncio.sleep(0.01)
        assert (await second.get())[1] == "fetched"


async def test_nothing_in_redis_can_be_read_or_moved(redis: RedisServer) -> None:
    async with fleet(redis.url) as (first, second):
        await first.get(read("secret-model", path="secret-path"))
        await first.get(read("other"))
        await landed(first)
        first.cache.announce(Invalidation(frozenset({"third-model"}), files=True))
        await first.cache.announced()
        everything = b""
        for key in await keys(first):
            how = {b"hash": ["HGETALL"], b"stream": ["XRANGE", "-", "+"], b"zset": ["ZRANGE", "0", "-1"]}
            reading, *rest = how[await command(first, "TYPE", key)]
            everything += key + repr(await command(first, reading, key, *rest)).encode()
        for clear in (b"Signature", b"secret-model", b"secret-path", b"third-model", SECRET.encode()):
            assert clear not in everything
        # The answer to one question in the place of another one:
        one, other = await keys(first, "entry:")
        await command(first, "COPY", one, "kept")
        await command(first, "COPY", other, one, "REPLACE")
        await command(first, "COPY", "kept", other, "REPLACE")
        assert (await second.get(read("other")))[1] == "fetched"
        assert second.outcomes["unreadable"] == 1


@pytest.mark.parametrize("planted", [b"", b"short", b"\0" * 400])
async def test_what_was_planted_is_ignored_counted_and_replaced(redis: RedisServer, planted: bytes) -> None:
    async with fleet(redis.url) as (first, second):
        await first.get()
        await landed(first)
        [key] = await keys(first, "entry:")
        await command(first, "HSET", key, "sealed", planted)
        assert (await second.get())[1] == "fetched"
        await landed(second)
        assert second.outcomes["unreadable"] == 1
        assert await first.get() == (URL, "hit")


async def test_members_with_another_secret_share_nothing_and_are_told(redis: RedisServer) -> None:
    async with fleet(redis.url, secrets=[SECRET, "another secret"]) as (first, second):
        await first.get()
        await landed(first)
        assert (await second.get())[1] == "fetched"
        await until(lambda: first.cache.other_secrets == second.cache.other_secrets == 1)


# -- one flight ------------------------------------------------------------------------------------


async def test_members_that_ask_at_once_share_one_flight(redis: RedisServer) -> None:
    async with fleet(redis.url, 3) as (first, *others):
        hold = asyncio.Event()
        leading = asyncio.create_task(first.get(hold=hold))
        await until(lambda: first.calls)
        following = [asyncio.create_task(member.get()) for member in others]
        for member in others:
            await waits(member)
        hold.set()
        assert await leading == (URL, "fetched")
        assert await asyncio.gather(*following) == [(URL, "joined")] * 2
        assert first.calls == ["member-0"]


async def test_an_answer_that_cannot_be_kept_serves_those_who_waited(redis: RedisServer) -> None:
    async with fleet(redis.url) as (first, second):
        hold = asyncio.Event()
        leading = asyncio.create_task(first.get(answer=entry(b"403", lifetime=0), hold=hold))
        await until(lambda: first.calls)
        following = asyncio.create_task(second.get())
        await waits(second)
        hold.set()
        assert await following == (b"403", "joined")
        await leading
        assert (await second.get())[1] == "fetched"


@pytest.mark.parametrize("error", [BadGatewayError("gone"), TooLargeToShareError("large")])
async def test_an_error_that_all_would_meet_is_told_to_those_who_waited(
    redis: RedisServer, error: Exception
) -> None:
    async with fleet(redis.url) as (first, second):
        hold = asyncio.Event()
        leading = asyncio.create_task(first.get(answer=error, hold=hold))
        await until(lambda: first.calls)
        following = asyncio.create_task(second.get())
        await waits(second)
        hold.set()
        for each in (leading, following):
            with pytest.raises(type(error), match=str(error)):
                await each
        assert first.calls == ["member-0"]
        assert (await second.get())[1] == "fetched"


@pytest.mark.parametrize("error", [OverBudgetError("late", 1), GatewayTimeoutError("late"), KeyError("bug")])
async def test_who_waited_for_a_flight_that_ran_out_of_time_fetches_itself(
    redis: RedisServer, error: Exception
) -> None:
    async with fleet(redis.url, 3) as (first, *others):
        hold = asyncio.Event()
        leading = asyncio.create_task(first.get(answer=error, hold=hold))
        await until(lambda: first.calls)
        following = [asyncio.create_task(member.get()) for member in others]
        for member in others:
            await waits(member)
        hold.set()
        with pytest.raises(type(error)):
            await leading
        assert sorted([how for _, how in await asyncio.gather(*following)]) == ["fetched", "joined"]
        assert len(first.calls) == 2, "one after the other, not all at once"


async def test_a_flight_that_its_member_gave_up_is_taken_over(redis: RedisServer) -> None:
    async with fleet(redis.url) as (first, second):
        leading = asyncio.create_task(first.get(hold=asyncio.Event()))
        await until(lambda: first.calls)
        following = asyncio.create_task(second.get())
        await waits(second)
        leading.cancel()
        assert (await following)[1] == "fetched"


async def test_a_dead_members_flight_is_taken_over(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_cache, "LEASE", 1.5)
    monkeypatch.setattr(presence, "LEASE", 1.5)
    monkeypatch.setattr(presence, "ATTEND", 0.1)
    async with fleet(redis.url) as (first, second):
        leading = asyncio.create_task(first.get(hold=asyncio.Event()))
        await until(lambda: first.calls)
        following = asyncio.create_task(second.get())
        await waits(second)
        await asyncio.sleep(2.0)
        assert not following.done(), "the leader lives, and renews its lease"
        first.running.cancel()
        assert (await following)[1] == "fetched"
        leading.cancel()


async def test_who_waits_for_another_member_has_a_deadline(redis: RedisServer) -> None:
    async with fleet(redis.url) as (first, second):
        leading = asyncio.create_task(first.get(hold=asyncio.Event()))
        await until(lambda: first.calls)
        soon = asyncio.get_running_loop().time() + 0.1
        with pytest.raises(OverBudgetError, match="Another proxy"):
            await second.get(deadline=lambda: soon)
        leading.cancel()


async def test_who_leaves_while_asking_leaves_no_lease(redis: RedisServer) -> None:
    async with fleet(redis.url) as (first, second):
        for steps in range(40):
            leaving = asyncio.create_task(first.get(hold=asyncio.Event()))
            for _ in range(steps):
                await asyncio.sleep(0)
            leaving.cancel()
            with suppress(asyncio.CancelledError):
                await leaving
        await landed(first)
        assert not await keys(first, "lease:")
        assert (await second.get())[1] == "fetched"
        assert not first.session.leases.waiters
        assert not first.session.leases.leads


# -- writes ----------------------------------------------------------------------------------------

METADATA = Invalidation(frozenset({"MODEL"}), files=False)
FILES = Invalidation(frozenset({"model"}), files=True)
OTHER = Invalidation(frozenset({"other"}), files=True)
EVERYTHING = Invalidation(None, files=True)


@pytest.mark.parametrize(
    ("what", "about", "survives", "kept"),
    [
        (METADATA, "model", False, False),
        (METADATA, "model", True, True),
        (FILES, "model", True, False),
        (FILES, "model", False, False),
        (OTHER, "model", False, True),
        (OTHER, "model", True, True),
        (EVERYTHING, "model", True, False),
        (EVERYTHING, "model", False, False),
        (OTHER, None, False, False),
        (METADATA, None, False, False),
        (EVERYTHING, None, True, True),
    ],
)
async def test_a_write_drops_what_it_makes_wrong(
    redis: RedisServer, what: Invalidation, about: str | None, survives: bool, kept: bool
) -> None:
    async with fleet(redis.url) as (first, second):
        question = read(about)
        await first.get(question, answer=entry(about=question, survives=survives))
        await landed(first)
        second.cache.announce(what)
        await second.cache.announced()
        assert (await first.get(question))[1] == ("hit" if kept else "fetched")


async def test_members_hear_of_each_others_writes(redis: RedisServer) -> None:
    async with fleet(redis.url, 3) as (first, *others):
        for what in (METADATA, FILES, EVERYTHING):
            first.cache.announce(what)
        await first.cache.announced()
        for member in others:
            await until(lambda member=member: len(member.forgotten) == 3)  # type: ignore[misc]
            assert member.forgotten == [METADATA, FILES, EVERYTHING]
        assert first.forgotten == []


async def test_a_flight_in_the_air_during_a_write_is_neither_kept_nor_joined(redis: RedisServer) -> None:
    async with fleet(redis.url, 3) as (first, second, third):
        hold = asyncio.Event()
        leading = asyncio.create_task(first.get(answer=entry(b"before"), hold=hold))
        await until(lambda: first.calls)
        earlier = asyncio.create_task(second.get())
        await waits(second)
        third.cache.announce(METADATA)
        await third.cache.announced()
        assert await third.get(answer=entry(b"after")) == (b"after", "fetched")
        hold.set()
        await leading
        assert (await earlier)[0] in {b"before", b"after"}
        await landed(first)
        assert await second.get() == (b"after", "hit")


async def test_a_member_asks_for_nothing_before_its_own_write_is_told(redis: RedisServer) -> None:
    async with fleet(redis.url) as (first, second):
        await second.get()
        await landed(second)
        first.cache.announce(FILES)
        assert (await first.get())[1] == "fetched"


# -- Redis and its failures ------------------------------------------------------------------------


async def test_without_redis_each_fetches_for_itself_and_later_shares_again(redis: RedisServer) -> None:
    async with fleet(redis.url) as (first, second):
        await first.get()
        await landed(first)
        hold = asyncio.Event()
        leading = asyncio.create_task(first.get(read("other"), hold=hold))
        await until(lambda: len(first.calls) == 2)
        following = asyncio.create_task(second.get(read("other")))
        await waits(second)
        await redis.kill()
        assert (await following)[1] == "fetched"
        hold.set()
        assert (await leading)[1] == "fetched"
        assert (await second.get())[1] == "fetched"
        first.cache.announce(OTHER)
        await redis.start()
        await first.ready()
        # Something may have been written meanwhile, and was.
        await until(lambda: EVERYTHING in second.forgotten)
        await until(lambda: not first.cache._writes.untold)
        await first.get()
        await landed(first)
        await second.ready()
        assert (await second.get())[1] == "hit"


async def test_members_that_missed_something_drop_everything(redis: RedisServer) -> None:
    async with fleet(redis.url) as (first, second):
        # Something was said that is gone before anyone could read it.
        await command(first, "HINCRBY", first.session.key("generations"), "log", 1)
        await until(lambda: EVERYTHING in first.forgotten)
        await until(lambda: EVERYTHING in second.forgotten)


async def test_members_that_missed_something_hear_so_from_what_comes_next(redis: RedisServer) -> None:
    async with fleet(redis.url) as (first, second):
        await command(first, "HINCRBY", first.session.key("generations"), "log", 1)
        first.cache.announce(OTHER)
        await until(lambda: EVERYTHING in second.forgotten)


@pytest.mark.parametrize("kind", ["generations", "entry", "lease", "log"])
async def test_a_redis_that_evicts_costs_calls_only(redis: RedisServer, kind: str) -> None:
    async with fleet(redis.url) as (first, second):
        await first.get(answer=entry(b"before"))
        await landed(first)
        first.cache.announce(FILES)
        await first.cache.announced()
        for key in await keys(first, kind):
            await command(first, "DEL", key)
        body, _ = await second.get(answer=entry(b"after"))
        assert body == b"after"
        await landed(second)
        assert await first.get() == (b"after", "hit")


async def test_a_redis_that_is_full_costs_calls_only(redis: RedisServer) -> None:
    async with fleet(redis.url) as (first, second):
        await command(first, "CONFIG", "SET", "maxmemory", "1")
        assert (await first.get())[1] == "fetched"
        assert (await second.get())[1] == "fetched"
        await command(first, "CONFIG", "SET", "maxmemory", "0")
        await first.ready()
        await second.ready()
        await first.get(read("m"))
        await landed(first)
        assert (await second.get(read("m")))[1] == "hit"


async def test_without_redis_from_the_start(redis: RedisServer) -> None:
    await redis.kill()
    async with fleet(redis.url, wait=False) as (first, second):
        assert (await first.get())[1] == "fetched"
        assert (await second.get())[1] == "fetched"
        with pytest.raises(FleetUnavailableError):
            await first.cache._presence.sign_of_life()
