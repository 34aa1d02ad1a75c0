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
from tests.integration.support import proxied


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
async def mlflow_server(home: Path, *options: str, **settings: str) -> AsyncIterator[str]:
    """Run a server until the context is left; yields its URL.

    ``options`` are more of the command's, ``settings`` more variables of its environment.
    """
    port = free_port()
    command = [
        *("-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}", "--serve-artifacts"),
        *("--artifacts-destination", str(home / "artifacts")),
        *options,
    ]
    process = await asyncio.create_subprocess_exec(
        SERVER,
        *command,
        env=environment(home, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", **settings),
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
        while b"Application startup complete" not in said:
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
