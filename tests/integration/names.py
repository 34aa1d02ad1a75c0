"""Models of files with given names, and what clients make of those."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from mlflow_proxy.demo.answers import Answer
from mlflow_proxy.demo.models import Model, ModelVersion
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.settings import CacheSettings
from tests.integration.support import MUCH, proxied

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
ROOT = f"{ARTIFACTS}/mlflow-proxy/m/1"


def said_for(names: list[str], known: Callable[[str], frozenset[str]]) -> set[str]:
    first, *rest = [known(name) for name in names]
    # A client may lose all of a name, or what follows one in which it has found "#".
    return {"", *first, *(f"{above}/{name}" for above in first for names in rest for name in names)}


@asynccontextmanager
async def holding(
    *files: str, cache: CacheSettings | None = None, page_size: int = 1000
) -> AsyncIterator[tuple[EmulatedWorkspace, str]]:
    """Serve a model of these files, each of which contains its path; yields workspace and proxy."""
    model = Model("m", {"1": ModelVersion({path: path.encode() for path in files})})
    options = WorkspaceOptions(limit=MUCH, latency=0, page_size=page_size)
    async with EmulatedWorkspace([model], options) as workspace, proxied(workspace.url, cache=cache) as url:
        yield workspace, url


def page_of(*paths: str) -> Answer:
    files = [{"path": path, "is_dir": False, "file_size": 1} for path in paths]
    return Answer(200, json.dumps({"root_uri": "dbfs:/m", "files": files}).encode())
