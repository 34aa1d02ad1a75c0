"""A redis-server for each test that wants one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fleet.redis_server import RedisServer


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    server = RedisServer(tmp_path)
    await server.start()
    yield server
    await server.kill()
