"""Attacks on sharing by proof, through two members of a fleet."""

import asyncio

import pytest
from aiohttp import web

from mlflow_proxy.demo.answers import Answer, Fault
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from tests.fleet.redis_server import RedisServer
from tests.fleet.test_sharing import PERMISSIONS, PROVEN, fleet
from tests.integration.support import LIST, MUCH, SIGN, count, settle
from tests.integration.test_proven import FILE, VERSION, readable_by


@pytest.mark.parametrize("status", [200, 403, 500, 503])
async def test_what_one_caller_met_is_not_told_to_those_at_another_proxy(
    redis: RedisServer, status: int
) -> None:
    def odd(request: web.Request) -> Fault | None:
        if LIST in request.path and "odd" in request.headers["Authorization"]:
            return Answer(status, b'{"error_code": "ODD"}')
        return None

    options = WorkspaceOptions(limit=MUCH, latency=0)
    async with (
        EmulatedWorkspace([readable_by("odd", "b", "c")], options) as workspace,
        fleet(redis, workspace.url, PROVEN, PROVEN) as (one, two),
    ):
        for token in ("odd", "b", "c"):
            for api in (one, two):
                assert (await api.get(SIGN, token=token, **FILE)).status == 200
        workspace.fault = odd
        before = len(workspace.arrivals)
        workspace.hold()
        leading = asyncio.create_task(one.get(LIST, token="odd", **VERSION))
        await workspace.until(count(before + 1))
        following = [asyncio.create_task(two.get(LIST, token=token, **VERSION)) for token in ("b", "c")]
        while await two.metric("mlflow_proxy_flights") < 1:
            await settle()
        await settle()
        workspace.release()
        replies = await asyncio.gather(leading, *following)
        assert [reply.status for reply in replies] == [status, 200, 200]
        assert all(b"ODD" not in reply.body for reply in replies[1:])


async def test_who_waits_at_another_proxy_when_access_ends_is_asked_for_anew(redis: RedisServer) -> None:
    options = WorkspaceOptions(limit=MUCH, latency=0)
    async with (
        EmulatedWorkspace([readable_by("a", "b")], options) as workspace,
        fleet(redis, workspace.url, PROVEN, PROVEN) as (one, two),
    ):
        for token in ("a", "b"):
            for api in (one, two):
                assert (await api.get(SIGN, token=token, **FILE)).status == 200
        before = len(workspace.arrivals)
        workspace.hold()
        leading = asyncio.create_task(one.get(LIST, token="a", **VERSION))
        await workspace.until(count(before + 1))
        following = asyncio.create_task(two.get(LIST, token="b", **VERSION))
        while await two.metric("mlflow_proxy_flights") < 1:
            await settle()
        await settle()
        workspace.models["m"].readers = frozenset({"a"})
        writing = asyncio.create_task(one.call("PATCH", PERMISSIONS, {}, token="a"))
        await workspace.until(count(before + 2))
        workspace.release()
        await writing
        await leading
        reply = await following
        assert reply.status == 403
