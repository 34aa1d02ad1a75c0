"""A fleet in virtual time, sharing a real Redis that runs the real script and is told what time it is.

What belongs here: the world around real members: the ways to Redis, its clock and its memory.
"""

import asyncio
import random
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import redis

from mlflow_proxy.budget.queue import Queue
from mlflow_proxy.budget.script import KEYS, SCRIPT
from mlflow_proxy.budget.shared import Line, SharedPacer
from mlflow_proxy.demo.journal import most_within
from mlflow_proxy.errors import FleetUnavailableError
from tests.virtual_time import run

LIMIT, WINDOW = 40, 1.04
PATIENCE = 0.4
"""Seconds that a member waits for an answer."""
EPOCH = 1_000_000_000
PREFIX = "{simulated}"
PLACES = [f"{PREFIX}:{key}" for key in KEYS]


class Clocked:
    """A Redis whose clock is the event loop's, and as far from it as ``offset`` says, in seconds."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._script = client.script_load(SCRIPT.replace("redis.call('TIME')", "{ARGV[2], ARGV[3]}"))
        self.offset = 0.0
        self.up = True
        self._client.flushall()
        self._saved: list[tuple[bytes, bytes]] = []

    def run(self, request: str) -> bytes:
        """Run the script now."""
        now = round((EPOCH + asyncio.get_running_loop().time() + self.offset) * 1_000_000)
        clock = (str(now // 1_000_000), str(now % 1_000_000))
        answer: bytes = self._client.evalsha(self._script, len(PLACES), *PLACES, request, *clock)
        return answer

    def forget(self, *keys: str) -> None:
        """Lose some keys, or everything."""
        self._client.delete(*(f"{PREFIX}:{key}" for key in keys or KEYS))

    def overwrite(self, key: str) -> None:
        """Put something of another type where a key was."""
        self._client.delete(f"{PREFIX}:{key}")
        self._client.lpush(f"{PREFIX}:{key}", "something else")

    def save(self) -> None:
        """Keep a snapshot of everything."""
        dumps = [(place.encode(), self._client.dump(place)) for place in PLACES]
        self._saved = [(place, dump) for place, dump in dumps if dump is not None]

    def go_back(self) -> None:
        """Be as the last snapshot says."""
        self._client.delete(*PLACES)
        for place, dump in self._saved:
            self._client.restore(place, 0, dump)


class Member:
    """A proxy; its ways to and from Redis can each be closed."""

    def __init__(self, world: "FleetWorld", name: str, busy: int) -> None:
        self.name = name
        self.there = self.back = True
        self._world = world
        self.queue = Queue(self._budget, lambda wait: None, lambda: 0.0)
        self._talking = asyncio.create_task(self.pacer.run())
        self._calling: list[asyncio.Task[None]] = []
        self.load(busy)

    def load(self, busy: int) -> None:
        """Keep so many calls waiting from now on."""
        for task in self._calling:
            task.cancel()
        self._calling = [asyncio.create_task(self._saturate()) for _ in range(busy)]

    def cut(self) -> None:
        """Lose the way to Redis."""
        self.there = self.back = False

    def mend(self) -> None:
        """Find it again."""
        self.there = self.back = True

    async def kill(self) -> None:
        """End without a word."""
        await _end(self._talking, *self._calling)

    async def leave(self) -> None:
        """End properly."""
        await _end(*self._calling)
        self.pacer.stop()
        await self._talking

    def _budget(self, line: Line) -> SharedPacer:
        self.pacer = SharedPacer(LIMIT, WINDOW, 1.0, self._ask, self.name, line)
        return self.pacer

    async def _ask(self, request: str) -> bytes:
        world = self._world
        began = world.now
        way = world.random.random() * world.slowness
        if not self.there:
            if world.random.random() < world.stray:
                # It arrives after all, when nobody waits for the answer any more.
                asyncio.get_running_loop().call_later(world.random.random() * 5, world.deliver, request)
            return await self._in_vain(began)
        await asyncio.sleep(way)
        if not world.redis.up:
            raise FleetUnavailableError("refused")
        try:
            answer = world.redis.run(request)
        except redis.ResponseError as error:
            raise FleetUnavailableError(str(error)) from error
        if not self.back:
            return await self._in_vain(began)
        await asyncio.sleep(world.random.random() * world.slowness)
        return answer

    async def _in_vain(self, began: float) -> bytes:
        await asyncio.sleep(began + PATIENCE - self._world.now)
        raise FleetUnavailableError("silence")

    async def _saturate(self) -> None:
        while True:
            with await self.queue.acquire(lambda: float("inf")) as slot:
                await asyncio.sleep(self._world.random.random() * self._world.slowness)
                slot.sent()
                self._world.sent.append((self._world.now, self.name))
                await asyncio.sleep(0.05)


async def _end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task


class FleetWorld:
    """One run.

    ``stray`` is the part of lost requests that come late. ``slowness`` is how many seconds a request, an
    answer, and a call from its grant until it has left, take at most while nothing is wrong.
    """

    def __init__(self, client: redis.Redis, seed: int, stray: float, slowness: float) -> None:
        self.random = random.Random(seed)
        self.redis = Clocked(client)
        self.sent: list[tuple[float, str]] = []
        self.members: list[Member] = []
        self.stray = stray
        self.slowness = slowness
        self.joined = 0
        self.ended = 0.0

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return asyncio.get_running_loop().time()

    def join(self, busy: int = 10) -> Member:
        """Start a member."""
        self.joined += 1
        member = Member(self, f"member-{self.joined}", busy)
        self.members.append(member)
        return member

    def noticed(self) -> bool:
        """Whether anybody is there who would notice that Redis' clock is set: long silence looks alike."""
        return any(each.there and each.back and not each.pacer._apart for each in self.members)

    def deliver(self, request: str) -> None:
        """Let a request arrive that nobody waits for."""
        if self.redis.up:
            with suppress(redis.ResponseError):
                self.redis.run(request)

    def calls(self, since: float, until: float, name: str | None = None) -> int:
        """Count those that left in a span of time."""
        return sum(since <= each < until and name in {None, who} for each, who in self.sent)

    def busiest_second(self) -> int:
        """Return the most calls that left within any second."""
        return most_within(moment for moment, _ in self.sent)

    def longest_silence(self, since: float, until: float) -> float:
        """Return the longest time without any call in a span of time."""
        moments = [since, *(moment for moment, _ in self.sent if since < moment < until), until]
        return max(later - sooner for sooner, later in pairwise(moments))


Play = Callable[[FleetWorld], Awaitable[object]]


def simulate(
    client: redis.Redis, play: Play, seed: int = 0, stray: float = 0.0, slowness: float = 0.005
) -> FleetWorld:
    """Run ``play``, and end all members when it ends."""

    async def main() -> FleetWorld:
        world = FleetWorld(client, seed, stray, slowness)
        await play(world)
        world.ended = world.now
        for member in world.members:
            await member.kill()
        return world

    return run(main())


@contextmanager
def real_redis(directory: Path) -> Iterator[redis.Redis]:
    """Start a redis-server for scripts that bring their own time."""
    program = shutil.which("redis-server")
    assert program is not None, "apt-get install redis-server"
    socket = directory / "redis.sock"
    arguments: list[Any] = [program, "--port", "0", "--unixsocket", socket, "--dir", directory, "--save", ""]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL) as process:
        try:
            client = redis.Redis(unix_socket_path=str(socket))
            while True:
                with suppress(redis.ConnectionError):
                    client.ping()
                    break
                assert process.poll() is None, "redis-server ended"
                time.sleep(0.01)
            yield client
            client.close()
        finally:
            process.kill()
