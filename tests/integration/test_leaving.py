"""Clients that leave: what nobody waits for any more is cancelled, and what others wait for is not."""

import asyncio

import aiohttp
import pytest

from mlflow_proxy.demo.workspace import EmulatedWorkspace
from mlflow_proxy.settings import BudgetSettings
from tests.integration.support import API, HIT, LATEST, MODEL, Api, Reply, count, proxied, settle


async def leave(call: "asyncio.Task[Reply]") -> None:
    """Close the connection of a call and let the proxy notice."""
    call.cancel()
    await asyncio.wait([call])
    await settle()


@pytest.mark.parametrize(
    ("method", "endpoint"), [("GET", MODEL), ("POST", LATEST), ("PATCH", "registered-models/update")]
)
async def test_a_call_that_nobody_waits_for_is_cancelled(
    workspace: EmulatedWorkspace, api: Api, method: str, endpoint: str
) -> None:
    workspace.hold()
    call = asyncio.create_task(api.call(method, endpoint, {"name": "m"}))
    await workspace.until(count(1))
    await leave(call)
    await workspace.until(lambda arrivals: arrivals[0].cancelled)
    await api.until_metric("mlflow_proxy_flights", 0)
    workspace.release()
    assert (await api.call(method, endpoint, {"name": "m"})).status == 200


@pytest.mark.parametrize("leader_leaves", [True, False])
async def test_a_call_goes_on_while_someone_waits(
    workspace: EmulatedWorkspace, api: Api, leader_leaves: bool
) -> None:
    workspace.hold()
    leader = asyncio.create_task(api.get(MODEL, name="m"))
    await workspace.until(count(1))
    follower = asyncio.create_task(api.get(MODEL, name="m"))
    await settle()
    gone, there = (leader, follower) if leader_leaves else (follower, leader)
    await leave(gone)
    assert not workspace.arrivals[0].cancelled
    workspace.release()
    assert (await there).status == 200
    assert len(workspace.arrivals) == 1
    assert (await api.get(MODEL, name="m")).outcome == HIT


async def test_the_last_to_leave_cancels_the_call(workspace: EmulatedWorkspace, api: Api) -> None:
    workspace.hold()
    calls = [asyncio.create_task(api.get(MODEL, name="m"))]
    await workspace.until(count(1))
    calls += [asyncio.create_task(api.get(MODEL, name="m")) for _ in range(4)]
    await settle()
    for call in calls[:-1]:
        await leave(call)
        assert not workspace.arrivals[0].cancelled
    await leave(calls[-1])
    await workspace.until(lambda arrivals: arrivals[0].cancelled)
    assert await api.metric("mlflow_proxy_flights") == 0


async def test_who_leaves_the_queue_makes_room(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    workspace.hold()  # what is not answered yet counts still, so nothing more can leave
    async with proxied(workspace.url, budget=BudgetSettings(registry_limit=1, patience=600)) as url:
        api = Api(session, url)
        before = asyncio.create_task(api.get(MODEL, name="m"))
        await workspace.until(count(1))
        calls = [asyncio.create_task(api.get(MODEL, name=f"m{number}")) for number in range(15)]
        calls.append(asyncio.create_task(api.call("PATCH", "registered-models/update", {"name": "last"})))
        await api.until_metric("mlflow_proxy_queue_depth", 16)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        await api.until_metric("mlflow_proxy_queue_depth", 0)
        await api.until_metric("mlflow_proxy_flights", 1)
        workspace.release()
        assert (await before).status == 200
        assert (await api.get(MODEL, name="after")).status == 404
    assert [arrival.target for arrival in workspace.arrivals] == [
        f"{API}{MODEL}?name=m",
        f"{API}{MODEL}?name=after",
    ]
