"""The workspace as a server: its limit, its credentials, its records and its faults."""

import asyncio
import json
from collections import Counter

import aiohttp
import pytest
from aiohttp import web

from mlflow_proxy.demo.answers import Answer, Delay, Fault, Hang, Reset, Truncate
from mlflow_proxy.demo.limiters import LIMITERS
from mlflow_proxy.demo.models import Model, storm_model
from mlflow_proxy.demo.workspace import DISCOVERY, EmulatedWorkspace, WorkspaceOptions
from tests.demo.api import API, call, signed
from tests.demo.conftest import sample

GET = f"{API}registered-models/get?name=m"


class Clock:
    """A monotonic clock that tests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("limiter", [name for name in LIMITERS if name != "batch-reported"])
async def test_registry_calls_share_one_limit(client: aiohttp.ClientSession, limiter: str) -> None:
    clock = Clock()
    options = WorkspaceOptions(limiter=limiter, limit=4, latency=0)
    async with EmulatedWorkspace([sample()], options, monotonic=clock) as workspace:
        url = workspace.url
        await call(client, url, "GET", "registered-models/get", name="m")
        await call(client, url, "GET", "/ajax-api/2.0/mlflow/registered-models/get", name="unknown")
        await call(client, url, "GET", "model-versions/get", name="m", version="1")
        await call(client, url, "POST", "registered-models/get-latest-versions", name="m")
        refused = await call(client, url, "GET", "model-versions/list-artifacts", name="m", version="1")
        assert refused[0] == 429
        assert refused[1]["error_code"] == "REQUEST_LIMIT_EXCEEDED"
        assert (await call(client, url, "GET", "experiments/get", experiment_id="0"))[0] == 200
        clock.now += 1
        assert (await call(client, url, "GET", "registered-models/get", name="m"))[0] == 200
        assert workspace.registry_arrivals.statuses() == {200: 4, 404: 1, 429: 1}


@pytest.mark.parametrize("retry_after", [True, False])
async def test_retry_after_is_whole_seconds_if_at_all(
    client: aiohttp.ClientSession, retry_after: bool
) -> None:
    options = WorkspaceOptions(limit=1, latency=0, retry_after=retry_after)
    async with EmulatedWorkspace([sample()], options, monotonic=Clock()) as workspace:
        await call(client, workspace.url, "GET", "registered-models/get", name="m")
        async with client.get(workspace.url + GET) as response:
            assert response.status == 429
            assert response.headers.get("Retry-After") == ("1" if retry_after else None)


async def test_credentials(client: aiohttp.ClientSession) -> None:
    models = [sample(), Model("secret", readers=frozenset({"alice"}))]
    options = WorkspaceOptions(limit=8, latency=0, tokens=frozenset({"alice", "bob"}))
    async with EmulatedWorkspace(models, options, monotonic=Clock()) as workspace:
        get = "registered-models/get"
        for token, status in [("", 401), ("eve", 401), ("bob", 403), ("alice", 200)]:
            got, answer = await call(client, workspace.url, "GET", get, token, name="secret")
            assert got == status
            assert (got == 200) == ("error_code" not in answer)
        found = await call(client, workspace.url, "GET", "registered-models/search", "bob")
        assert [model["name"] for model in found[1]["registered_models"]] == ["m"]
        assert [arrival.token for arrival in workspace.arrivals[:3]] == [None, "eve", "bob"]
        for _ in range(3):
            await call(client, workspace.url, "GET", get, name="m")
        # Refused for their credential, they have been counted all the same.
        status, _ = await call(client, workspace.url, "GET", get, "alice", name="m")
        assert status == 429


async def test_discovery_needs_no_credential(client: aiohttp.ClientSession) -> None:
    async with EmulatedWorkspace([], WorkspaceOptions(latency=0, tokens=frozenset({"t"}))) as workspace:
        _, config = await call(client, workspace.url, "GET", "/.well-known/databricks-config")
        issuer = config["oidc_endpoint"].removeprefix(workspace.url)
        status, oidc = await call(
            client, workspace.url, "GET", f"{issuer}/.well-known/oauth-authorization-server"
        )
        assert (status, oidc["token_endpoint"]) == (200, f"{workspace.url}/oidc/v1/token")
        assert (await call(client, workspace.url, "GET", "/.well-known/nothing"))[0] == 404
        assert len(workspace.arrivals.in_group(DISCOVERY)) == 3


async def test_endpoints_beside_the_registry(
    workspace: EmulatedWorkspace, client: aiohttp.ClientSession
) -> None:
    url = workspace.url
    experiment = (await call(client, url, "GET", "experiments/get", experiment_id="0"))[1]["experiment"]
    by_name = await call(client, url, "GET", "experiments/get-by-name", experiment_name=experiment["name"])
    assert by_name[1]["experiment"] == experiment
    assert (await call(client, url, "GET", "experiments/get", experiment_id="1"))[0] == 404
    assert (await call(client, url, "GET", "experiments/get-by-name", experiment_name="x"))[0] == 404
    assert (await call(client, url, "GET", "runs/get", run_id="r"))[0] == 404
    assert (await call(client, url, "POST", "runs/search", experiment_ids=["0"])) == (200, {})
    assert (await call(client, url, "GET", "/api/2.0/dbfs/list", path="/databricks")) == (200, {})
    assert (await call(client, url, "GET", "/api/2.0/dbfs/get-status", path="/databricks"))[0] == 404
    assert not workspace.registry_arrivals


@pytest.mark.parametrize("path", ["/", "/api/2.0/clusters/list", f"{API}model-versions/nothing"])
async def test_unknown_path(workspace: EmulatedWorkspace, client: aiohttp.ClientSession, path: str) -> None:
    status, answer = await call(client, workspace.url, "GET", path)
    assert (status, answer["error_code"]) == (404, "ENDPOINT_NOT_FOUND")


async def test_records(client: aiohttp.ClientSession) -> None:
    clock = Clock()
    options = WorkspaceOptions(limit=100, latency=0)
    async with EmulatedWorkspace([sample()], options, monotonic=clock) as workspace:
        for step in (0, 0.5, 0.5, 0.25, 2):
            clock.now += step
            await call(client, workspace.url, "GET", "registered-models/get", name="m")
        await call(client, workspace.url, "POST", "registered-models/get-latest-versions", name="m")
        arrivals = workspace.registry_arrivals
        assert (len(arrivals), arrivals.distinct(), arrivals.max_in_window()) == (6, 2, 3)
        assert arrivals[0].target == GET
        assert json.loads(arrivals[-1].body) == {"name": "m"}
        workspace.reset()
        assert workspace.arrivals == []
        assert workspace.arrivals.max_in_window() == 0


async def test_held_answers_arrive_when_released(
    workspace: EmulatedWorkspace, client: aiohttp.ClientSession
) -> None:
    workspace.hold()
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        calls = [
            tasks.create_task(call(client, workspace.url, "GET", "registered-models/get", name="m"))
            for _ in range(5)
        ]
        await workspace.until(lambda arrivals: len(arrivals) == 5)
        assert workspace.arrivals.statuses() == {None: 5}
        assert not any(task.done() for task in calls)
        workspace.release()
    assert workspace.arrivals.statuses() == {200: 5}


async def test_a_client_that_hangs_up_is_on_record(
    workspace: EmulatedWorkspace, client: aiohttp.ClientSession
) -> None:
    workspace.hold()
    asking = asyncio.create_task(call(client, workspace.url, "GET", "registered-models/get", name="m"))
    async with asyncio.timeout(30):
        await workspace.until(lambda arrivals: len(arrivals) == 1)
        asking.cancel()
        await workspace.until(lambda arrivals: arrivals[0].cancelled)


async def test_an_answer_as_fault_has_no_effect(
    workspace: EmulatedWorkspace, client: aiohttp.ClientSession
) -> None:
    headers = [("X-Twice", "1"), ("X-Twice", "2")]
    workspace.fault = lambda _: Answer(503, b"not json", headers)
    async with client.delete(f"{workspace.url}{API}registered-models/delete", json={"name": "m"}) as response:
        assert (response.status, await response.read()) == (503, b"not json")
        assert response.headers.getall("X-Twice") == ["1", "2"]
    assert "m" in workspace.models


async def test_a_late_answer_is_the_one_of_its_arrival(
    workspace: EmulatedWorkspace, client: aiohttp.ClientSession
) -> None:
    released = asyncio.Event()
    workspace.fault = lambda request: Hang(released) if request.method == "GET" else Delay(0)
    async with asyncio.timeout(30):
        reading = asyncio.create_task(call(client, workspace.url, "GET", "registered-models/get", name="m"))
        await workspace.until(lambda arrivals: len(arrivals) == 1)
        await call(client, workspace.url, "PATCH", "registered-models/update", name="m", description="new")
        released.set()
        assert (await reading)[1]["registered_model"]["description"] == ""
    assert workspace.models["m"].description == "new"


async def test_reset(workspace: EmulatedWorkspace, client: aiohttp.ClientSession) -> None:
    workspace.fault = lambda _: Reset()
    # A method that is not idempotent, because the client itself repeats the others.
    with pytest.raises(aiohttp.ClientOSError):
        await call(client, workspace.url, "POST", "registered-models/get-latest-versions", name="m")
    assert workspace.arrivals[0].status is None


@pytest.mark.parametrize("size", [0, 300_000])
async def test_a_truncated_file(
    workspace: EmulatedWorkspace, client: aiohttp.ClientSession, size: int
) -> None:
    url, _ = await signed(client, workspace, "data/big.bin")
    workspace.storage.fault = lambda _: Truncate(size)
    async with client.get(url) as response:
        assert response.headers["Content-Length"] == "1000000"
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_a_truncated_answer(workspace: EmulatedWorkspace, client: aiohttp.ClientSession) -> None:
    workspace.fault = lambda _: Truncate(5)
    async with client.get(workspace.url + GET) as response:
        assert int(response.headers["Content-Length"]) > 5
        assert await response.content.readexactly(5) == b'{"reg'
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_a_fault_can_depend_on_the_request(
    workspace: EmulatedWorkspace, client: aiohttp.ClientSession
) -> None:
    def fault(request: web.Request) -> Fault | None:
        return Answer(500) if "get" in request.path else None

    workspace.fault = fault
    async with client.get(workspace.url + GET) as response:
        assert response.status == 500
    assert (await call(client, workspace.url, "GET", "registered-models/search"))[0] == 200


async def test_stopping_ends_what_hangs_and_starting_again_keeps_the_ports() -> None:
    workspace = EmulatedWorkspace([sample()], WorkspaceOptions(latency=0))
    await workspace.start()
    urls = workspace.url, workspace.storage_url
    workspace.fault = lambda _: Hang()
    async with asyncio.timeout(30), aiohttp.ClientSession() as client:
        hanging = asyncio.create_task(client.post(workspace.url + GET))
        await workspace.until(lambda arrivals: len(arrivals) == 1)
        await workspace.stop()
        with pytest.raises(aiohttp.ClientError):
            await hanging
    await workspace.start()
    assert (workspace.url, workspace.storage_url) == urls
    await workspace.stop()


async def test_a_taken_port_leaves_nothing_open(workspace: EmulatedWorkspace) -> None:
    port = int(workspace.url.rpartition(":")[2])
    with pytest.raises(OSError, match="address already in use"):
        await EmulatedWorkspace([], WorkspaceOptions(port=port)).start()


async def test_fifty_clients_walk_the_storm(client: aiohttp.ClientSession) -> None:
    options = WorkspaceOptions(limit=1_000_000, latency=0)
    version = {"name": "storm", "version": "1"}

    async with EmulatedWorkspace([storm_model(file_size=16)], options) as workspace:

        async def walk() -> None:
            directories = [""]
            for directory in directories:
                _, listing = await call(
                    client, workspace.url, "GET", "model-versions/list-artifacts", **version, path=directory
                )
                for file in listing["files"]:
                    if file["is_dir"]:
                        directories.append(file["path"])

        async with asyncio.TaskGroup() as tasks:
            for _ in range(50):
                tasks.create_task(walk())
        assert workspace.registry_arrivals.statuses() == Counter({200: 50 * 22})
        assert workspace.registry_arrivals.distinct() == 22
