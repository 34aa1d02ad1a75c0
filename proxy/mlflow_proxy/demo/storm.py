"""A storm of real MLflow clients: unmodified processes, configured by their environment only.

What belongs here: starting them, following what arrives, comparing it, and leaving none of them behind.
"""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from mlflow_proxy.demo.models import Content, chunks
from mlflow_proxy.errors import InvalidSettingsError

Door = Literal["a", "b"]

_SCRIPT = """\
import contextlib, sys
from mlflow.artifacts import download_artifacts
with contextlib.suppress(ImportError):
    import databricks.sdk
print("ready", flush=True)
sys.stdin.readline()
download_artifacts(artifact_uri=sys.argv[1], dst_path=sys.argv[2])
"""
"""Imports take seconds of processor time, so they are done before the storm begins."""

_INHERITED = frozenset({"PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "SYSTEMROOT", "LD_LIBRARY_PATH"})


def door_variables(door: Door, url: str, token: str) -> dict[str, str]:
    """Return the environment lines that send a client to `url`: all that a user has to set."""
    if door == "a":
        return {"MLFLOW_TRACKING_URI": url, "MLFLOW_TRACKING_TOKEN": token}
    return {
        "MLFLOW_TRACKING_URI": "databricks",
        "MLFLOW_REGISTRY_URI": "databricks",
        "DATABRICKS_HOST": url,
        "DATABRICKS_TOKEN": token,
    }


class RealClient:
    """One process that downloads `uri` into `directory` once it reads `go` from its standard input."""

    def __init__(self, process: asyncio.subprocess.Process, directory: Path) -> None:
        self._process = process
        self._directory = directory
        self.downloaded = directory / "model"
        self.seconds: float | None = None
        """How long the download took, once it has ended."""
        self.failure = ""
        """What went wrong, in one line."""

    async def ready(self) -> None:
        """Wait until the client has imported mlflow, or has failed to."""
        assert self._process.stdout is not None  # noqa: S101 (started with a pipe)
        async for line in self._process.stdout:
            if line.strip() == b"ready":
                return

    async def download(self) -> None:
        """Tell the client to download, and wait until it has ended."""
        clock = asyncio.get_running_loop()
        began = clock.time()
        await self._process.communicate(b"go\n")
        self.seconds = clock.time() - began
        if self._process.returncode != 0:
            lines = (self._directory / "log").read_text(errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
            self.failure = f"exit status {self._process.returncode}: {last[:300]}"

    def arrived(self) -> int:
        """Count the files that are there so far."""
        return sum(len(files) for _, _, files in os.walk(self.downloaded))

    def compare(self, expected: Mapping[str, Content]) -> None:
        """Compare every byte of every file; differences are a failure."""
        wrong = [path for path, content in expected.items() if not _same(self.downloaded / path, content)]
        if wrong and not self.failure:
            self.failure = f"{len(wrong)} of {len(expected)} files missing or different, such as {wrong[0]}"

    async def end(self) -> None:
        """Make sure that the process is gone."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def real_clients(
    python: Path, uri: str, environments: Sequence[Mapping[str, str]]
) -> AsyncIterator[Sequence[RealClient]]:
    """Start a client for each of `environments`, which waits for the word.

    However the context is left, the clients and their files are gone.
    """
    root = Path(tempfile.mkdtemp(prefix="mlflow-proxy-demo-"))
    clients: list[RealClient] = []
    try:
        for number, variables in enumerate(environments, start=1):
            clients.append(await _start(python, uri, variables, root / f"client-{number}"))
        await asyncio.gather(*(client.ready() for client in clients))
        yield clients
    finally:
        for client in clients:
            await client.end()
        shutil.rmtree(root, ignore_errors=True)


async def check_python(python: Path) -> str:
    """Return the version of mlflow that `python` has. Raises InvalidSettingsError."""
    remedy = "pip install 'mlflow-skinny>=3.1', or give --client-python an interpreter that has mlflow"
    try:
        process = await asyncio.create_subprocess_exec(
            python,
            "-c",
            "import mlflow.artifacts, mlflow.version; print(mlflow.version.VERSION)",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=_environment({}, Path(tempfile.gettempdir())),
        )
    except OSError as error:
        raise InvalidSettingsError(
            f"client-python: {python} cannot be run ({error.strerror}); {remedy}"
        ) from None
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise InvalidSettingsError(f"client-python: {python} cannot import mlflow; {remedy}")
    return output.decode().strip()


async def _start(python: Path, uri: str, variables: Mapping[str, str], directory: Path) -> RealClient:
    client_directory = directory / "model"
    client_directory.mkdir(parents=True)
    with (directory / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            python,
            "-c",
            _SCRIPT,
            uri,
            client_directory,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            cwd=directory,
            env=_environment(variables, directory),
        )
    return RealClient(process, directory)


def _environment(variables: Mapping[str, str], home: Path) -> dict[str, str]:
    """Return a clean environment: nothing that configures MLflow, Databricks or an HTTP proxy comes along."""
    return {
        **{name: value for name, value in os.environ.items() if name in _INHERITED},
        "HOME": str(home),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        **variables,
    }


def default_python() -> Path:
    """Return the interpreter that runs this."""
    return Path(sys.executable)


def _same(path: Path, content: Content) -> bool:
    try:
        with path.open("rb") as file:
            return all(file.read(len(chunk)) == chunk for chunk in chunks(content)) and not file.read(1)
    except OSError:
        return False
