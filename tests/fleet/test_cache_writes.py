"""A write drops what it makes wrong in the whole fleet, and a Redis that is lost or full costs calls only."""

import asyncio

import pytest

from mlflow_proxy.errors import FleetUnavailableError
from mlflow_proxy.reading.store import Invalidation
from tests.fleet.members import (
    EVERYTHING,
    FILES,
    METADATA,
    OTHER,
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
