"""Where the documents' commands run: a copy of what they need, an emulated workspace, ports that are free."""

import asyncio
import os
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from mlflow_proxy import __file__ as package_file
from tests.docs.blocks import STAND_INS, TOKEN, WORKSPACE
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(package_file).parent
ASKED = "/api/2.0/mlflow/registered-models/get?name=my-model"

_COPIED = ("pyproject.toml", "README.md", "LICENSE", "config.example.toml", "deploy")
_PREAMBLE = r"""
set -eauo pipefail
trap : TERM  # what was started last ends first, and its status is the block's
mlflow-proxy() {
    env -0 >"$DOCS_VARIABLES"
    if [[ $1 == purge && " $* " != *" --url "* ]]; then set -- "$@" --url "$DOCS_PROXY"; fi
    command mlflow-proxy "$@"
}
redis-server() { command redis-server "$@" --port "$DOCS_PORT" --bind 127.0.0.1 --loglevel warning; }
"""


@dataclass
class Bench:
    """A directory with what the commands of the documents name, and the addresses put in for theirs.

    Attributes:
        directory: where commands run; a copy, so that they may write.
        replaced: what stands in the documents, and what is put in its place.
        variables: those that the commands find, beside the least that programs need.
        port: where a proxy or a Redis that a block starts is to listen.

    """

    directory: Path
    replaced: dict[str, str]
    variables: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        for name in _COPIED:
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, self.directory / name)
        package = self.directory / PACKAGE.relative_to(ROOT)
        shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
        example = self.directory / "config.example.toml"
        example.write_text(self.filled_in(example.read_text()))

    @property
    def installed(self) -> Path:
        """Where ``pip install`` puts what it installs."""
        return self.directory / "installed"

    @property
    def seen(self) -> dict[str, str]:
        """The variables that the last mlflow-proxy was started with."""
        pairs = (self.directory / "variables").read_text().split("\0")
        return dict(pair.split("=", 1) for pair in pairs if pair)

    def filled_in(self, text: str) -> str:
        """Put in what can be reached here for what the documents name."""
        for shown, real in self.replaced.items():
            text = text.replace(shown, real)
        return text.replace("_TOKEN=...", f"_TOKEN={TOKEN}")

    @asynccontextmanager
    async def started(self, text: str, variables: Mapping[str, str] | None = None) -> AsyncIterator[Process]:
        """Run a block in a process group of its own, which is killed if it is left behind."""
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", _PREAMBLE + STAND_INS + self.filled_in(text)),
            cwd=self.directory,
            env=self._environment() | self.variables | dict(variables or {}),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    async def ended(self, text: str, variables: Mapping[str, str] | None = None) -> str:
        """Run a block to its end and return its output; its status has to be 0."""
        async with self.started(text, variables) as process:
            output, errors = await process.communicate()
            assert process.returncode == 0, (output + errors).decode()
            return output.decode()

    def _environment(self) -> dict[str, str]:
        programs = Path(sys.executable).parent
        return {
            "PATH": f"{self.installed}/bin:{programs}:{os.environ['PATH']}:/usr/sbin",
            "PYTHONPATH": f"{self.installed}:{PACKAGE.parent}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(self.directory),
            # What is installed comes from the tests' own environment, and goes beside it.
            "PIP_TARGET": str(self.installed),
            "PIP_NO_INDEX": "1",
            "PIP_NO_DEPS": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # of which pip makes: without isolation
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "MLFLOW_PROXY_PORT": str(self.port),
            "DOCS_PORT": str(self.port),
            "DOCS_VARIABLES": str(self.directory / "variables"),
        }


def addresses(upstream: str, **others: str) -> dict[str, str]:
    """Return what is put in for the addresses of the documents."""
    return {
        WORKSPACE: upstream,
        "https://mlflow.example.com": upstream,
        "{{secrets/mlflow/token}}": TOKEN,
        **others,
    }


async def until_it_answers(process: Process, url: str, path: str) -> str:
    """Ask a proxy that is starting, until it answers with 200; return the answer.

    The certificate is not looked at: it is the test's own. The test's time limit is the limit.
    """
    async with aiohttp.ClientSession() as session:
        while process.returncode is None:
            with suppress(aiohttp.ClientError):
                async with session.get(url + path, ssl=False) as response:
                    if response.status == 200:
                        return await response.text()
            await asyncio.sleep(0.05)
    output, errors = await process.communicate()
    raise AssertionError((output + errors).decode())


async def shows(url: str, path: str, text: str) -> None:
    """Ask one of a proxy's own endpoints until its answer has ``text`` in it."""
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(url + path, ssl=False) as response:
                if text in await response.text():
                    return
            await asyncio.sleep(0.05)


async def ask(url: str, token: str) -> tuple[int, Sequence[str]]:
    """Ask for the model; return the status, and what Cache-Status says."""
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(url + ASKED, headers=headers, ssl=False) as response,
    ):
        return response.status, response.headers.getall("Cache-Status", [])
