"""A real open-source MLflow server, as a process of its own."""

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.environments import SERVER
from tests.ports import free_port


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


@asynccontextmanager
async def mlflow_server(home: Path, *options: str, **settings: str) -> AsyncIterator[str]:
    """Run a server until the context is left; yields its URL. ``settings`` are environment variables."""
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
