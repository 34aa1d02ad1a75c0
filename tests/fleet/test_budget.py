"""One budget for many members: never more than the limit, whatever happens to Redis."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from mlflow_proxy.budget import script, shared, silence
from mlflow_proxy.budget.congestion import Cubic
from mlflow_proxy.budget.queue import Queue
from mlflow_proxy.budget.script import KEYS, SCRIPT
from mlflow_proxy.budget.shared import Line, SharedPacer
from mlflow_proxy.demo.journal import most_within
from mlflow_proxy.errors import FleetUnavailableError
from mlflow_proxy.fleet.connection import Connection
from tests.fleet.redis_server import RedisServer

LIMIT, WINDOW = 40, 1.04
CLOCKED = SCRIPT.replace(
    "local clock = redis.call('TIME')",
    "local clock = redis.call('TIME')\nclock[1] = clock[1] + (redis.call('GET', 'ahead') or 0)",
)
"""The script on a clock that can be set: the key says by how many seconds it is ahead."""


class Member:
    """A proxy's budget, and calls that leave as soon as they may."""

    def __init__(self, url: str, name: str, prefix: str, sent: list[tuple[float, str]]) -> None:
        self.name = name
        self.cut_off = False
        self.connection = Connection(url)
        self._script = self.connection.script(CLOCKED)
        self._keys = [f"{{{prefix}}}:{key}" for key in KEYS]
        self.queue = Queue(self._budget, lambda wait: None, lambda: 0.0)
        self.refuse: Callable[[], float | None] | None = None
        self._sent = sent

    def _budget(self, line: Line) -> SharedPacer:
        self.pacer = SharedPacer(LIMIT, WINDOW, 1.0, self._ask, self.name, line)
        return self.pacer

    async def _ask(self, request: str) -> bytes:
        if self.cut_off:
            await asyncio.sleep(0)
            raise FleetUnavailableError("the cable was cut")
        answer = await self._script(self._keys, [request])
        assert isinstance(answer, bytes)
        return answer

    async def call(self) -> None:
        with await self.queue.acquire(lambda: float("inf")) as slot:
            slot.sent()
            self._sent.append((time.monotonic(), self.name))
            await asyncio.sleep(0.01)

    async def saturate(self) -> None:
        while True:
            await self.call()


class Crowd:
    """Members with more to do than the budget allows; `sent` is when each call left, and whose it was."""

    def __init__(self, url: str, count: int, prefix: str = "test") -> None:
        self.sent: list[tuple[float, str]] = []
        self.running: list[asyncio.Task[None]] = []
        self.members = [Member(url, f"member-{number}", prefix, self.sent) for number in range(count)]

    def busiest_second(self) -> int:
        return most_within(moment for moment, _ in self.sent)

    async def until(self, count: int) -> None:
        """Wait until so many more calls have left."""
        goal = len(self.sent) + count
        while len(self.sent) < goal:
            await asyncio.sleep(0.005)
            for task in self.running:
                assert not task.done(), task.result()


@asynccontextmanager
async def crowd(url: str, count: int, *, busy: bool = True, prefix: str = "test") -> AsyncIterator[Crowd]:
    everyone = Crowd(url, count, prefix)
    everyone.running = [asyncio.create_task(member.pacer.run()) for member in everyone.members]
    calls: list[asyncio.Task[None]] = []
    if busy:
        calls += [asyncio.create_task(each.saturate()) for each in everyone.members for _ in range(20)]
    try:
        yield everyone
    finally:
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        for member in everyone.members:
            member.pacer.stop()
        await asyncio.gather(*everyone.running)
        for member in everyone.members:
            await member.connection.close()


async def test_all_members_together_keep_to_the_limit_and_share_it_alike(redis: RedisServer) -> None:
    async with crowd(redis.url, 8) as everyone:
        await everyone.until(LIMIT)
        everyone_had = len(everyone.sent)
        await everyone.until(8 * LIMIT)
    assert everyone.busiest_second() <= LIMIT
    shares = Counter(name for _, name in everyone.sent[everyone_had:])
    assert min(shares.values()) >= 0.8 * 8 * LIMIT / 8


async def test_a_lonely_call_waits_for_one_round_trip_only(redis: RedisServer) -> None:
    async with crowd(redis.url, 2, busy=False) as everyone:
        for member in everyone.members:
            await asyncio.gather(*(member.call() for _ in range(5)))
    assert len(everyone.sent) == 10
    assert everyone.sent[-1][0] - everyone.sent[0][0] < WINDOW, "an idle budget is spent at once"


async def test_redis_killed_and_come_back_empty(redis: RedisServer) -> None:
    async with crowd(redis.url, 4) as everyone:
        await everyone.until(2 * LIMIT)
        await redis.kill()
        await everyone.until(2 * LIMIT)
        assert [member.pacer.alone for member in everyone.members] == [True] * 4
        await redis.start()
        await everyone.until(3 * LIMIT)
        assert [member.pacer.alone for member in everyone.members] == [False] * 4
    assert everyone.busiest_second() <= LIMIT


@pytest.mark.parametrize("busy", [0, 3, 6])
async def test_members_that_never_called_count_when_redis_is_killed(redis: RedisServer, busy: int) -> None:
    # Seven, so that the limit cannot be shared without a remainder.
    async with crowd(redis.url, 7, busy=False) as everyone:
        calls = [asyncio.create_task(each.saturate()) for each in everyone.members[:busy] for _ in range(20)]
        await asyncio.sleep(3 * shared.HEARTBEAT)
        await redis.kill()
        await asyncio.sleep(2 * (silence.MISSING + silence.LEAVE + WINDOW))
        calls += [asyncio.create_task(each.saturate()) for each in everyone.members[busy:] for _ in range(20)]
        await everyone.until(2 * LIMIT)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    assert everyone.busiest_second() <= LIMIT


async def test_many_members_killed_at_once_leave_places_for_the_others(redis: RedisServer) -> None:
    async with crowd(redis.url, 30, busy=False) as everyone:
        await asyncio.gather(*(each.call() for each in everyone.members))
        await asyncio.sleep(2 * shared.HEARTBEAT)
        for each in everyone.members[10:]:
            each.cut_off = True
        await asyncio.sleep(silence.MISSING + WINDOW)
        calls = [asyncio.create_task(each.saturate()) for each in everyone.members[:10]]
        await everyone.until(LIMIT)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    assert everyone.busiest_second() <= LIMIT


@pytest.mark.parametrize("evicted", [("window",), ("state",), ("shares",), KEYS], ids=str)
async def test_a_redis_that_evicts_keys(redis: RedisServer, evicted: tuple[str, ...]) -> None:
    async with crowd(redis.url, 2) as everyone:
        await everyone.until(LIMIT)
        # In the middle of a window, so that what is forgotten still counts.
        await everyone.until(LIMIT // 2)
        async with Redis.from_url(redis.url) as client:
            await client.delete(*(f"{{test}}:{key}" for key in evicted))
        await everyone.until(2 * LIMIT)
    assert everyone.busiest_second() <= LIMIT


@pytest.mark.parametrize("key", ["state", "window", "shares"])
async def test_somebody_puts_something_else_where_the_budget_lay(redis: RedisServer, key: str) -> None:
    async with crowd(redis.url, 4) as everyone:
        await everyone.until(LIMIT + LIMIT // 2)
        for value in ("one thing", "another"):
            await redis.ask("SET", f"{{test}}:{key}", value)
            await everyone.until(2 * LIMIT)
        assert not any(member.pacer.alone for member in everyone.members)
    assert everyone.busiest_second() <= LIMIT


async def test_a_redis_that_comes_back_as_it_was_before(redis: RedisServer) -> None:
    async with crowd(redis.url, 4, busy=False) as everyone:
        await asyncio.gather(*(member.call() for member in everyone.members))
        await redis.ask("SAVE")
        for _ in range(3):
            await asyncio.sleep(silence.LEAVE + 2 * WINDOW)
            # An idle budget is spent at once, and would be again.
            await asyncio.gather(*(each.call() for each in everyone.members for _ in range(LIMIT // 4)))
            await redis.kill()
            await redis.start()
            await asyncio.gather(*(each.call() for each in everyone.members for _ in range(LIMIT // 4)))
    assert everyone.busiest_second() <= LIMIT


@pytest.mark.parametrize("seconds", [-300, 1, 60])
async def test_the_clock_of_redis_is_set(redis: RedisServer, seconds: int) -> None:
    async with crowd(redis.url, 4) as everyone:
        await everyone.until(LIMIT + LIMIT // 2)
        await redis.ask("SET", "ahead", str(seconds))
        before = time.monotonic()
        await everyone.until(4 * LIMIT)
        assert time.monotonic() - before < 60
    assert everyone.busiest_second() <= LIMIT


async def test_one_member_cut_off_from_redis_but_not_from_the_workspace(redis: RedisServer) -> None:
    async with crowd(redis.url, 4) as everyone:
        await everyone.until(2 * LIMIT)
        lost = everyone.members[0]
        lost.cut_off = True
        await everyone.until(3 * LIMIT)
        assert [member.pacer.alone for member in everyone.members] == [True, False, False, False]
        lost.cut_off = False
        await everyone.until(2 * LIMIT)
        assert [member.pacer.alone for member in everyone.members] == [False] * 4
    assert everyone.busiest_second() <= LIMIT


async def test_who_is_cut_off_for_long_falls_to_its_floor_before_the_others_take_its_share(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (script, silence):
        monkeypatch.setattr(module, "PRESUMED", 7.0)
    async with crowd(redis.url, 4) as everyone:
        await everyone.until(2 * LIMIT)
        lost = everyone.members[0]
        lost.cut_off = True
        await everyone.until(12 * LIMIT)
        assert [member.pacer.alone for member in everyone.members] == [True, False, False, False]
        assert lost.pacer.rate(0) == int(silence.FLOORS * LIMIT / (4 + 1))
        lost.cut_off = False
        await everyone.until(2 * LIMIT)
        assert [member.pacer.alone for member in everyone.members] == [False] * 4
    assert everyone.busiest_second() <= LIMIT


async def test_without_redis_from_the_start_a_member_takes_a_share(tmp_path: Path) -> None:
    async with crowd(f"unix://{tmp_path}/none.sock", 1) as everyone:
        await everyone.until(2 * LIMIT // silence.STRANGERS)
        assert everyone.members[0].pacer.alone
    assert everyone.busiest_second() <= LIMIT // silence.STRANGERS


async def test_one_members_refusal_slows_all_down_once(redis: RedisServer) -> None:
    async with crowd(redis.url, 2, busy=False) as everyone:
        first, second = everyone.members
        slots = [await first.queue.acquire(lambda: float("inf")) for _ in range(20)]
        for slot in slots:
            slot.sent()
        for slot in slots:
            slot.refused()
            slot.__exit__(None, None, None)
        await asyncio.sleep(2 * shared.FLUSH)
        await second.call()
        now = asyncio.get_running_loop().time()
        # 20 passed and 20 were refused: half the limit at least is what got through.
        assert 0.8 * LIMIT / 2 < second.pacer.rate(now) < LIMIT / 2
        assert second.pacer.outside(now) == pytest.approx(LIMIT / 2)


async def test_the_script_knows_the_same_law_as_the_pacer(redis: RedisServer) -> None:
    async with crowd(redis.url, 1, busy=False) as everyone:
        [member] = everyone.members
        with await member.queue.acquire(lambda: float("inf")) as slot:
            slot.sent()
            slot.refused()
        law = Cubic(LIMIT, 1.0)
        began = time.monotonic()
        law.refused(0, 0.0)
        for _ in range(3):
            await member.call()
            since = time.monotonic() - began
            now = asyncio.get_running_loop().time()
            assert member.pacer.rate(now) == pytest.approx(law.rate(since), rel=0.05)
            await asyncio.sleep(0.5)


async def test_a_pause_that_one_member_was_asked_for_is_everyones(redis: RedisServer) -> None:
    async with crowd(redis.url, 2, busy=False) as everyone:
        first, second = everyone.members
        with await first.queue.acquire(lambda: float("inf")) as slot:
            slot.sent()
            slot.refused(1.0)
        refused_at = time.monotonic()
        await asyncio.sleep(2 * shared.FLUSH)
        await second.call()
        assert everyone.sent[-1][0] - refused_at >= 1.0 - shared.FLUSH


async def test_what_lies_in_redis_ends_by_itself(redis: RedisServer) -> None:
    async with crowd(redis.url, 2) as everyone:
        await everyone.until(3 * LIMIT)
        keys = await redis.ask("KEYS", "{test}:*")
        assert len(keys) >= 5
        assert all([await redis.ask("PTTL", key.decode()) > 0 for key in keys])


async def test_two_workspaces_on_one_redis_never_mix(redis: RedisServer) -> None:
    async with (
        crowd(redis.url, 1, busy=False, prefix="a") as one,
        crowd(redis.url, 1, busy=False, prefix="b") as two,
    ):
        for everyone in (one, two):
            await asyncio.gather(*(everyone.members[0].call() for _ in range(LIMIT)))
            assert everyone.members[0].pacer.members == 1
        assert two.sent[-1][0] - one.sent[0][0] < WINDOW


async def test_a_member_that_leaves_makes_room(redis: RedisServer) -> None:
    async with crowd(redis.url, 1, busy=False) as stays:
        await stays.members[0].call()
        async with crowd(redis.url, 3, busy=False) as others:
            for number, member in enumerate(others.members):
                member.pacer._member = f"other-{number}"  # before it says so to Redis
            for member in others.members:
                await member.call()
            await asyncio.sleep(2 * shared.HEARTBEAT)
            assert stays.members[0].pacer.members == 4
        await asyncio.sleep(2 * shared.HEARTBEAT)
        assert stays.members[0].pacer.members == 1
