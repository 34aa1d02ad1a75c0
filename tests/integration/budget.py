"""Refusals of the workspace, calls of each budget group, and how it is seen what became of them."""

import asyncio
from collections.abc import Sequence
from typing import Any

from tests.integration.support import MODEL, Api, Reply

REFUSAL = b'{"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "no"}'


def assert_busy(reply: Reply) -> None:
    assert reply.status == 429
    assert int(reply.headers["Retry-After"]) >= 1
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.json()["error_code"] == "REQUEST_LIMIT_EXCEEDED"


async def cancelled(calls: Sequence[asyncio.Task[Reply]]) -> None:
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)


LIMITS = {"registry": 40, "runs-search": 7, "experiments": 7, "log-batch": 47, "tracking": 127}
CALLS = {
    "registry": ("GET", MODEL),
    "runs-search": ("POST", "runs/search"),
    "experiments": ("POST", "experiments/create"),
    "log-batch": ("POST", "runs/log-batch"),
    "tracking": ("POST", "runs/create"),
}
GROUPS = tuple(CALLS)


def call(api: Api, group: str, number: int = 0) -> asyncio.Task[Reply]:
    method, endpoint = CALLS[group]
    return asyncio.create_task(api.call(method, endpoint, {"name": f"m{number}"}))


def idle(limit: int) -> dict[str, Any]:
    """Return the status of a budget that was not used yet."""
    return {
        "limit": limit,
        "rate": limit,
        "in_window": 0,
        "queued": {"interactive": 0, "background": 0},
        "clients": 0,
        "outside": 0,
        "seconds_since_429": None,
        "pause_seconds": 0,
        "refused_alone": 0,
    }
