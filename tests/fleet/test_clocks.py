"""A Redis whose clock is set, and members that sleep: no answer gets younger, nobody waits for the dead."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial

import aiohttp
import pytest
from redis.asyncio import Redis

from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.fleet import session
from mlflow_proxy.reading.store import Entry, Invalidation
from mlflow_proxy.serving import serving
from mlflow_proxy.settings import BudgetSettings, Settings
from tests.fleet.members import URL, command, entry, fleet, landed, until, waits
from tests.fleet.redis_server import RedisServer
from tests.integration.conftest import sample
from tests.integration.support import HIT, MISS, MUCH, OWN, QUIET, SIGN, STORED, Api, count
from tests.machine import Machine

SET = 300.0
LIFETIME = 780.0
"""Seconds for which a signed URL is given out."""
EVERYTHING = Invalidation(None, files=True)
FILE = {"name": "m", "version": "1", "path": "MLmodel"}


class RedisClock:
    """Sets the clock of a Redis: what it tells scripts, and when its keys end."""

    OFF = "test:off"

    def __init__(self, redis: RedisServer) -> None:
        self._url = redis.url

    async def set(self, seconds: float) -> None:
        """Set it forward, or back if negative."""
        async with Redis.from_url(self._url) as client:
            await client.incrby(self.OFF, int(seconds))
            for key in await client.keys("*"):
                if (left := await client.pttl(key)) > 0:
                    await client.pexpire(key, left - int(seconds * 1000))


@pytest.fixture
def redis_clock(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> RedisClock:
    true = "local clock = redis.call('TIME')\n"
    assert true in session.SCRIPT
    off = f"clock[1] = clock[1] + tonumber(redis.call('GET', '{RedisClock.OFF}') or '0')\n"
    monkeypatch.setattr(session, "SCRIPT", session.SCRIPT.replace(true, true + off))
    return RedisClock(redis)


@pytest.fixture
def machine() -> Machine:
    """Return the machine of all members."""
    return Machine()


def brought(machine: Machine) -> Entry:
    now = machine.clock.now()
    return replace(entry(), stored_at=now, expires_at=now + LIFETIME)


# -- the clock of Redis ----------------------------------------------------------------------------


@pytest.mark.parametrize("age", [0.0, 100.0, 700.0])
async def test_what_has_ended_is_no_hit_although_the_clock_of_redis_went_back(
    redis: RedisServer, redis_clock: RedisClock, machine: Machine, age: float
) -> None:
    async with fleet(redis.url, clock=machine.clock.now) as (first, second):
        await first.get(answer=brought(machine))
        await landed(first)
        machine.sleep(age)
        await redis_clock.set(age)
        assert (await second.get())[1] == "hit"
        await redis_clock.set(-SET)
        await until(lambda: EVERYTHING in second.forgotten)  # by the next sign of life, within a second
        machine.sleep(LIFETIME + 1 - age)
        await redis_clock.set(LIFETIME + 1 - age)
        assert (await second.get())[1] == "fetched"


async def test_what_was_stored_in_the_future_is_no_hit_where_nobody_noticed(
    redis: RedisServer, redis_clock: RedisClock
) -> None:
    """Members of an earlier version do not note how far the clock was."""
    async with fleet(redis.url) as (first, second):
        await first.get()
        await landed(first)
        for member in (first, second):
            member.running.cancel()
        await command(first, "HDEL", first.session.key("generations"), "clock")
        await redis_clock.set(-SET)
        second.session.connected = True
        assert (await second.get())[1] == "fetched"
        assert second.outcomes["unreadable"] == 1


async def test_members_go_on_sharing_after_the_clock_went_back(
    redis: RedisServer, redis_clock: RedisClock
) -> None:
    async with fleet(redis.url) as (first, second):
        await first.get()
        await landed(first)
        await redis_clock.set(-SET)
        for member in (first, second):
            await until(partial(member.forgotten.__contains__, EVERYTHING))
        assert await first.get() == (URL, "fetched")
        await landed(first)
        assert await second.get() == (URL, "hit")
        written = Invalidation(frozenset({"model"}), files=True)
        first.cache.announce(written)
        await until(lambda: written in second.forgotten)
        assert (await second.get())[1] == "fetched"


async def test_an_unsteady_clock_costs_nothing(redis: RedisServer, redis_clock: RedisClock) -> None:
    async with fleet(redis.url) as (first, second):
        await first.get()
        await landed(first)
        async with Redis.from_url(redis.url) as client:
            await client.set(RedisClock.OFF, "-0.5")
        assert await second.get() == (URL, "hit")
        assert second.forgotten == []


async def test_a_dead_members_lead_ends_although_the_clock_went_back(
    redis: RedisServer, redis_clock: RedisClock
) -> None:
    async with fleet(redis.url) as (first, second):
        leading = asyncio.create_task(first.get(hold=asyncio.Event()))
        await until(lambda: first.calls)
        following = asyncio.create_task(second.get())
        await waits(second)
        first.running.cancel()
        await redis_clock.set(-SET)
        assert (await following)[1] == "fetched"
        leading.cancel()


async def test_a_secret_that_is_not_used_any_more_is_not_reported_for_longer(
    redis: RedisServer, redis_clock: RedisClock
) -> None:
    async with fleet(redis.url, secrets=["one secret", "another one"]) as (first, second):
        await until(lambda: first.cache.other_secrets == 1)
        await second.stop()
        await redis_clock.set(-SET)
        await until(lambda: first.cache.other_secrets == 0)


async def test_what_somebody_puts_in_the_place_of_the_clock_is_dropped(redis: RedisServer) -> None:
    async with fleet(redis.url) as (first, second):
        await first.get()
        await landed(first)
        for planted in ("noon", "inf", "1e300"):
            await command(first, "HSET", first.session.key("generations"), "clock", planted)
            assert (await second.get())[1] == "fetched"
            await landed(second)
            assert (await first.get())[1] == "hit"


# -- members that sleep ----------------------------------------------------------------------------


@asynccontextmanager
async def proxies(redis: RedisServer, upstream: str, *machines: Machine) -> AsyncIterator[list[Api]]:
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        settings = Settings.model_validate(
            {"upstream": upstream, "port": 0, "shutdown_grace": 0.01, "redis": redis.url, "fleet": SECRET}
            | {"access": OWN, "connections": QUIET, "budget": BudgetSettings(registry_limit=MUCH)}
        )
        found = [
            Api(session, await stack.enter_async_context(serving(settings, clock=each.clock)))
            for each in machines
        ]
        for api in found:
            await api.until_metric("mlflow_proxy_fleet_cache_shared", 1)
        yield found


SECRET = {"secret": "a secret of the whole fleet"}


async def test_who_sleeps_while_it_fetches_for_all_brings_nothing_that_is_fresh(
    redis: RedisServer, redis_clock: RedisClock, machine: Machine
) -> None:
    awake = Machine()
    options = WorkspaceOptions(limit=MUCH, latency=0)
    async with (
        EmulatedWorkspace([sample()], options, clock=machine.elsewhere) as workspace,
        proxies(redis, workspace.url, machine, awake) as (one, two),
    ):
        workspace.hold()
        asking = asyncio.create_task(one.get(SIGN, **FILE))
        await workspace.until(count(1))
        for each in (machine, awake):
            each.sleep(1200)
        await redis_clock.set(1200)
        workspace.release()
        assert (await asking).outcome == MISS
        later = await two.get(SIGN, **FILE)
        assert later.outcome == STORED
        assert (await one.get(SIGN, **FILE)).body == later.body


async def test_what_came_from_the_fleet_ends_in_sleep_too(
    redis: RedisServer, redis_clock: RedisClock, machine: Machine
) -> None:
    options = WorkspaceOptions(limit=MUCH, latency=0)
    async with (
        EmulatedWorkspace([sample()], options, clock=machine.elsewhere) as workspace,
        proxies(redis, workspace.url, machine, machine) as (one, two),
    ):
        assert (await one.get(SIGN, **FILE)).outcome == STORED
        while (hit := await two.get(SIGN, **FILE)).outcome != HIT:
            pass
        machine.sleep(600)
        await redis_clock.set(600)
        hit = await two.get(SIGN, **FILE)
        assert (hit.outcome, int(hit.headers["Age"]) in range(600, 610)) == (HIT, True)
        machine.sleep(600)
        await redis_clock.set(600)
        assert (await two.get(SIGN, **FILE)).outcome == STORED
