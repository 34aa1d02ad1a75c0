"""Real MLflow clients, unmodified, by both doors: every file arrives, and no client sees a refusal."""

import asyncio
import json
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest

from mlflow_proxy.demo.models import Content, Model, ModelVersion, Pattern
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from tests.environments import CLIENTS
from tests.integration.support import MUCH, proxied

Door = Literal["A", "B"]

TOKEN = "dapi-of-the-job"
ODD = "na\u00efve model 100%41 + more"
HASH = "odd #1 %41"

FILES: dict[str, Content] = {
    "MLmodel": b"flavors: {}\n",
    "data/weights.bin": Pattern(300_000, seed=1),
    "data/more/a b+c,d=e;f.txt": b"odd",
    "data/more/\u00fcml\u00e4ut.txt": b"odder",
    "empty.txt": b"",
}
DATA = {path.removeprefix("data/"): content for path, content in FILES.items() if path.startswith("data/")}
MORE = {path.removeprefix("more/"): content for path, content in DATA.items() if "/" in path}
SINGLE: dict[str, Content] = {"only.bin": b"one"}
ESCAPED: dict[str, Content] = {"a%41 #1 100%.txt": b"escaped"}

URIS: dict[str, tuple[str | list[str], dict[str, Content]]] = {
    "version": ("models:/m/1", FILES),
    "stage": ("models:/m/Production", FILES),
    "latest": ("models:/m/latest", SINGLE),
    "alias": ("models:/m@champion", FILES),
    "subdirectory": ("models:/m/1/data", DATA),
    "deeper": ("models:/m/1/data/more", MORE),
    "file": ("models:/m/1/data/weights.bin", {"weights.bin": FILES["data/weights.bin"]}),
    "single": ("models:/m/2", SINGLE),
    "odd name": (f"models:/{ODD}/1", SINGLE),
    # Clients cut a URI off at "#", so they have to be given the URI that the registry gives.
    "hash in name": ([HASH, "1"], SINGLE),
    "odd file name": ("models:/escaped/1", ESCAPED),
}

# What a client does not do, whatever it talks to. By door A it refuses "#" in a file's path (1.30 cuts the
# name there, which leads to the one file that may be meant); by door B it refuses aliases, and has no other
# URI for names with "#".
_DOOR_A = {"odd file name"}
_DOOR_B = {"alias", "hash in name"}
UNABLE: dict[tuple[str, Door], set[str]] = {
    ("3", "A"): _DOOR_A,
    ("3", "B"): _DOOR_B,
    ("2.22", "A"): _DOOR_A,
    ("2.22", "B"): _DOOR_B,
    ("2.9", "A"): _DOOR_A,
    ("2.9", "B"): _DOOR_B,
    ("1.30", "A"): {"alias"},
}


def registered() -> list[Model]:
    return [
        Model(
            "m",
            {
                "1": ModelVersion(FILES, frozenset({"void", "data/void"}), stage="Production"),
                "2": ModelVersion(SINGLE),
            },
            aliases={"champion": "1"},
        ),
        Model(ODD, {"1": ModelVersion(SINGLE)}),
        Model("escaped", {"1": ModelVersion(ESCAPED)}),
        Model(HASH, {"1": ModelVersion(SINGLE)}),
    ]


def environment(door: Door, url: str, home: Path, token: str = TOKEN) -> dict[str, str]:
    """Return what a job sets, on a machine that sets nothing else."""
    settings = {
        "A": {"MLFLOW_TRACKING_URI": url, "MLFLOW_TRACKING_TOKEN": token},
        "B": {
            "MLFLOW_TRACKING_URI": "databricks",
            "MLFLOW_REGISTRY_URI": "databricks",
            "DATABRICKS_HOST": url,
            "DATABRICKS_TOKEN": token,
        },
    }
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        **settings[door],
    }


@asynccontextmanager
async def job(
    version: str,
    door: Door,
    url: str,
    home: Path,
    token: str = TOKEN,
    more: dict[str, str] | None = None,
    script: str = "download.py",
) -> AsyncIterator[Process]:
    """Start a job that waits for what to download; ``more`` is for its environment."""
    path = Path(__file__).with_name(script)
    process = await asyncio.create_subprocess_exec(
        CLIENTS[version], path, env=environment(door, url, home, token) | (more or {}), cwd=home,
        stdin=PIPE, stdout=PIPE, limit=1 << 20,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def download(process: Process, uris: dict[str, str | list[str]]) -> dict[str, str]:
    """Let a job download to the directories named; returns its errors."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(uris).encode() + b"\n")
    await process.stdin.drain()
    errors: dict[str, str] = json.loads(await process.stdout.readline() or b'{"": "the job died"}')
    return errors


def files_in(directory: Path) -> dict[str, bytes]:
    """Return what was downloaded. Clients add a file of their own that says where the model came from."""
    found = {}
    for path in directory.rglob("*"):
        if path.is_file() and path.name != "registered_model_meta":
            found[path.relative_to(directory).as_posix()] = path.read_bytes()
    return found


def contents(files: dict[str, Content]) -> dict[str, bytes]:
    return {
        path: content if isinstance(content, bytes) else content.read(0, len(content))
        for path, content in files.items()
    }


def without_top(files: dict[str, bytes]) -> dict[str, bytes]:
    """Drop the directories above all files: of a subdirectory some clients make the way there, others not."""
    while len({path.partition("/")[0] for path in files}) == 1 and all("/" in path for path in files):
        files = {path.partition("/")[2]: data for path, data in files.items()}
    return files


@pytest.mark.parametrize(("version", "door"), UNABLE)
async def test_every_file_arrives(tmp_path: Path, version: str, door: Door) -> None:
    wanted = {kind: URIS[kind] for kind in URIS if kind not in UNABLE[version, door]}
    async with (
        EmulatedWorkspace(registered(), WorkspaceOptions(limit=MUCH, latency=0)) as workspace,
        proxied(workspace.url) as url,
        job(version, door, url, tmp_path) as process,
    ):
        first = {str(tmp_path / f"1-{kind}"): uri for kind, (uri, _) in wanted.items()}
        assert await download(process, first) == {}
        calls = workspace.arrivals.to("model-versions/list-artifacts")
        calls += workspace.arrivals.to("model-versions/get-signed-download-uri")
        assert len({call.target for call in calls}) == len(calls), "nothing was listed or signed twice"
        workspace.reset()
        second = {str(tmp_path / f"2-{kind}"): uri for kind, (uri, _) in wanted.items()}
        assert await download(process, second) == {}
        assert not workspace.arrivals.to("model-versions/list-artifacts")
        assert not workspace.arrivals.to("model-versions/get-signed-download-uri")
        assert workspace.storage.arrivals
        assert not any("Authorization" in arrival.headers for arrival in workspace.storage.arrivals)
        assert {arrival.token for arrival in workspace.registry_arrivals} <= {TOKEN}
    for kind, (_, files) in wanted.items():
        for time in (1, 2):
            assert without_top(files_in(tmp_path / f"{time}-{kind}")) == contents(files), kind
    for time in (1, 2):
        assert (tmp_path / f"{time}-version" / "void").is_dir()
        assert (tmp_path / f"{time}-version" / "data" / "void").is_dir()


@pytest.mark.parametrize(("version", "door"), UNABLE)
async def test_what_a_client_is_unable_to_do_fails_loudly(tmp_path: Path, version: str, door: Door) -> None:
    uris = {str(tmp_path / f"unable-{kind}"): URIS[kind][0] for kind in UNABLE[version, door]}
    async with (
        EmulatedWorkspace(registered(), WorkspaceOptions(limit=MUCH, latency=0)) as workspace,
        proxied(workspace.url) as url,
        job(version, door, url, tmp_path) as process,
    ):
        assert (await download(process, uris)).keys() == uris.keys()
