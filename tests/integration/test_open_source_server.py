"""An open-source MLflow server as the upstream: all of it works as before, and nothing is rewritten."""

import asyncio
import os
import signal
import socket
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from tests.environments import CLIENTS, SERVER
from tests.integration.support import RawClient, RawReply, proxied


def environment(home: Path, **settings: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TMPDIR": str(home),
        "LANG": "C.UTF-8",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        **settings,
    }


def free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@asynccontextmanager
async def mlflow_server(home: Path) -> AsyncIterator[str]:
    """Run a server until the context is left; yields its URL."""
    port = free_port()
    command = [
        *("-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}", "--serve-artifacts"),
        *("--artifacts-destination", str(home / "artifacts")),
    ]
    process = await asyncio.create_subprocess_exec(
        SERVER,
        *command,
        env=environment(home, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"),
        cwd=home,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
        start_new_session=True,  # it starts workers, which end with it
    )
    assert process.stdout is not None
    said = b""
    reading: asyncio.Task[bytes] | None = None
    try:
        # It says that it has started before it listens.
        while not (b"Application startup complete" in said and b"Uvicorn running on" in said):
            line = await process.stdout.readline()
            said += line
            assert line, said.decode()
        reading = asyncio.create_task(process.stdout.read())  # or it would block on a full pipe
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        if reading is not None:
            await reading
        await process.communicate()


async def search(url: str, host: str) -> RawReply:
    """Ask for experiments as a page of this host would that leads to the server."""
    body = b'{"max_results": 5}'
    lines = ["POST /api/2.0/mlflow/experiments/search HTTP/1.1", f"Host: {host}", "Connection: close"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "", ""]
    async with await RawClient.connect(url) as client:
        await client.send("\r\n".join(lines).encode() + body)
        return await client.rest()


@pytest.mark.timeout(180)
async def test_foreign_hosts_are_refused_as_the_server_does(tmp_path: Path) -> None:
    """The server sees the proxy's Host, which is a good one: it can refuse nothing by it."""
    async with mlflow_server(tmp_path) as upstream, proxied(upstream) as url:
        for host, status in (
            ("evil.example", 403),
            ("evil.example:8080", 403),
            ("127.0.0.1.evil.example", 403),
            ("localhost", 200),
            ("127.0.0.1:5000", 200),
            ("[::1]:5000", 200),
        ):
            answers = [await search(each, host) for each in (upstream, url)]
            assert [answer.status for answer in answers] == [status, status], host
            assert [b"Default" in answer.body for answer in answers] == [status == 200] * 2, host


@pytest.mark.timeout(180)  # a new database takes the server its time
async def test_every_write_is_read_through_the_proxy(tmp_path: Path) -> None:
    script = Path(__file__).with_name("open_source.py")
    async with mlflow_server(tmp_path) as upstream, proxied(upstream) as url:
        client = await asyncio.create_subprocess_exec(
            CLIENTS["3"],
            script,
            env=environment(tmp_path, MLFLOW_TRACKING_URI=url),
            cwd=tmp_path,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
        )
        try:
            output, errors = await client.communicate()
        finally:
            if client.returncode is None:
                client.kill()
                await client.wait()
    assert client.returncode == 0, errors.decode()
    assert output.endswith(b"done\n")
