"""Each client has its fair share of a budget, whatever others do or meet."""

import asyncio

import aiohttp
import pytest
from aiohttp import web

from mlflow_proxy.demo.answers import Answer, Fault, no_fault
from mlflow_proxy.demo.workspace import EmulatedWorkspace
from mlflow_proxy.settings import AccessSettings, BudgetSettings
from tests.integration.budget import REFUSAL, assert_busy, cancelled
from tests.integration.support import API, COLLAPSED, LIST, MODEL, SIGN, Api, count, first, proxied, settle

SMALL = 3
"""So many calls each of the small credentials has waiting."""
OVERTAKEN = 3
"""Calls that leave together, to make up for a late timer, and may arrive in another order."""


async def test_many_calls_of_one_credential_leave_the_others_their_share(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    """A credential with sixty calls waiting counts as one among eleven, though it was there first."""
    workspace.hold()
    async with proxied(workspace.url, budget=BudgetSettings(patience=600)) as url:
        api = Api(session, url)
        # Nothing is answered, so that after the first forty nothing leaves until all wait together.
        heavy = [asyncio.create_task(api.get(MODEL, token="heavy", name=f"m{n}")) for n in range(100)]
        await workspace.until(count(40))
        await api.until_metric("mlflow_proxy_queue_depth", 60)
        small = [
            asyncio.create_task(api.get(MODEL, token=f"small-{n}", name=f"m{m}"))
            for n in range(10)
            for m in range(SMALL)
        ]
        await api.until_metric("mlflow_proxy_queue_depth", 60 + len(small))
        assert len(workspace.arrivals) == 40
        workspace.release()
        assert {(await call).status for call in small} == {404}
        await cancelled(heavy)
    waited = workspace.arrivals[40:]
    for n in range(10):
        places = [place for place, arrival in enumerate(waited) if arrival.token == f"small-{n}"]
        assert len(places) == SMALL
        # In each round one of these leaves, and one of each other credential.
        for turn, place in enumerate(places):
            assert 11 * turn - OVERTAKEN <= place <= 11 * (turn + 1) + OVERTAKEN


async def test_a_repeated_call_is_first_in_line(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    """Before the calls that its own client and others made meanwhile."""
    workspace.hold()
    workspace.fault = first(1, Answer(429, REFUSAL))
    async with proxied(workspace.url, budget=BudgetSettings(registry_limit=1, patience=600)) as url:
        api = Api(session, url)
        refused = asyncio.create_task(api.get(MODEL, name="refused"))
        await workspace.until(count(1))
        others = [
            asyncio.create_task(api.get(MODEL, token=token, name=name))
            for token in ("token-a", "token-b")
            for name in ("m", "n")
        ]
        await api.until_metric("mlflow_proxy_queue_depth", len(others))
        workspace.release()
        assert (await refused).status == 404
        await cancelled(others)
    targets = [arrival.target for arrival in workspace.arrivals]
    assert targets[:2] == [f"{API}{MODEL}?name=refused"] * 2


_DESCRIBED = b'{"registered_model": {"name": "m", "creation_timestamp": 1}}'


@pytest.mark.parametrize("starter_leaves", [False, True])
async def test_who_joins_a_call_of_one_with_many_waits_in_its_own_place(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession, starter_leaves: bool
) -> None:
    """The listing and the look at the version's status before it, each in the place of who joined."""
    budget = BudgetSettings(registry_limit=4, patience=600)
    async with proxied(workspace.url, budget=budget, access=AccessSettings(sharing="proven")) as url:
        api = Api(session, url)
        # Nothing may leave over a connection that is open already: it would count from when it was sent.
        workspace.fault = lambda _: Answer(200, _DESCRIBED, {"Connection": "close"})
        for token in ("heavy", "one"):
            assert (await api.get(MODEL, token=token, name="m")).status == 200
        workspace.fault = no_fault
        workspace.hold()
        heavy = [
            asyncio.create_task(api.get(SIGN, token="heavy", name="m", version="1", path=f"p{n}"))
            for n in range(30)
        ]
        await workspace.until(count(2 + 4))
        await api.until_metric("mlflow_proxy_queue_depth", 26)
        starter = asyncio.create_task(api.get(LIST, token="heavy", name="m", version="1"))
        await api.until_metric("mlflow_proxy_queue_depth", 27)
        guest = asyncio.create_task(api.get(LIST, token="one", name="m", version="1"))
        while (await api.budgets())["registry"]["clients"] < 2:
            await settle()
        assert await api.metric("mlflow_proxy_queue_depth") == 27
        if starter_leaves:
            await cancelled([starter])
            await settle()
        workspace.release()
        reply = await guest
        assert (reply.status, reply.outcome) == (200, COLLAPSED)
        await cancelled([*heavy, starter])
    arrived = [arrival.endpoint for arrival in workspace.arrivals[2 + 4 :]]
    assert arrived.count(LIST) == 1
    # One of the thirty leaves before each.
    assert arrived.index(LIST) <= 3 + 2 * OVERTAKEN


async def test_a_client_that_is_always_refused_does_not_hold_up_others(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    refusing = True

    def refuse(request: web.Request) -> Fault | None:
        bad = request.headers.get("Authorization") == "Bearer bad"
        return Answer(429, REFUSAL) if bad and refusing else None

    workspace.fault = refuse
    async with proxied(workspace.url, budget=BudgetSettings(registry_limit=8, patience=600)) as url:
        api = Api(session, url)
        bad = [asyncio.create_task(api.get(MODEL, token="bad", name=f"m{number}")) for number in range(3)]
        await workspace.until(count(3))
        good = [
            asyncio.create_task(api.get(MODEL, token=token, name=f"m{number}"))
            for token in ("a", "b", "c")
            for number in range(6)
        ]
        assert {(await call).status for call in good} == {404}
        assert (await api.budgets())["registry"]["refused_alone"] == 1
        assert not any(call.done() for call in bad)
        refusing = False
        assert {(await call).status for call in bad} == {404}
        assert (await api.budgets())["registry"]["refused_alone"] == 0


async def test_who_joined_the_call_of_a_client_that_is_always_refused_asks_anew(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    refusing = False

    def refuse(request: web.Request) -> Fault | None:
        bad = request.headers.get("Authorization") == "Bearer bad"
        return Answer(429, REFUSAL) if bad and refusing else None

    workspace.fault = refuse
    budget = BudgetSettings(registry_limit=8, patience=600)
    async with proxied(workspace.url, budget=budget, access=AccessSettings(sharing="proven")) as url:
        api = Api(session, url)
        listing = {"name": "m", "version": "1"}
        for token in ("bad", "a", "b"):
            assert (await api.get(SIGN, token=token, path="MLmodel", **listing)).status == 200
        refusing = True
        bad = asyncio.create_task(api.get(LIST, token="bad", **listing))
        await workspace.until(lambda arrivals: bool(arrivals.to(LIST)))
        good = [asyncio.create_task(api.get(LIST, token=token, **listing)) for token in ("a", "b")]
        # What tells that the refusals are the one client's: others are answered meanwhile.
        answered = [asyncio.create_task(api.get(MODEL, token="c", name=f"m{number}")) for number in range(10)]
        assert {(await call).status for call in good} == {200}
        assert not bad.done()
        assert {(await call).status for call in answered} == {404}
        refusing = False
        assert (await bad).status == 200


@pytest.mark.parametrize(
    ("setting", "budget"),
    [
        ("budget.queue_per_client", BudgetSettings(registry_limit=4, queue_per_client=3, patience=600)),
        ("budget.queue_total", BudgetSettings(registry_limit=4, queue_total=3, patience=600)),
    ],
)
async def test_who_queues_too_much_is_told_the_setting(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession, setting: str, budget: BudgetSettings
) -> None:
    workspace.hold()
    async with proxied(workspace.url, budget=budget) as url:
        api = Api(session, url)
        waiting = {asyncio.create_task(api.get(MODEL, name=f"m{number}")) for number in range(12)}
        while len(waiting) > 4 + 3:
            refused, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for one in refused:
                assert_busy(one.result())
                assert setting in one.result().json()["message"]
        await workspace.until(count(4))
        assert await api.metric("mlflow_proxy_queue_depth", group="registry") == 3
        other = asyncio.create_task(api.get(MODEL, token="other", name="m"))
        if setting == "budget.queue_per_client":
            await api.until_metric("mlflow_proxy_queue_depth", 4, group="registry")
            workspace.release()
            assert (await other).status == 200
        else:
            assert_busy(await other)
            workspace.release()
        assert [(await call).status for call in waiting] == [404] * 7
        assert await api.metric("mlflow_proxy_queue_depth") == 0
    assert workspace.arrivals.statuses()[429] == 0


async def test_a_queue_that_everyone_left_is_free(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    workspace.hold()
    budget = BudgetSettings(registry_limit=1, queue_per_client=20, queue_total=40, patience=600)
    async with proxied(workspace.url, budget=budget) as url:
        api = Api(session, url)
        left = asyncio.create_task(api.get(MODEL, token="a", name="left"))
        await workspace.until(count(1))
        calls = [
            asyncio.create_task(api.get(MODEL, token=token, name=f"m{number}"))
            for token in ("a", "b", "c")
            for number in range(20)
        ]
        await api.until_metric("mlflow_proxy_queue_depth", 40)
        assert (await api.budgets())["registry"]["clients"] >= 2
        await cancelled(calls)
        await api.until_metric("mlflow_proxy_queue_depth", 0)
        await cancelled([left])  # last, since it keeps the others from leaving
        await api.until_metric("mlflow_proxy_flights", 0)
        assert (await api.budgets())["registry"]["clients"] == 0
        workspace.release()
        assert (await api.get(MODEL, name="m")).status == 200
    assert len(workspace.arrivals) == 2
