"""Workers that are stopped, killed or orphaned, and a parent that cannot start them."""

import asyncio
import os
import re
import signal
import socket
import subprocess
from contextlib import suppress

import aiohttp
import pytest

from mlflow_proxy.demo.workspace import EmulatedWorkspace
from tests.fleet.redis_server import RedisServer
from tests.fleet.workers import ROOT, WORKERS, Log, Running, command, reads
from tests.integration.support import Api, count, refuses, settle
from tests.ports import free_port


async def test_stopping_finishes_what_is_in_flight(running: Running, workspace: EmulatedWorkspace) -> None:
    workspace.hold()
    calls = reads(running, 20)
    await workspace.until(count(20))
    end = asyncio.create_task(running.end())
    await running.log.until("stopping", WORKERS)
    assert not end.done()
    workspace.release()
    assert set(await asyncio.gather(*calls)) == {404}
    assert await end == 0
    assert await refuses(running.api.url)
    assert "error" not in {line.get("level") for line in running.log.lines}


async def test_no_one_is_let_in_while_stopping(running: Running, workspace: EmulatedWorkspace) -> None:
    workspace.hold()
    calls = reads(running, 1)
    await workspace.until(count(1))
    end = asyncio.create_task(running.end())
    await running.log.until("stopping", WORKERS)
    while not await refuses(running.api.url):
        pass  # a worker says so before it closes its socket
    assert not end.done()
    workspace.release()
    assert [await call for call in calls] == [404]
    assert await end == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
async def test_control_c_and_the_end_of_the_terminal_stop_them_quietly(
    running: Running, number: signal.Signals
) -> None:
    os.killpg(running.process.pid, number)
    await running.log.ended
    assert await running.process.wait() == 0
    assert "error" not in {line.get("level") for line in running.log.lines}


async def test_a_worker_that_is_killed_is_replaced(running: Running) -> None:
    before = await running.pids()
    os.kill(before["1"], signal.SIGKILL)
    [death] = await running.log.until("worker died")
    assert (death["worker"], death["pid"], death["status"]) == (1, before["1"], -signal.SIGKILL)
    assert set(await asyncio.gather(*reads(running, 10, "without"))) == {404}
    assert (await running.log.until("serving", WORKERS + 1))[-1]["worker"] == 1
    after = await running.pids()
    assert after["0"] == before["0"]
    assert after["1"] != before["1"]
    assert set(await asyncio.gather(*reads(running, 10, "with"))) == {404}
    assert await running.end() == 0


async def test_workers_do_not_outlive_their_parent(running: Running) -> None:
    assert await running.end(signal.SIGKILL) == -signal.SIGKILL
    assert await refuses(running.api.url)


async def test_a_log_that_nothing_reads_holds_up_no_process(
    workspace: EmulatedWorkspace, redis: RedisServer
) -> None:
    """Whatever waited for a line would hang: the test's time-out is the limit."""
    port = free_port()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    process = await asyncio.create_subprocess_exec(
        *command(workspace.url, "--redis", redis.url, "--port", str(port)),
        stderr=writer,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    os.close(writer)
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        running = Running(process, Log(asyncio.StreamReader()), Api(session, f"http://127.0.0.1:{port}"))
        try:
            while await refuses(running.api.url):
                await settle()
            before = await running.pids()
            assert set(await asyncio.gather(*reads(running, 10))) == {404}
            os.kill(before["1"], signal.SIGKILL)
            while (await running.pids())["1"] == before["1"]:
                await settle()
            process.terminate()
            assert await process.wait() == 0
        finally:
            running.log.ended.cancel()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    os.close(reader)


def refused(*options: str) -> str:
    """Return the one line that it ends with."""
    done = subprocess.run(
        [*command("http://workspace.example"), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refused("--redis", "redis://127.0.0.1", "--port", port)
    assert line == f"mlflow-proxy: port: {port} is already in use on 127.0.0.1; choose another --port\n"


def test_a_port_for_their_own_endpoints_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refused("--redis", "redis://127.0.0.1", "--admin.host", "127.0.0.1", "--admin.port", port)
    assert line.startswith(f"mlflow-proxy: admin.port: {port} is already in use on 127.0.0.1")


def test_files_for_tls_that_are_wrong_are_told_once() -> None:
    line = refused("--redis", "redis://127.0.0.1", "--tls.certificate", "/absent", "--tls.key", "/absent")
    assert line.startswith(
        "mlflow-proxy: tls.certificate: /absent cannot be read (No such file or directory)"
    )


def test_workers_without_a_redis() -> None:
    assert re.fullmatch(r"mlflow-proxy: workers: .*--redis.*; set --workers, .*\n", refused())


def test_what_no_worker_could_serve_with_is_told_once() -> None:
    assert "give --redis a URL such as" in refused("--redis", "http://no-redis")
