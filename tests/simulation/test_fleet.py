"""What the shared budget promises while its Redis, and the ways to it, have a life of their own."""

import asyncio
from collections.abc import Iterator

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_proxy.budget.script import GAP, KEYS
from mlflow_proxy.budget.silence import FLOORS, FORGOTTEN, LEAVE, MISSING, PRESUMED, SPARE
from tests.simulation.fleet import LIMIT, WINDOW, Clocked, FleetWorld, Member, real_redis, simulate

SETTLED = 3.0
"""Seconds after which members know of each other."""
STANDSTILL = LEAVE + 2 * WINDOW
"""Seconds that it may take until calls leave again after Redis has forgotten them or was set."""
ALONE = MISSING + LEAVE + WINDOW
"""Seconds until a member that hears nothing lives on what it was promised."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    with real_redis(tmp_path_factory.mktemp("redis")) as client:
        yield client


def rate(world: FleetWorld, since: float, until: float, name: str | None = None) -> float:
    """Return the calls in a window, of one member or of all."""
    return world.calls(since, until, name) * WINDOW / (until - since)


@pytest.mark.parametrize("step", [-300.0, -5.0, -0.3, 0.3, 1.0, 60.0, 5000.0])
@pytest.mark.parametrize("count", [1, 3])
def test_the_clock_of_redis_is_set(server: redis.Redis, step: float, count: int) -> None:
    async def play(world: FleetWorld) -> None:
        for _ in range(count):
            world.join(20)
        await asyncio.sleep(SETTLED + 2.7)
        world.redis.offset += step
        await asyncio.sleep(10)

    for seed in range(2):
        world = simulate(server, play, seed)
        assert world.busiest_second() <= LIMIT
        set_at = SETTLED + 2.7
        assert world.longest_silence(set_at, set_at + 10) <= STANDSTILL
        assert rate(world, set_at + STANDSTILL + 2, set_at + 10) >= 0.8 * LIMIT


@pytest.mark.parametrize("step", [-5.0, 5.0])
def test_a_clock_that_is_set_makes_nobody_present_who_is_alone(server: redis.Redis, step: float) -> None:
    async def play(world: FleetWorld) -> None:
        deaf, *_ = [world.join(20) for _ in range(3)]
        await asyncio.sleep(SETTLED)
        deaf.back = False
        await asyncio.sleep(ALONE + WINDOW)
        world.redis.offset += step
        await asyncio.sleep(5)

    for seed in range(2):
        assert simulate(server, play, seed).busiest_second() <= LIMIT


@pytest.mark.parametrize("step", [-300.0, 60.0])
def test_a_clock_that_is_set_changes_nothing_about_a_pause(server: redis.Redis, step: float) -> None:
    async def play(world: FleetWorld) -> None:
        member, other = world.join(0), world.join(0)
        await asyncio.sleep(SETTLED)
        with await member.queue.acquire(lambda: float("inf")) as slot:
            slot.sent()
            slot.refused(5.0)
        refused_at = world.now
        await asyncio.sleep(1)
        world.redis.offset += step
        other.load(1)
        await asyncio.sleep(9)
        assert 5 - LEAVE <= world.sent[0][0] - refused_at <= 5 + STANDSTILL

    simulate(server, play)


def test_a_member_that_is_cut_off_while_it_is_idle(server: redis.Redis) -> None:
    async def play(world: FleetWorld) -> None:
        lost, other = world.join(0), world.join(0)
        await asyncio.sleep(SETTLED)
        lost.cut()
        lost.load(20)
        await asyncio.sleep(0.5)
        other.load(60)
        await asyncio.sleep(10)

    for seed in range(5):
        assert simulate(server, play, seed).busiest_second() <= LIMIT


@pytest.mark.parametrize("deaf", [False, True])
def test_a_member_that_is_cut_off_for_long(server: redis.Redis, deaf: bool) -> None:
    async def play(world: FleetWorld) -> None:
        lost, *_ = [world.join(20) for _ in range(4)]
        await asyncio.sleep(SETTLED)
        lost.cut()
        lost.there = deaf  # then what it says arrives, and no answer
        await asyncio.sleep(60)
        lost.mend()
        await asyncio.sleep(10)

    world = simulate(server, play)
    assert world.busiest_second() <= LIMIT
    share, floor = LIMIT * (1 - SPARE) // 4, LIMIT * FLOORS // 5
    cut = SETTLED
    assert world.calls(cut + 1, cut + MISSING + LEAVE, "member-1") == 0
    assert rate(world, cut + ALONE + 1, cut + PRESUMED - 3, "member-1") == pytest.approx(share, rel=0.15)
    assert rate(world, cut + PRESUMED, cut + 60, "member-1") == pytest.approx(floor, rel=0.15)
    left = LIMIT - (share if deaf else floor)
    assert rate(world, cut + PRESUMED + 2, cut + 60) >= 0.9 * (left + floor)
    assert rate(world, cut + 60 + STANDSTILL, cut + 70, "member-1") >= 0.8 * LIMIT / 4


def test_redis_is_gone_for_long(server: redis.Redis) -> None:
    async def play(world: FleetWorld) -> None:
        for _ in range(4):
            world.join(20)
        await asyncio.sleep(SETTLED)
        world.redis.up = False
        await asyncio.sleep(60)
        world.redis.forget()
        world.redis.up = True
        await asyncio.sleep(10)

    world = simulate(server, play)
    assert world.busiest_second() <= LIMIT
    gone = SETTLED
    assert world.longest_silence(gone, gone + 70) <= ALONE + WINDOW
    assert rate(world, gone + ALONE + 1, gone + PRESUMED - 3) >= 0.9 * 4 * (LIMIT * (1 - SPARE) // 4)
    assert rate(world, gone + PRESUMED, gone + 60) >= 0.9 * 4 * (LIMIT * FLOORS // 5)
    assert rate(world, gone + 60 + STANDSTILL, gone + 70) >= 0.8 * LIMIT


def test_who_takes_the_places_of_killed_ones_is_not_starved(server: redis.Redis) -> None:
    async def play(world: FleetWorld) -> None:
        killed = [world.join(10) for _ in range(4)]
        await asyncio.sleep(SETTLED)
        for each in killed:
            world.members.remove(each)
            await each.kill()
        heirs = [world.join(10) for _ in range(4)]
        await asyncio.sleep(PRESUMED + 15)
        for each in heirs:
            each.load(0)
        await asyncio.sleep(FORGOTTEN)
        for each in heirs:
            each.load(10)
        await asyncio.sleep(10)

    world = simulate(server, play)
    assert world.busiest_second() <= LIMIT
    began = SETTLED + STANDSTILL
    assert rate(world, began, SETTLED + PRESUMED) >= 0.85 * SPARE * LIMIT
    assert rate(world, SETTLED + PRESUMED + 2, SETTLED + PRESUMED + 15) >= 0.9 * (1 - FLOORS) * LIMIT
    assert rate(world, world.ended - 8, world.ended) >= 0.9 * LIMIT


def test_those_who_leave_properly_leave_everything(server: redis.Redis) -> None:
    async def play(world: FleetWorld) -> None:
        left = [world.join(10) for _ in range(8)]
        await asyncio.sleep(SETTLED)
        world.join(20)
        for each in left:
            world.members.remove(each)
            await each.leave()
        await asyncio.sleep(8)

    world = simulate(server, play)
    assert world.busiest_second() <= LIMIT
    assert rate(world, SETTLED + 3, SETTLED + 8) >= 0.9 * LIMIT


# -- whatever happens ------------------------------------------------------------------------------

MOST_MEMBERS = 9
"""As many as have a floor of a whole call."""

Event = tuple[float, tuple[str, object]]
"""What happens, and after how many seconds."""

seconds = st.sampled_from([0.02, 0.2, 0.7, 1.5, 4.0, 12.0, 25.0])
steps = st.sampled_from([-100.0, -5.0, -1.0, -0.2, 0.3, 0.6, 1.0, 5.0, 60.0, 1000.0])
member = st.integers(0, MOST_MEMBERS - 1)
trouble = st.one_of(
    st.tuples(st.sampled_from(["cut", "deafen", "mend", "kill", "leave"]), member),
    st.tuples(st.just("load"), st.tuples(member, st.sampled_from([0, 1, 10, 30]))),
    st.tuples(st.just("join"), st.sampled_from([0, 3, 10])),
    st.tuples(st.just("set"), steps),
    st.tuples(st.just("forget"), st.sampled_from([KEYS, *((key,) for key in KEYS)])),
    st.tuples(st.just("overwrite"), st.sampled_from(KEYS)),
    st.tuples(st.just("save"), st.none()),
    st.tuples(st.just("restart"), st.tuples(seconds, st.booleans(), steps)),
)


async def happen(world: FleetWorld, kind: str, what: object) -> None:
    """Let one thing happen."""
    match kind, what:
        case "load", (int(number), int(busy)):
            world.members[number % len(world.members)].load(busy)
        case "join", int(busy):
            if world.joined < MOST_MEMBERS:
                world.join(busy)
        case (("cut" | "deafen" | "mend" | "kill" | "leave"), int(number)):
            await happen_to(world, world.members[number % len(world.members)], kind)
        case "restart", (float(gone), bool(goes_back), float(step)):
            noticed = world.noticed()
            world.redis.up = False
            await asyncio.sleep(gone)
            if goes_back:
                world.redis.go_back()
                world.redis.offset += step if noticed else 0
            world.redis.up = True
        case "set", float(step):
            if world.noticed():
                world.redis.offset += step
                await asyncio.sleep(GAP)
        case _:
            happen_to_redis(world.redis, kind, what)


async def happen_to(world: FleetWorld, one: Member, kind: str) -> None:
    """Let something happen to a member."""
    match kind:
        case "cut":
            one.cut()
        case "deafen":
            one.back = False
        case "mend":
            one.mend()
        case _ if len(world.members) > 1:
            world.members.remove(one)
            await (one.kill() if kind == "kill" else one.leave())


def happen_to_redis(server: Clocked, kind: str, what: object) -> None:
    """Let something happen to what Redis remembers."""
    match kind, what:
        case "forget", tuple(keys):
            server.forget(*keys)
        case "overwrite", str(key):
            server.overwrite(key)
        case "save", _:
            server.save()


@pytest.mark.timeout(600)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    count=st.integers(1, 5),
    events=st.lists(st.tuples(seconds, trouble), max_size=12),
    slowness=st.sampled_from([0.005, 0.05, 0.2]),
    seed=st.integers(0, 9),
)
def test_whatever_happens_the_limit_holds_and_calls_leave_in_the_end(
    server: redis.Redis,
    count: int,
    events: list[Event],
    slowness: float,
    seed: int,
) -> None:
    async def play(world: FleetWorld) -> None:
        for _ in range(count):
            world.join()
        await asyncio.sleep(SETTLED)
        for pause, (kind, what) in events:
            await asyncio.sleep(pause * (0.5 + world.random.random()))
            await happen(world, kind, what)
        for each in world.members:
            each.mend()
            each.load(0)
        await asyncio.sleep(PRESUMED)
        for each in world.members:
            each.load(5)
        await asyncio.sleep(STANDSTILL + 10)

    world = simulate(server, play, seed, stray=0.2, slowness=slowness)
    assert world.busiest_second() <= LIMIT
    end = world.ended
    assert rate(world, end - 10, end) >= 0.25 * (1 - FLOORS) * LIMIT
