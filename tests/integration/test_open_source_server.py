"""An open-source MLflow server as the upstream: all of it works as before, and nothing is rewritten."""

import asyncio
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

import pytest

from tests.environments import CLIENTS
from tests.integration.mlflow_server import environment, mlflow_server
from tests.integration.support import proxied


@pytest.mark.timeout(180)  # a new database takes the server its time
async def test_every_write_is_read_through_the_proxy(tmp_path: Path) -> None:
    script = Path(__file__).with_name("open_source.py")
    async with mlflow_server(tmp_path) as upstream, proxied(upstream) as url:
        client = await asyncio.create_subprocess_exec(
            CLIENTS["3"],
            script,
            env=environment(tmp_path, MLFLOW_TRACKING_URI=url),
            cwd=tmp_path,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
        )
        try:
            output, errors = await client.communicate()
        finally:
            if client.returncode is None:
                client.kill()
                await client.wait()
    assert client.returncode == 0, errors.decode()
    assert output.endswith(b"done\n")
