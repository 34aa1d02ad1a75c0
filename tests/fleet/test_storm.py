"""Random reads and writes through whole proxies that share a Redis which has a hard time, against a model."""

import asyncio
import os
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from mlflow_proxy.demo.models import Model
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.serving import serving
from mlflow_proxy.settings import BudgetSettings, CacheSettings, FleetSettings, Settings
from tests.fleet.redis_server import RedisServer
from tests.integration.support import MODEL, MUCH, OWN, QUIET, Api, settle

SEARCH = "registered-models/search"
NAMES = ("one", "two", "TWO")
SEEDS = [int(seed) for seed in os.environ.get("STORM_SEEDS", "1").split()]

pytestmark = pytest.mark.impatient

Tags = dict[tuple[str, str], int]
"""The newest value of each tag, by the model's name and the tag's key; every writer has a tag of its own."""


class Storm:
    """Readers and writers of three proxies, and what each of them must be able to see."""

    def __init__(
        self, seed: int, redis: RedisServer, workspace: EmulatedWorkspace, proxies: list[Api]
    ) -> None:
        self._random = random.Random(seed)
        self._redis = redis
        self._workspace = workspace
        self._proxies = proxies
        self.written: list[Tags] = [defaultdict(int) for _ in proxies]
        """By proxy what the workspace has confirmed through it."""
        self.seen = 0
        self.calm = False

    async def read(self, number: int) -> Tags:
        """Read through a proxy; returns the tags of the models that were in the answer."""
        must = dict(self.written[number])
        tags = await self._read(number)
        for (name, key), value in must.items():
            if (name, key) in tags:
                assert tags[name, key] >= value, f"proxy {number} served what it had written over"
                self.seen += 1
        return tags

    async def _read(self, number: int) -> Tags:
        name, token = self._random.choice(NAMES), self._random.choice(["a", "b"])
        if self._random.random() < 0.3:
            reply = await self._proxies[number].get(SEARCH, token=token)
            models = reply.json()["registered_models"]
        else:
            reply = await self._proxies[number].get(MODEL, token=token, name=name)
            models = [reply.json()["registered_model"]]
        assert reply.status == 200
        tags = {
            (model["name"], tag["key"]): int(tag["value"])
            for model in models
            for tag in model.get("tags", [])
        }
        for model in models:
            for key in KEYS:
                tags.setdefault((model["name"], key), 0)
        return tags

    async def write(self, number: int, value: int) -> None:
        """Write through a proxy."""
        name, key = self._random.choice(NAMES), KEYS[number]
        tag = {"name": name, "key": key, "value": str(value)}
        reply = await self._proxies[number].call("POST", "registered-models/set-tag", tag)
        assert reply.status == 200
        self.written[number][name, key] = value

    async def reader(self, number: int) -> None:
        """Read until cancelled, and leave now and then before the answer is there."""
        while True:
            if self._random.random() < 0.1:
                leaving = asyncio.create_task(self.read(number))
                await asyncio.sleep(self._random.random() * 0.02)
                leaving.cancel()
                await asyncio.wait([leaving])
                if not leaving.cancelled():
                    leaving.result()
            else:
                await self.read(number)
            await asyncio.sleep(self._random.random() * 0.01)

    async def writer(self, number: int, count: int) -> None:
        """Write, and look at once."""
        for value in range(1, count + 1):
            await self.write(number, value)
            if self._random.random() < 0.5:
                await self.read(number)
            await asyncio.sleep(self._random.random() * 0.1)

    async def trouble(self) -> None:
        """Give Redis a hard time until told to stop."""
        while not self.calm:
            await asyncio.sleep(self._random.random() * 0.5)
            kind = self._random.choice(TROUBLES)
            if kind == "stop":
                self._redis.stop()
                await asyncio.sleep(self._random.random())
                self._redis.resume()
            elif kind == "restart":
                await self._redis.kill()
                await asyncio.sleep(self._random.random() * 0.3)
                await self._redis.start()
            else:
                await self._disturb(kind)

    async def _disturb(self, kind: str) -> None:
        async with Redis.from_url(self._redis.url) as client:
            keys = sorted(await client.keys())
            if kind == "evict" and keys:
                await client.delete(self._random.choice(keys))
            elif kind == "trim":
                for key in keys:
                    if await client.type(key) == b"stream":
                        await client.xtrim(key, maxlen=0)
            elif kind == "hang up":
                await client.client_kill_filter(_type="normal", skipme=True)
            elif kind == "pause":
                await client.client_pause(300)
            elif kind == "flush":
                await client.flushall()


KEYS = ("a", "b", "c")
TROUBLES = ("stop", "restart", "evict", "trim", "hang up", "pause", "flush")


@asynccontextmanager
async def storm(seed: int, redis: RedisServer) -> AsyncIterator[Storm]:
    """Serve three proxies whose answers do not expire while the test runs."""
    async with AsyncExitStack() as stack:
        workspace = await stack.enter_async_context(
            EmulatedWorkspace([Model(name) for name in NAMES], WorkspaceOptions(limit=MUCH, latency=0.005))
        )
        session = await stack.enter_async_context(aiohttp.ClientSession())
        settings = Settings(
            upstream=workspace.url,
            port=0,
            shutdown_grace=0.01,
            redis=redis.url,
            fleet=FleetSettings(secret=SecretStr("a secret of the whole fleet")),
            budget=BudgetSettings(registry_limit=MUCH),
            cache=CacheSettings(mutable_ttl=600),
            access=OWN,
            connections=QUIET,
        )
        proxies = [Api(session, await stack.enter_async_context(serving(settings))) for _ in KEYS]
        for api in proxies:
            await api.until_metric("mlflow_proxy_fleet_cache_shared", 1)
        yield Storm(seed, redis, workspace, proxies)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("troubled", [False, True])
async def test_who_wrote_sees_it_and_all_others_in_the_end(
    redis: RedisServer, seed: int, troubled: bool
) -> None:
    async with storm(seed, redis) as it, asyncio.TaskGroup() as tasks:
        lasting = [tasks.create_task(it.reader(number)) for number in range(3) for _ in range(4)]
        trouble = [tasks.create_task(it.trouble())] if troubled else []
        async with asyncio.TaskGroup() as writers:
            for number in range(3):
                writers.create_task(it.writer(number, 10 if troubled else 30))
        it.calm = True
        for task in lasting:
            task.cancel()
        await asyncio.wait([*lasting, *trouble])
        final = {key: value for written in it.written for key, value in written.items()}
        for number, api in enumerate(it._proxies):
            await api.until_metric("mlflow_proxy_fleet_cache_shared", 1)
            left = dict(final)
            while left:
                tags = await it.read(number)
                left = {key: value for key, value in left.items() if tags.get(key, -1) < value}
                await settle()
        assert it.seen > 100
