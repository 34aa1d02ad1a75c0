"""Whatever the workspace says about when to return, the client gets a number in time."""

import time
from email.utils import formatdate

import aiohttp
import pytest

from mlflow_proxy.demo.answers import Answer
from mlflow_proxy.demo.workspace import EmulatedWorkspace
from mlflow_proxy.settings import BudgetSettings
from tests.integration.budget import REFUSAL, assert_busy
from tests.integration.support import MODEL, Api, Upstream, answering, first, proxied

HOURS = 3600


@pytest.mark.parametrize("off", [-5 * HOURS, 0, 5 * HOURS])
async def test_a_date_to_return_at_counts_from_the_answers_own_date(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession, off: int
) -> None:
    date = time.time() + off
    headers = {"Date": formatdate(date, usegmt=True), "Retry-After": formatdate(date + 30, usegmt=True)}
    workspace.fault = lambda _: Answer(429, REFUSAL, headers)
    async with proxied(workspace.url, budget=BudgetSettings(patience=10)) as url:
        api = Api(session, url)
        began = time.monotonic()
        reply = await api.get(MODEL, name="m")
        passed = time.monotonic() - began
        assert 0 < (await api.budgets())["registry"]["pause_seconds"] <= 30
    assert_busy(reply)
    assert 30 - passed <= int(reply.headers["Retry-After"]) <= 30 * 1.2
    assert len(workspace.arrivals) == 1


async def test_a_date_to_return_at_counts_from_now_if_the_answer_has_none(
    upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    asked = formatdate(time.time() + 40, usegmt=True)
    head = f"HTTP/1.1 429 Too Many Requests\r\nRetry-After: {asked}\r\nContent-Length: 0\r\n\r\n"
    upstream.respond = answering(head.encode())
    async with proxied(upstream.url, budget=BudgetSettings(patience=10)) as url:
        api = Api(session, url)
        assert_busy(await api.get(MODEL, name="m"))
        assert 10 < (await api.budgets())["registry"]["pause_seconds"] <= 40
    assert len(upstream.seen) == 1


NOW = "0", "Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"
UNREADABLE = "-5", "+1", "0.5", "1e3", "soon", "", "5 s", "1, 2", "\u00bd", "Sun, 99 Nov 1994 08:49:37 GMT"
NEVER = "9" * 30, "100000", "Fri, 31 Dec 9999 23:59:59 GMT"


@pytest.mark.parametrize("value", NOW + UNREADABLE)
async def test_a_refusal_that_does_not_say_when_to_return_is_repeated_soon(
    workspace: EmulatedWorkspace, api: Api, value: str
) -> None:
    workspace.fault = first(1, Answer(429, REFUSAL, {"Retry-After": value}))
    assert (await api.get(MODEL, name="m")).status == 200
    assert workspace.arrivals.statuses() == {429: 1, 200: 1}
    assert (await api.budgets())["registry"]["pause_seconds"] == 0


@pytest.mark.parametrize("value", NOW + UNREADABLE + NEVER)
async def test_whatever_the_workspace_says_the_client_gets_a_number_in_time(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession, value: str
) -> None:
    workspace.fault = lambda _: Answer(429, REFUSAL, {"Retry-After": value})
    # The next call may leave two seconds after the first, which nobody has the patience for.
    budget = BudgetSettings(registry_limit=1, jitter_margin=1, patience=1.9)
    async with proxied(workspace.url, budget=budget) as url:
        began = time.monotonic()
        reply = await Api(session, url).get(MODEL, name="m")
        passed = time.monotonic() - began
    assert_busy(reply)
    assert len(workspace.arrivals) == 1
    told = int(reply.headers["Retry-After"])
    if value in NEVER:
        # Hours would silence the client as well: it may look again when the proxy does.
        assert 60 - passed <= told <= 60 * 1.2
    else:
        assert told < 10
