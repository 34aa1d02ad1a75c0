"""Members of a fleet that ask the same at once share one flight, whatever becomes of it."""

import asyncio
from contextlib import suppress

import pytest

from mlflow_proxy.errors import BadGatewayError, GatewayTimeoutError, OverBudgetError, TooLargeToShareError
from mlflow_proxy.fleet import presence, shared_cache
from tests.fleet.members import URL, entry, fleet, keys, landed, until, waits
from tests.fleet.redis_server import RedisServer


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
