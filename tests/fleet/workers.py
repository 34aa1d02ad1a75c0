"""Worker processes that the tests start, and what they log."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.integration.support import MODEL, Api

ROOT = Path(__file__).parents[2]
WORKERS = 2


class Log:
    """What the processes of a proxy say, until the last of them has ended: the parent or any worker."""

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self.lines: list[dict[str, Any]] = []
        self._changed = asyncio.Condition()
        self.ended = asyncio.create_task(self._read(stream))

    async def until(self, event: str, times: int = 1) -> list[dict[str, Any]]:
        """Wait until it has been said so often; the test's time-out is the limit."""

        def said() -> list[dict[str, Any]]:
            return [line for line in self.lines if line.get("event") == event]

        async with self._changed:
            await self._changed.wait_for(lambda: len(said()) >= times or {} in self.lines)
        assert len(said()) >= times, self.lines
        return said()

    async def _read(self, stream: asyncio.StreamReader) -> None:
        try:
            async for line in stream:
                await self._add(json.loads(line))
        finally:
            await self._add({})

    async def _add(self, line: dict[str, Any]) -> None:
        async with self._changed:
            self.lines.append(line)
            self._changed.notify_all()


@dataclass
class Running:
    """A proxy that was started."""

    process: asyncio.subprocess.Process
    log: Log
    api: Api

    async def metrics(self, accept: str = "") -> str:
        async with self.api.session.get(self.api.url + "/-/metrics", headers={"Accept": accept}) as response:
            assert response.status == 200
            return await response.text()

    async def statuses(self) -> dict[str, dict[str, Any]]:
        """Return each worker's own status, once all answer."""
        while True:
            async with self.api.session.get(self.api.url + "/-/status.json") as response:
                workers: dict[str, dict[str, Any]] = (await response.json())["workers"]
            if len(workers) == WORKERS:
                return workers

    async def pids(self) -> dict[str, int]:
        """Return the process of each worker."""
        return {
            number: int(status["fleet"]["member"].split(":")[1])
            for number, status in (await self.statuses()).items()
        }

    async def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal to the parent; returns its exit status once every process has ended."""
        self.process.send_signal(number)
        await self.log.ended
        return await self.process.wait()


QUIET = {
    "MLFLOW_PROXY_ACCESS__SHARING": "credential",
    "MLFLOW_PROXY_CONNECTIONS__FORWARDED_FIELDS": "never",
}
"""Settings of workers that ask the workspace nothing of their own accord: tests count what arrives there."""


def command(upstream: str, *options: str) -> tuple[str, ...]:
    serve = ("serve", "--upstream", upstream, "--port", "0", "--log-format", "json")
    return (sys.executable, "-m", "mlflow_proxy", *serve, "--workers", str(WORKERS), *options)


@asynccontextmanager
async def serving(upstream: str, redis: str, *options: str) -> AsyncIterator[Running]:
    """Start it and wait until every worker serves; nothing of it is left."""
    process = await asyncio.create_subprocess_exec(
        *command(upstream, "--redis", redis, *options),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), **QUIET},
        start_new_session=True,  # so that all of it can be reached, like by Ctrl-C
    )
    assert process.stderr is not None
    log = Log(process.stderr)
    # A connection for each request, so that any worker may get it.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        try:
            url = (await log.until("serving", WORKERS))[0]["url"]
            yield Running(process, log, Api(session, url))
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await log.ended
            await process.wait()


def reads(running: Running, number: int, prefix: str = "absent") -> list["asyncio.Task[int]"]:
    """Begin so many distinct reads of the registry, each over a connection of its own."""

    async def one(name: str) -> int:
        return (await running.api.get(MODEL, name=name)).status

    return [asyncio.create_task(one(f"{prefix}-{each}")) for each in range(number)]


def answered(text: str) -> dict[str, float]:
    """Return how many requests each worker has answered."""
    found: dict[str, float] = dict.fromkeys(map(str, range(WORKERS)), 0.0)
    for family in parse_text(text):
        for sample in family.samples:
            if sample.name == "mlflow_proxy_requests_total":
                found[sample.labels["worker"]] += sample.value
    return found
