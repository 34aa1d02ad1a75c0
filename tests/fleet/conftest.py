"""A redis-server for each test that wants one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from tests.fleet.redis_server import RedisServer
from tests.fleet.workers import Running, serving
from tests.integration.support import MUCH


@pytest.fixture(autouse=True)
def patient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a slow machine be slow: it is no Redis that is gone."""
    if request.node.get_closest_marker("impatient") is None:
        monkeypatch.setattr("mlflow_proxy.fleet.connection.PATIENCE", 30.0)


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    server = RedisServer(tmp_path)
    await server.start()
    yield server
    await server.kill()


@pytest.fixture
async def workspace() -> AsyncIterator[EmulatedWorkspace]:
    async with EmulatedWorkspace([], WorkspaceOptions(limit=MUCH, latency=0)) as workspace:
        yield workspace


@pytest.fixture
async def running(workspace: EmulatedWorkspace, redis: RedisServer) -> AsyncIterator[Running]:
    # The margin is as wide as can be: what a slow machine delays must not look like two budgets.
    async with serving(workspace.url, redis.url, "--budget.jitter-margin", "1") as running:
        yield running
