"""The deployment files: the init script in action, and what can be checked of the rest without an engine."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from mlflow_proxy import settings
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
SCRIPT = DEPLOY / "databricks-init.sh"

pytestmark = pytest.mark.skipif(
    any(shutil.which(command) is None for command in ("bash", "setsid")),
    reason="the script is for Linux: bash and setsid",
)


@dataclass
class Node:
    """A machine that the script prepares, or what looks like one to it."""

    home: Path
    port: int
    upstream: str
    command: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.home / "proxy.log"

    @property
    def supervisor(self) -> int:
        return int((self.home / "pid").read_text())

    async def prepare(self, changes: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Run the script; returns its exit status and what it said."""
        environment = {
            "PATH": os.environ["PATH"],
            "DB_IS_DRIVER": "TRUE",
            "MLFLOW_PROXY_UPSTREAM": self.upstream,
            "MLFLOW_PROXY_PORT": str(self.port),
            "SIDECAR_COMMAND": str(self.command),
            "SIDECAR_HOME": str(self.home),
            "SIDECAR_LOG": str(self.log),
            "SIDECAR_PYTHON": sys.executable,
            "SIDECAR_USER": "",
            "SIDECAR_WAIT": "100",
            **(changes or {}),
        }
        process = await asyncio.create_subprocess_exec(
            "bash", str(SCRIPT), env=environment, stderr=asyncio.subprocess.PIPE
        )
        _, said = await process.communicate()
        assert process.returncode is not None
        return process.returncode, said.decode()

    async def status(self, path: str = "/-/healthz") -> int | None:
        """Ask the proxy for `path`; None when nobody answers."""
        async with aiohttp.ClientSession() as session:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(self.url + path) as response:
                    return response.status
        return None


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    command = tmp_path / "mlflow-proxy"
    command.write_text(f'#!/bin/sh\ncd "{ROOT}" && exec "{sys.executable}" -m mlflow_proxy "$@"\n')
    command.chmod(0o755)
    async with EmulatedWorkspace(options=WorkspaceOptions(latency=0)) as workspace:
        node = Node(tmp_path / "home", free_port(), workspace.url, command)
        yield node
        with contextlib.suppress(OSError, ValueError):
            os.killpg(node.supervisor, signal.SIGKILL)


def alive(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


def proxy_under(supervisor: int) -> int:
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    (proxy,) = [pid for pid in children if Path(f"/proc/{pid}/cmdline").read_bytes().endswith(b"\0serve\0")]
    return int(proxy)


def environment_of(process: int) -> bytes:
    return Path(f"/proc/{process}/environ").read_bytes()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again; the test's time-out is the limit."""
    while not await condition():  # noqa: ASYNC110 - another process has no event to wait for
        await asyncio.sleep(0.05)


async def until_gone(process: int) -> None:
    async def gone() -> bool:
        return not alive(process)

    await until(gone)


async def test_the_proxy_serves_comes_back_and_stops(node: Node) -> None:
    status, said = await node.prepare({"HTTP_PROXY": "http://127.0.0.1:9", "DATABRICKS_TOKEN": "secret"})
    assert status == 0, said
    assert f"answers at {node.url}" in said
    assert "WARNING" not in said
    assert await node.status("/-/readyz") == 200
    # A call that only the workspace can answer.
    assert await node.status("/api/2.0/mlflow/registered-models/search") == 200
    kept = (node.home / "environment").read_text() + (node.home / "service").read_text()
    assert "secret" not in kept

    proxy = proxy_under(node.supervisor)
    assert b"DATABRICKS_TOKEN" not in environment_of(proxy)
    os.kill(proxy, signal.SIGKILL)
    await until_gone(proxy)

    async def serves() -> bool:
        return await node.status() == 200

    await until(serves)
    assert "ended with status 137" in node.log.read_text()

    supervisor = node.supervisor
    os.kill(supervisor, signal.SIGTERM)
    await until_gone(supervisor)
    assert await node.status() is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"MLFLOW_PROXY_UPSTREAM": ""}, "MLFLOW_PROXY_UPSTREAM is not set"),
        ({"MLFLOW_PROXY_CACHE__TTL": "1"}, "MLFLOW_PROXY_CACHE__TTL: no such setting"),
        ({"SIDECAR_COMMAND": ""}, "SIDECAR_PACKAGE is not set"),
        ({"SIDECAR_COMMAND": "/nowhere"}, "/nowhere does not run"),
        ({"SIDECAR_WAIT": "soon"}, "SIDECAR_WAIT is 'soon'"),
        ({"SIDECAR_NODES": "some"}, "SIDECAR_NODES is 'some'"),
    ],
)
async def test_what_would_leave_a_dead_port_fails_the_launch(
    node: Node, changes: dict[str, str], reason: str
) -> None:
    status, said = await node.prepare(changes)
    assert status == 1
    assert reason in said
    assert "FAILED" in said
    assert not (node.home / "pid").exists()


async def test_a_port_that_is_taken_fails_the_launch(node: Node) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", node.port))
        taken.listen()
        status, said = await node.prepare()
    assert status == 1
    assert f"port: {node.port} is already in use" in said


async def test_a_workspace_out_of_reach_is_warned_of(node: Node) -> None:
    status, said = await node.prepare({"MLFLOW_PROXY_UPSTREAM": f"http://127.0.0.1:{free_port()}"})
    assert status == 0
    assert "WARNING" in said
    assert await node.status("/-/readyz") == 503


async def test_executors_are_left_alone(node: Node) -> None:
    status, _ = await node.prepare({"DB_IS_DRIVER": "FALSE"})
    assert status == 0
    assert not node.home.exists()


async def test_it_installs_the_package_in_an_environment_of_its_own(node: Node) -> None:
    node.home.mkdir()
    python = node.home / "python"
    python.write_text(f"""#!/usr/bin/env bash
case "$1 $2" in
    "-m venv") mkdir -p "${{@: -1}}/bin" ;;
    "-m pip") echo "$*" >>"{node.home}/pip"; ln -sf "{node.command}" "{node.home}/venv/bin/mlflow-proxy" ;;
    *) exec "{sys.executable}" "$@" ;;
esac
""")
    python.chmod(0o755)
    status, said = await node.prepare(
        {
            "SIDECAR_COMMAND": "",
            "SIDECAR_PYTHON": str(python),
            "SIDECAR_PACKAGE": "/some/mlflow_proxy.whl",
            "SIDECAR_REQUIREMENTS": "/some/requirements.txt",
        }
    )
    assert status == 0, said
    first, second = (node.home / "pip").read_text().splitlines()
    assert f"--python {node.home}/venv/bin/python" in first
    assert first.endswith("--require-hashes --requirement /some/requirements.txt")
    assert second.endswith("--no-deps /some/mlflow_proxy.whl")


def test_the_log_stays_short(tmp_path: Path) -> None:
    """The supervisor's own function, cut out of the script."""
    found = re.search(r"^keep_log\(\) \{.*?^\}$", SCRIPT.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    log = tmp_path / "log"
    subprocess.run(
        ["bash", "-c", f"log={log} log_bytes=1000\n{found[0]}\nkeep_log"],
        input="".join(f"line {number:03}\n" for number in range(500)).encode(),
        check=True,
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1"]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    assert log.read_text().endswith("line 499\n")


def test_scripts_parse() -> None:
    text = SCRIPT.read_text()
    inner = text.partition("<<'SUPERVISE'\n")[2].partition("\nSUPERVISE\n")[0]
    assert inner.startswith("#!")
    for script in (text, inner):
        subprocess.run(["bash", "-n"], input=script.encode(), check=True)


@pytest.mark.parametrize(
    "file",
    [
        "Dockerfile",
        "README.md",
        "deploy/compose.yaml",
        "deploy/.env.example",
        "deploy/databricks-cluster.md",
        "deploy/databricks-init.sh",
    ],
)
def test_only_settings_that_exist_are_named(file: str) -> None:
    # The proxy refuses to start with one that it does not know.
    known = {settings.variable(path) for path, _ in settings.names(settings.Settings)}
    named = set(re.findall(rf"\b{settings.PREFIX}[A-Z_]+\b", (ROOT / file).read_text())) - {settings.PREFIX}
    assert named <= known


def test_the_images_lock_is_part_of_the_tested_one() -> None:
    assert _pins(DEPLOY / "requirements.txt").items() <= _pins(ROOT / "tests/environments/dev.txt").items()


def test_the_image_is_built_from_files_that_reach_the_builder() -> None:
    allowed = {
        line.removeprefix("!").rstrip("/")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
                assert source.rstrip("/") in allowed, source


def _pins(lock: Path) -> dict[str, str]:
    """Return each pinned requirement with its marker and hashes, without the comments."""
    text = re.sub(r"^\s*#.*\n", "", lock.read_text(), flags=re.MULTILINE)
    pins = re.split(r"^(?=\S)", text, flags=re.MULTILINE)
    return {pin.partition("==")[0]: pin.strip() for pin in pins if pin.strip()}
