"""What the shared budget promises while its Redis, and the ways to it, have a life of their own."""

import asyncio
from collections.abc import Iterator

import pytest
import redis

from tests.simulation.fleet import LIMIT, FleetWorld, real_redis, simulate


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    with real_redis(tmp_path_factory.mktemp("redis")) as client:
        yield client


@pytest.mark.parametrize("step", [-300.0, -10.0, -1.0, -0.3, 0.3, 1.0, 60.0, 5000.0])
@pytest.mark.parametrize("count", [1, 3])
def test_the_clock_of_redis_is_set(server: redis.Redis, step: float, count: int) -> None:
    async def play(world: FleetWorld) -> None:
        for _ in range(count):
            world.join()
        await asyncio.sleep(5.7)
        world.redis.offset += step
        await asyncio.sleep(10)

    for seed in range(3):
        world = simulate(server, play, seed)
        assert world.busiest_second() <= LIMIT
        assert world.calls(5.7 + 3, 15.7) > 0.8 * 7 * LIMIT / 1.04, world.calls(5.7 + 3, 15.7)


@pytest.mark.parametrize("busy", [False, True])
def test_a_member_is_cut_off(server: redis.Redis, busy: bool) -> None:
    async def play(world: FleetWorld) -> None:
        lost, *_ = [world.join() for _ in range(4)]
        await asyncio.sleep(5)
        if not busy:
            lost.load(0)
            await asyncio.sleep(2)
        lost.cut()
        lost.load(10)
        await asyncio.sleep(60)
        lost.mend()
        await asyncio.sleep(5)

    for seed in range(3):
        world = simulate(server, play, seed)
        assert world.busiest_second() <= LIMIT


def test_an_idle_member_is_cut_off_and_wakes_up(server: redis.Redis) -> None:
    async def play(world: FleetWorld) -> None:
        lost, other = world.join(0), world.join(0)
        await asyncio.sleep(3)
        lost.cut()
        lost.load(20)
        await asyncio.sleep(0.5)
        other.load(60)
        await asyncio.sleep(10)

    for seed in range(5):
        world = simulate(server, play, seed)
        assert world.busiest_second() <= LIMIT
