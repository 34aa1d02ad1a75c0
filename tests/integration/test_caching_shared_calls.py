"""Identical reads share one call, and its failure."""

import asyncio
from typing import Any

import pytest

from mlflow_proxy.demo.answers import Answer, Fault, Reset, Truncate, no_fault
from mlflow_proxy.demo.workspace import EmulatedWorkspace
from mlflow_proxy.upstream.retry import FAILURES
from tests.integration.support import (
    COLLAPSED,
    CONFIG,
    HIT,
    LATEST,
    LIST,
    MODEL,
    SIGN,
    STORED,
    Api,
    count,
    first,
    settle,
)


@pytest.mark.parametrize(
    ("method", "endpoint", "parameters"),
    [
        ("GET", MODEL, {"name": "m"}),
        ("POST", LATEST, {"name": "m", "stages": ["Production"]}),
        ("GET", LIST, {"name": "m", "version": "1"}),
        ("GET", SIGN, {"name": "m", "version": "1", "path": "MLmodel"}),
        ("GET", CONFIG, {}),
    ],
)
async def test_identical_reads_share_one_call(
    workspace: EmulatedWorkspace, api: Api, method: str, endpoint: str, parameters: dict[str, Any]
) -> None:
    workspace.hold()
    calls = [asyncio.create_task(api.call(method, endpoint, parameters)) for _ in range(20)]
    await workspace.until(count(1))
    await settle()
    workspace.release()
    replies = await asyncio.gather(*calls)
    assert len(workspace.arrivals) == 1
    assert {(reply.status, reply.body) for reply in replies} == {(200, replies[0].body)}
    outcomes = [reply.outcome for reply in replies]
    assert outcomes.count(STORED) == 1
    assert set(outcomes) <= {STORED, COLLAPSED, HIT}
    assert COLLAPSED in outcomes
    assert await api.metric("mlflow_proxy_flights") == 0


async def test_an_error_is_shared_by_those_who_waited_and_no_others(
    workspace: EmulatedWorkspace, api: Api
) -> None:
    workspace.hold()
    workspace.fault = first(1, Answer(501, b"{}"))
    calls = [asyncio.create_task(api.get(MODEL, name="m")) for _ in range(5)]
    await workspace.until(count(1))
    await settle()
    workspace.release()
    assert [reply.status for reply in await asyncio.gather(*calls)] == [501] * 5
    assert len(workspace.arrivals) == 1
    assert (await api.get(MODEL, name="m")).status == 200


@pytest.mark.parametrize("fault", [Reset(), Truncate(10)])
async def test_a_broken_call_fails_all_who_waited_with_503(
    workspace: EmulatedWorkspace, api: Api, fault: Fault
) -> None:
    workspace.hold()
    workspace.fault = lambda _: fault
    calls = [asyncio.create_task(api.get(MODEL, name="m")) for _ in range(5)]
    await workspace.until(count(1))
    await settle()
    workspace.release()
    assert [reply.status for reply in await asyncio.gather(*calls)] == [503] * 5
    most = 2 * (1 + FAILURES)  # the HTTP library repeats each attempt once, over a new connection
    assert len(workspace.arrivals) <= most
    workspace.fault = no_fault
    assert (await api.get(MODEL, name="m")).outcome == STORED
