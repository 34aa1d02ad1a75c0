"""A proxy whose log cannot be written serves and stops like any other."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from mlflow_proxy.demo.workspace import EmulatedWorkspace
from tests.integration.support import MODEL, Api, count, refuses, settle

ROOT = Path(__file__).parents[2]
BEFORE_A_FREEZE = 361
"""Lines that a pipe of 64 KiB takes."""
COMMAND = (
    'exec "$0" -m mlflow_proxy serve --upstream "$1" --port 0 --log-format json '
    "--connections.forwarded-fields never --access.sharing credential"
)
"""Quietly: the workspace is asked nothing that no client asks."""


@dataclass
class Running:
    """A proxy that was started."""

    process: asyncio.subprocess.Process
    api: Api

    async def healthy(self) -> bool:
        async with self.api.session.get(self.api.url + "/-/healthz") as response:
            return response.status == 200

    async def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return await self.process.wait()


def port_of(pid: int) -> int | None:
    """Return the port that a process listens on, by what the system says: its log may not be able to."""
    sockets = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            sockets.add(os.readlink(each))
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        _, address, _, state, *_, inode = line.split()[:10]
        if state == "0A" and f"socket:[{inode}]" in sockets:
            return int(address.rpartition(":")[2], 16)
    return None


async def listening(process: asyncio.subprocess.Process) -> str:
    """Wait until a process serves; returns its URL."""
    while (port := port_of(process.pid)) is None:
        await settle()
        assert process.returncode is None
    return f"http://127.0.0.1:{port}"


@asynccontextmanager
async def serving(upstream: str, how: str = "", *, stderr: int | None = None) -> AsyncIterator[Running]:
    """Start a proxy as a shell does when it is told how, ``{}`` for the command; nothing of it is left."""
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", (how or "{}").format(COMMAND), sys.executable, upstream),
        stderr=stderr,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        url = await listening(process)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
            yield Running(process, Api(session, url))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def refusals(api: Api, number: int) -> Sequence[int]:
    """Ask what is refused, so that each is a line of the log."""
    return [(await api.call("GET", "/not\\a\\path")).status for _ in range(number)]


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", "0<&- 1>&- 2>&-"])
async def test_what_cannot_be_written(workspace: EmulatedWorkspace, redirection: str) -> None:
    async with serving(workspace.url, "{} " + redirection) as running:
        assert set(await refusals(running.api, 5)) == {400}
        assert (await running.api.get(MODEL, name="m")).status == 200
        dropped = await running.api.metric("mlflow_proxy_log_lines_dropped_total")
        assert (dropped >= 5) is (redirection == "2>/dev/full")
        assert await running.end() == 0


async def test_a_reader_that_has_gone(workspace: EmulatedWorkspace) -> None:
    reader, writer = os.pipe()
    async with serving(workspace.url, stderr=writer) as running:
        os.close(writer)
        os.close(reader)
        assert set(await refusals(running.api, 5)) == {400}
        assert (await running.api.get(MODEL, name="m")).status == 200
        assert await running.api.metric("mlflow_proxy_log_lines_dropped_total") >= 5
        assert await running.end() == 0


async def test_a_reader_that_stands_still(workspace: EmulatedWorkspace) -> None:
    """Whatever waited for a line would hang: the test's time-out is the limit."""
    reader, writer = os.pipe()
    async with serving(workspace.url, stderr=writer) as running:
        os.close(writer)
        assert set(await refusals(running.api, 2 * BEFORE_A_FREEZE)) == {400}
        assert (await running.api.get(MODEL, name="m")).status == 200
        assert await running.healthy()
        assert await running.end() == 0
    os.close(reader)


async def test_all_is_said_at_an_orderly_end(workspace: EmulatedWorkspace) -> None:
    async with serving(workspace.url, stderr=asyncio.subprocess.PIPE) as running:
        assert running.process.stderr is not None
        said = asyncio.create_task(running.process.stderr.read())
        await refusals(running.api, 50)
        assert await running.end() == 0
        lines = (await said).decode().splitlines()
    assert sum("request failed" in line for line in lines) == 50
    assert '"event": "stopping"' in lines[-1]


async def test_the_end_of_the_terminal_lets_finish_what_is_in_flight(workspace: EmulatedWorkspace) -> None:
    async with serving(workspace.url, "{} 2>/dev/null") as running:
        workspace.hold()
        call = asyncio.create_task(running.api.get(MODEL, name="m"))
        await workspace.until(count(1))
        running.process.send_signal(signal.SIGHUP)
        while not await refuses(running.api.url):
            await settle()
        workspace.release()
        assert (await call).status == 200
        assert await running.process.wait() == 0


async def test_what_is_started_to_outlive_its_terminal_does(workspace: EmulatedWorkspace) -> None:
    async with serving(workspace.url, "trap '' HUP; {} 2>/dev/null") as running:
        running.process.send_signal(signal.SIGHUP)
        assert await running.healthy()
        assert await running.end() == 0
