"""What one member of a fleet fetched serves all: what is kept, for whom, and how it is sealed."""

import asyncio

import pytest

from mlflow_proxy.reading.store import Invalidation
from tests.fleet.members import SECRET, URL, command, entry, fleet, keys, landed, never, read, until
from tests.fleet.redis_server import RedisServer


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
