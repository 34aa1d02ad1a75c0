"""What must not shake the fleet's cache: odd things in Redis, a Redis that is slow or went back."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from mlflow_proxy.errors import BadGatewayError, FleetUnavailableError
from mlflow_proxy.fleet import presence
from mlflow_proxy.fleet.leases import Lead
from mlflow_proxy.fleet.record import pack_error
from mlflow_proxy.reading.store import Invalidation
from tests.fleet.members import (
    EVERYTHING,
    FILES,
    METADATA,
    OTHER,
    URL,
    Member,
    command,
    entry,
    fleet,
    keys,
    landed,
    read,
    until,
    waits,
)
from tests.fleet.redis_server import RedisServer

AGES = 1e6
"""Seconds that no test lasts."""


def spy(member: Member) -> Counter[str]:
    """Count what a member says to Redis from now on, by operation."""
    said: Counter[str] = Counter()
    script = member.session.script

    async def counting(keys: Sequence[str], arguments: Sequence[str | bytes]) -> Any:
        said[str(arguments[0])] += 1
        return await script(keys, arguments)

    member.session.script = counting
    return said


def delay_answers(member: Member, seconds: float) -> None:
    """Let what Redis answers be under way for some time."""
    script = member.session.script

    async def delayed(keys: Sequence[str], arguments: Sequence[str | bytes]) -> Any:
        reply = await script(keys, arguments)
        await asyncio.sleep(seconds)
        return reply

    member.session.script = delayed


# -- what somebody else put into Redis -------------------------------------------------------------

ODD: list[tuple[str | bytes | int, ...]] = [
    ("odd", "field"),
    ("number", "x", "kind", "landed", "text", "y"),
    ("number", "1.5", "kind", "write", "text", ""),
    ("number", 1, "kind", "write"),
    ("number", 1, "kind", "write", "text", b"\xff" * 40),
    ("number", 1, "kind", "landed"),
    ("number", 1, "kind", "landed", "text", b"\xff"),
    ("number", 1, "text", "x"),
    ("number", 10**30, "kind", "landed", "text", ""),
    ("number", -1, "kind", "landed", "text", ""),
    ("number", 0, "kind", "write", "text", ""),
]


@pytest.mark.parametrize("planted", ODD, ids=str)
async def test_a_planted_message_keeps_no_write_from_being_heard(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, planted: tuple[str | bytes | int, ...]
) -> None:
    # What comes next has to set it right, not the next sign of life.
    monkeypatch.setattr(presence, "ATTEND", AGES)
    async with fleet(redis.url) as (first, second):
        await command(first, "XADD", first.session.key("log"), "*", *planted)
        first.cache.announce(OTHER)
        await until(lambda: OTHER in second.forgotten or EVERYTHING in second.forgotten)
        second.forgotten.clear()
        first.cache.announce(METADATA)
        await until(lambda: METADATA in second.forgotten or EVERYTHING in second.forgotten)
        assert not second.running.done()
        assert second.cache.connected


@pytest.mark.parametrize("message", [b"[]", b"{", b"{}", b"1", b'{"files": 1, "models": 1}', b"\xff"])
async def test_a_message_of_another_version_is_taken_for_a_write_of_everything(
    redis: RedisServer, message: bytes
) -> None:
    async with fleet(redis.url) as (first, second):
        await first.session.ask("write", [], first.session.sealing.seal(message, "log"), "files", "1", "all")
        await until(lambda: second.forgotten == [EVERYTHING])
        assert not second.running.done()


@pytest.mark.parametrize(
    "words",
    [
        ("HSET", "generations", "log", "x"),
        ("HSET", "generations", "every", "x"),
        ("HSET", "generations", "born", b"\xff"),
        ("SET", "generations", "x"),
        ("SET", "log", "x"),
    ],
    ids=str,
)
async def test_whatever_stands_in_redis_members_share_again_when_it_is_gone(
    redis: RedisServer, words: tuple[str | bytes, ...]
) -> None:
    async with fleet(redis.url) as members:
        how, key, *rest = words
        await command(members[0], "DEL", members[0].session.key(str(key)))
        await command(members[0], how, members[0].session.key(str(key)), *rest)
        for member in members:
            member.cache.announce(FILES)
            await member.cache.announced()
            with suppress(FleetUnavailableError):
                await member.cache._presence.sign_of_life()
            assert (await member.get(read(member.name)))[0] == URL
        await command(members[0], "FLUSHALL")
        for member in members:
            await until(lambda member=member: member.cache.connected and not member.cache._writes.untold)  # type: ignore[misc]
            assert not member.running.done()
        await members[0].get(read("new"))
        await landed(members[0])
        await members[1].ready()
        assert (await members[1].get(read("new")))[1] == "hit"


async def test_an_error_put_in_the_place_of_an_answer_is_ignored(redis: RedisServer) -> None:
    async with fleet(redis.url) as (first, second):
        await first.get()
        await landed(first)
        [key] = await keys(first, "entry:")
        name = key.decode().rpartition(":")[2]
        failure = pack_error(BadGatewayError("gone"))
        assert failure is not None
        await command(first, "HSET", key, "sealed", first.session.sealing.seal(failure, name))
        assert (await second.get())[1] == "fetched"


async def test_who_met_something_unreadable_still_shares_the_flight_under_way(redis: RedisServer) -> None:
    async with fleet(redis.url) as (first, second):
        hold = asyncio.Event()
        leading = asyncio.create_task(first.get(hold=hold))
        await until(lambda: first.calls)
        [lease] = await keys(first, "lease:")
        standing = await command(first, "HGET", lease, "standing")
        place = lease.replace(b":lease:", b":entry:")
        await command(first, "HSET", place, "sealed", "odd", "kind", "metadata", "standing", standing)
        following = asyncio.create_task(second.get())
        await until(lambda: second.outcomes["unreadable"])
        await waits(second)
        hold.set()
        await leading
        assert await following == (URL, "joined")


# -- keys that vanish, and a Redis that went back --------------------------------------------------


@pytest.mark.parametrize("gone", [["generations"], ["log"], ["generations", "log"]])
async def test_a_write_after_an_eviction_is_heard(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, gone: list[str]
) -> None:
    monkeypatch.setattr(presence, "ATTEND", AGES)
    async with fleet(redis.url) as (first, second):
        for _ in range(3):
            first.cache.announce(OTHER)
        await until(lambda: len(second.forgotten) == 3)
        second.forgotten.clear()
        for kind in gone:
            await command(first, "DEL", first.session.key(kind))
        first.cache.announce(FILES)
        await until(lambda: FILES in second.forgotten or EVERYTHING in second.forgotten)


async def test_what_was_heard_is_not_read_again_and_again(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "ATTEND", AGES)
    async with fleet(redis.url) as (first, second):
        for _ in range(10):
            first.cache.announce(OTHER)
        await until(lambda: len(second.forgotten) == 10)
        reads = 0
        read_stream = second.connection.read_stream

        async def counting(*arguments: Any) -> Any:
            nonlocal reads
            reads += 1
            return await read_stream(*arguments)

        monkeypatch.setattr(second.connection, "read_stream", counting)
        await command(first, "DEL", first.session.key("generations"))
        for _ in range(5):
            first.cache.announce(OTHER)
        await until(lambda: second.session.number == 5)
        await asyncio.sleep(0.3)
        assert reads <= 10


async def test_a_log_that_begins_before_what_was_heard_is_noticed(redis: RedisServer) -> None:
    """As after an eviction, when the clock of Redis went back."""
    async with fleet(redis.url) as (first, second):
        log = first.session.key("log")
        first.cache.announce(OTHER)
        await until(lambda: second.forgotten == [OTHER])
        await command(first, "DEL", log)
        number = await command(first, "HINCRBY", first.session.key("generations"), "log", 1)
        await command(first, "XADD", log, "1-1", "number", number, "kind", "write", "text", "")
        await until(lambda: EVERYTHING in second.forgotten)


@pytest.mark.parametrize("who", ["the writer", "who heard of it"])
async def test_a_redis_that_went_back_makes_no_answer_right_again(redis: RedisServer, who: str) -> None:
    """As after a crash with an older snapshot, or behind a replica that had not got everything."""
    async with fleet(redis.url) as (first, second):
        await first.get(answer=entry(b"before"))
        await landed(first)
        before = {key: await command(first, "DUMP", key) for key in await keys(first)}
        first.cache.announce(FILES)
        await first.cache.announced()
        await until(lambda: second.forgotten == [FILES])
        for key, value in before.items():
            await command(first, "RESTORE", key, 60_000, value, "REPLACE")
        member = first if who == "the writer" else second
        assert await member.get(answer=entry(b"after")) == (b"after", "fetched")
        await until(lambda: EVERYTHING in first.forgotten)
        await until(lambda: EVERYTHING in second.forgotten)


# -- lifetimes -------------------------------------------------------------------------------------


async def test_an_answer_that_outlived_itself_in_redis_is_fetched_again(redis: RedisServer) -> None:
    """Such as one whose way into Redis took long."""
    async with fleet(redis.url) as (first, second):
        brought = entry(lifetime=0.3)
        await first.get(answer=brought)
        await landed(first)
        for key in await keys(first, "entry:"):
            await command(first, "PERSIST", key)
        loop = asyncio.get_running_loop()
        await asyncio.sleep(brought.expires_at - loop.time() + 0.1)
        assert (await second.get())[1] == "fetched"


async def test_an_answer_on_a_slow_way_gets_no_older_than_it_may(redis: RedisServer) -> None:
    async with fleet(redis.url) as (first, second):
        brought = entry(lifetime=60)
        await first.get(answer=brought)
        await landed(first)
        delay_answers(second, 0.2)
        async with second.cache.turn(read(), lambda: float("inf")) as turn:
            assert turn.found is not None
        assert turn.found.expires_at <= brought.expires_at


# -- a Redis that is slow, or says nothing ---------------------------------------------------------


@pytest.mark.impatient
async def test_writes_do_not_wait_for_a_silent_redis_one_after_the_other(redis: RedisServer) -> None:
    async with fleet(redis.url) as (first, _):
        said = spy(first)
        redis.stop()
        try:
            for number in range(20):
                first.cache.announce(Invalidation(frozenset({str(number)}), files=True))
            await asyncio.gather(
                *(first.cache.announced() for _ in range(20)), *(first.get() for _ in range(20))
            )
        finally:
            redis.resume()
        assert said["write"] <= 2
        await until(lambda: first.cache.connected and not first.cache._writes.untold)


async def test_many_writes_are_told_together(redis: RedisServer) -> None:
    async with fleet(redis.url) as (first, second):
        said = spy(first)
        writes = [Invalidation(frozenset({str(number)}), files=True) for number in range(500)]
        for what in writes:
            first.cache.announce(what)
        assert (await first.get())[1] == "fetched"
        assert said["write"] <= 10
        await until(lambda: len(second.forgotten) == len(writes))
        assert second.forgotten == writes


async def test_as_many_flights_and_waiters_as_there_may_be(redis: RedisServer) -> None:
    async with fleet(redis.url) as (first, _):
        for number in range(20_000):
            first.session.leases.leads[str(number)] = Lead(str(number), str(number), "", "", 0.0, 0.0)
        await first.cache._presence.sign_of_life()


async def test_a_crowd_of_questions_needs_few_connections(redis: RedisServer) -> None:
    async with fleet(redis.url) as (first, _):
        await asyncio.gather(*(first.get(read(path=str(number))) for number in range(300)))
        await landed(first)
        assert len((await command(first, "CLIENT", "LIST")).splitlines()) < 100


# -- leases ----------------------------------------------------------------------------------------


async def test_who_waits_for_a_flight_that_was_replaced_waits_for_its_successor(redis: RedisServer) -> None:
    async with fleet(redis.url, 3) as (first, second, third):
        one, other = asyncio.Event(), asyncio.Event()
        leading = asyncio.create_task(first.get(hold=one))
        await until(lambda: first.calls)
        following = asyncio.create_task(second.get())
        await waits(second)
        # The first member's lease ended while it said nothing; the third member took over.
        [lease] = await keys(first, "lease:")
        await command(first, "DEL", lease)
        taking_over = asyncio.create_task(third.get(hold=other))
        await until(lambda: len(first.calls) == 2)
        while await command(second, "HGET", lease, "awaited") != b"1":  # noqa: ASYNC110 - Redis has no event
            await asyncio.sleep(0.01)
        other.set()
        assert await taking_over == (URL, "fetched")
        assert await following == (URL, "joined")
        leading.cancel()


async def test_who_leaves_while_waiting_leaves_nothing(redis: RedisServer) -> None:
    async with fleet(redis.url) as (first, second):
        hold = asyncio.Event()
        leading = asyncio.create_task(first.get(hold=hold))
        await until(lambda: first.calls)
        for steps in range(60):
            leaving = asyncio.create_task(second.get())
            for _ in range(steps):
                await asyncio.sleep(0)
            leaving.cancel()
            with suppress(asyncio.CancelledError):
                await leaving
        hold.set()
        assert (await leading)[1] == "fetched"
        await landed(first)
        await landed(second)
        assert await second.get() == (URL, "hit")
        for member in (first, second):
            assert not member.session.leases.waiters
            assert not member.session.leases.leads
        assert not await keys(first, "lease:")


# -- a bug -----------------------------------------------------------------------------------------


async def test_a_bug_does_not_end_the_conversation(redis: RedisServer) -> None:
    async with fleet(redis.url) as (first, second):
        forget = second.cache._writes._forget

        def fails(what: Invalidation) -> None:
            second.cache._writes._forget = forget
            raise RuntimeError("a bug")

        second.cache._writes._forget = fails
        first.cache.announce(OTHER)
        await until(lambda: second.forgotten == [EVERYTHING])
        await first.get()
        await landed(first)
        await until(lambda: second.cache.connected)
        assert await second.get() == (URL, "hit")
