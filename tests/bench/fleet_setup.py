"""A fleet of proxies and the Redis that they share, each as a process of its own.

What belongs here: starting, addressing and ending them.
"""

import asyncio
import json
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow_proxy.demo.plain_http import PlainClient
from tests.bench.network import Network
from tests.bench.setups import proxy_process
from tests.fleet.redis_server import RedisServer
from tests.ports import free_port

SECRET = "a secret of the whole fleet"


@dataclass(frozen=True)
class Fleet:
    """A Redis and the proxies that share it."""

    network: Network
    redis: RedisServer
    urls: Sequence[str]
    processes: Sequence[Process]


@asynccontextmanager
async def fleet_of(count: int, net: Network, upstream: str, secret: str) -> AsyncIterator[Fleet]:
    """Start Redis and so many proxies; returns when all have found it."""
    with tempfile.TemporaryDirectory(prefix="mlflow-proxy-bench-") as directory:
        port = free_port(net.redis)
        address = ("--bind", net.redis, "--port", str(port), "--protected-mode", "no")
        redis = RedisServer(Path(directory), *address)
        try:
            await redis.start()
            async with AsyncExitStack() as stack:
                processes = [
                    proxy_process(
                        upstream,
                        *("--redis", f"redis://{net.redis}:{port}/0", "--host", net.proxy(number)),
                        before=net.inside(number),
                        secret=secret,
                    )
                    for number in range(count)
                ]
                # At once, since starting one takes a processor for a second.
                started = await asyncio.gather(*map(stack.enter_async_context, processes))
                fleet = Fleet(net, redis, [url for url, _ in started], [process for _, process in started])
                if secret:
                    await asyncio.gather(*map(_shares_answers, fleet.urls))
                yield fleet
        finally:
            await redis.kill()


async def _shares_answers(url: str) -> None:
    shared = False
    async with PlainClient() as http:
        while not shared:
            await asyncio.sleep(0.05)
            status = json.loads((await http.get(f"{url}/-/status.json", {})).body)
            shared = status["fleet"]["answers_shared"]
