"""What the clients are up against: a workspace with access lists that fails in every way, and two proxies."""

import asyncio
import itertools
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from mlflow_proxy.demo.answers import Answer, Delay, Fault, Reset
from mlflow_proxy.demo.models import Content, Model, ModelVersion, Pattern
from mlflow_proxy.demo.server import EmulatedServer
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from tests.chaos.load_balancer import LoadBalancer
from tests.chaos.modes import EVERYONE, SECRET, TEAMS, Mode
from tests.fleet.redis_server import RedisServer
from tests.ports import free_port

ERROR = b'{"error_code": "INTERNAL_ERROR", "message": "chaos"}'
REFUSAL = b'{"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "chaos"}'


def models(mode: Mode) -> list[Model]:
    """Return a model for each team that no other may read, and one for all. Each file has its own bytes."""
    found = []
    seeds = itertools.count()
    for name in (*TEAMS, EVERYONE):
        files: dict[str, Content] = {"MLmodel": f"flavors: {{}}  # {name}\n".encode()}
        for number in range(8):
            directory = ("", "data/", "data/more/")[number % 3]
            pattern = Pattern(3_000 + 40_000 * (number % 4), seed=next(seeds))
            files[f"{directory}part-{number}.bin"] = pattern.read(0, len(pattern))
        readers = None if name == EVERYONE else mode.readers(name)
        found.append(Model(name, {"1": ModelVersion(files, stage="Production")}, readers=readers))
    return found


@dataclass
class Chaos:
    """Spoils calls at random; `injected` counts by kind."""

    chance: random.Random
    injected: Counter[str] = field(default_factory=Counter)
    slow: float = 0.0
    """Seconds that every call takes longer now: a spike."""

    def to_api(self, request: web.Request) -> Fault | None:
        """5 % resets, 5 % 500s, 10 % 429s."""
        drawn = self.chance.random()
        if drawn < 0.05:
            return self._spoilt("reset", Reset())
        if drawn < 0.10:
            return self._spoilt("500", Answer(500, ERROR, {"Content-Type": "application/json"}))
        if drawn < 0.20:
            return self._spoilt("429", Answer(429, REFUSAL, {"Content-Type": "application/json"}))
        if self.slow or drawn < 0.22:
            return self._spoilt("slow", Delay(self.slow or 1.0))
        return None

    def to_storage(self, request: web.Request) -> Fault | None:
        """Fail now and then before the first byte: clients do not repeat what breaks off later."""
        drawn = self.chance.random()
        if drawn < 0.02:
            return self._spoilt("storage reset", Reset())
        if drawn < 0.04:
            return self._spoilt("storage 503", Answer(503, b"<Error/>"))
        if drawn < 0.06:
            return self._spoilt("storage slow", Delay(1.0))
        return None

    def _spoilt(self, kind: str, fault: Fault) -> Fault:
        self.injected[kind] += 1
        return fault


class Replica:
    """`mlflow-proxy serve` on one port, again and again."""

    def __init__(self, port: int, arguments: tuple[str, ...]) -> None:
        self.port = port
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self.events: Counter[str] = Counter()
        self.errors: list[str] = []
        """Lines that tell of bugs."""
        self.ends: list[tuple[int, float]] = []
        """Exit statuses, and how many seconds stopping took."""

    async def start(self) -> None:
        """Start it; returns when it serves."""
        root = Path(__file__).parents[2]
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mlflow_proxy", "serve", "--port", str(self.port), *self._arguments),
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        assert self._process.stderr is not None
        serving = asyncio.Event()
        self._reading = asyncio.create_task(self._read(self._process.stderr, serving))
        await serving.wait()

    async def stop(self) -> None:
        """Send SIGTERM and wait until it has ended."""
        if self._process is None:
            return
        began = time.monotonic()
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        status = await self._process.wait()
        assert self._reading is not None
        await self._reading
        self.ends.append((status, time.monotonic() - began))
        self._process = None

    async def _read(self, log: asyncio.StreamReader, serving: asyncio.Event) -> None:
        async for line in log:
            try:
                said = json.loads(line)
            except ValueError:
                said = {"event": line.decode(errors="replace"), "level": "error"}
            self.events[str(said.get("event"))] += 1
            if said.get("event") == "serving":
                serving.set()
            if said.get("level") in {"error", "critical"} or SECRET.encode() in line:
                self.errors.append(line.decode(errors="replace")[:2000])
        serving.set()


@dataclass
class Scene:
    """Everything that runs, and when what was down (monotonic seconds)."""

    workspace: EmulatedWorkspace
    chaos: Chaos
    replicas: list[Replica]
    balancer: LoadBalancer
    redis: RedisServer
    mode: Mode
    outages: list[tuple[float, float]] = field(default_factory=list)
    redis_restarts: int = 0
    statuses: Counter[int | None] = field(default_factory=Counter)
    leaks: list[str] = field(default_factory=list)
    """Calls with credentials that should not have arrived."""

    @property
    def files(self) -> Mapping[str, Mapping[str, Content]]:
        """The files of each model."""
        return {name: model.versions["1"].files for name, model in self.workspace.models.items()}

    async def restart_replica(self, number: int) -> None:
        """Stop one under load, and start it again."""
        await self.replicas[number].stop()
        await self.replicas[number].start()

    async def kill_workspace(self, seconds: float) -> None:
        """Cut all its connections and refuse new ones for a while. Its storage lives on."""
        began = time.monotonic()
        await EmulatedServer.stop(self.workspace)
        await asyncio.sleep(seconds)
        await EmulatedServer.start(self.workspace)
        self.outages.append((began, time.monotonic()))

    async def slow_workspace(self, seconds: float) -> None:
        """Let every call take two seconds more for a while."""
        self.chaos.slow = 2.0
        await asyncio.sleep(seconds)
        self.chaos.slow = 0.0

    async def restart_redis(self, seconds: float) -> None:
        """Kill it; it comes back empty."""
        await self.redis.kill()
        await asyncio.sleep(seconds)
        await self.redis.start()
        self.redis_restarts += 1

    def take_stock(self) -> None:
        """Count what arrived, and forget it."""
        answered = [each for each in self.workspace.arrivals if each.status is not None or each.cancelled]
        self.statuses.update(arrival.status for arrival in answered)
        for server in (self.workspace, self.workspace.storage):
            storage = server is not self.workspace
            wrong = (self.mode.sent(arrival, storage=storage) for arrival in server.arrivals)
            self.leaks += [each for each in wrong if each]
        self.workspace.reset()


@asynccontextmanager
async def setting(directory: Path, mode: Mode, seed: int) -> AsyncIterator[Scene]:
    """Start everything; nothing of it is left."""
    async with AsyncExitStack() as stack:
        options = WorkspaceOptions(limit=40, latency=0.02, signed_url_lifetime=180, tokens=mode.known())
        workspace = await stack.enter_async_context(EmulatedWorkspace(models(mode), options))
        chaos = Chaos(random.Random(seed))
        workspace.fault, workspace.storage.fault = chaos.to_api, chaos.to_storage
        redis = RedisServer(directory / "redis")
        await redis.start()
        stack.push_async_callback(redis.kill)
        arguments = (
            *("--upstream", workspace.url, "--redis", redis.url, "--fleet.secret", "a secret of the chaos"),
            *("--log-format", "json", "--shutdown-grace", "10", "--cache.stale-if-error", "600"),
            # What is stored expires soon, so that there is something to ask all the time.
            *("--cache.listing-ttl", "20", "--cache.signed-url-margin", "150"),
            *mode.options(),
        )
        replicas = [Replica(port, arguments) for port in (free_port(), free_port())]
        for replica in replicas:
            stack.push_async_callback(replica.stop)
        await asyncio.gather(*(replica.start() for replica in replicas))
        balancer = await stack.enter_async_context(LoadBalancer([replica.port for replica in replicas]))
        yield Scene(workspace, chaos, replicas, balancer, redis, mode)
