"""An open-source MLflow server as the upstream: all of it works as before, and nothing is rewritten."""

import asyncio
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

import aiohttp
import pytest

from mlflow_proxy.serving import serving
from mlflow_proxy.settings import Settings
from mlflow_proxy.upstream import circuit_breaker
from tests.environments import CLIENTS
from tests.integration.mlflow_server import environment, mlflow_server
from tests.integration.support import Api, RawClient, RawReply, proxied


async def search(url: str, host: str) -> RawReply:
    """Ask for experiments as a page of this host would that leads to the server."""
    body = b'{"max_results": 5}'
    lines = ["POST /api/2.0/mlflow/experiments/search HTTP/1.1", f"Host: {host}", "Connection: close"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "", ""]
    async with await RawClient.connect(url) as client:
        await client.send("\r\n".join(lines).encode() + body)
        return await client.rest()


@pytest.mark.timeout(180)
async def test_foreign_hosts_are_refused_as_the_server_does(tmp_path: Path) -> None:
    """The server sees the proxy's Host, which is a good one: it can refuse nothing by it."""
    async with mlflow_server(tmp_path) as upstream, proxied(upstream) as url:
        for host, status in (
            ("evil.example", 403),
            ("evil.example:8080", 403),
            ("127.0.0.1.evil.example", 403),
            ("localhost", 200),
            ("127.0.0.1:5000", 200),
            ("[::1]:5000", 200),
        ):
            answers = [await search(each, host) for each in (upstream, url)]
            assert [answer.status for answer in answers] == [status, status], host
            assert [b"Default" in answer.body for answer in answers] == [status == 200] * 2, host


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


@pytest.mark.timeout(180)
async def test_with_its_preset_it_is_asked_as_often_as_clients_like(tmp_path: Path) -> None:
    """With a workspace's limits 82 of these get 429: 7 a second leave, for 40 seconds."""
    async with (
        mlflow_server(tmp_path) as upstream,
        serving(Settings(upstream=upstream, preset="open-source", port=0, shutdown_grace=0.01)) as url,
        aiohttp.ClientSession() as session,
    ):
        api = Api(session, url)
        asked = {"experiment_ids": ["0"], "max_results": 1}
        replies = await asyncio.gather(*(api.call("POST", "runs/search", asked) for _ in range(350)))
        assert {reply.status for reply in replies} == {200}
        assert await api.budgets() == {}


@pytest.mark.timeout(180)
async def test_one_that_serves_no_artifacts_is_up_for_all_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It answers 503 to every question for artifacts, which is no outage."""
    monkeypatch.setattr(circuit_breaker, "SPAN", 0)  # what opens the circuit opens it at once
    async with (
        mlflow_server(tmp_path, "--no-serve-artifacts") as upstream,
        serving(Settings(upstream=upstream, preset="open-source", port=0, shutdown_grace=0.01)) as url,
        aiohttp.ClientSession() as session,
    ):
        api = Api(session, url)
        for number in range(8):
            listings = await asyncio.gather(
                *(session.get(f"{url}/api/2.0/mlflow-artifacts/artifacts?path=a") for _ in range(8))
            )
            assert {listing.status for listing in listings} == {503}
            run = {"experiment_id": "0", "run_name": f"run {number}"}
            assert (await api.call("POST", "runs/create", run)).status == 200
            search = {"experiment_ids": ["0"], "max_results": 20 + number}
            found = await api.call("POST", "runs/search", search)
            assert len(found.json()["runs"]) == number + 1
            assert (await session.get(f"{url}/-/readyz")).status == 200
