"""A redis-server for each test that wants one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fleet.redis_server import RedisServer


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
