"""A started workspace and a client for it."""

from collections.abc import AsyncIterator, Mapping

import aiohttp
import pytest

from mlflow_proxy.demo.models import Content, Model, ModelVersion, Pattern
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions

FILES: dict[str, Content] = {
    "MLmodel": b"flavors: {}\n",
    "data/big.bin": Pattern(1_000_000, seed=1),
    "data/a b#ü%41+.txt": b"odd",
    "empty.txt": b"",
}


def sample(files: Mapping[str, Content] = FILES) -> Model:
    return Model(
        "m",
        {
            "1": ModelVersion(files, frozenset({"void"}), stage="Production"),
            "2": ModelVersion({"only.bin": b"two"}),
        },
        aliases={"champion": "1"},
    )


@pytest.fixture
async def workspace() -> AsyncIterator[EmulatedWorkspace]:
    async with EmulatedWorkspace([sample()], WorkspaceOptions(limit=10_000, latency=0)) as workspace:
        yield workspace


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session
