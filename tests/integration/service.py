"""A proxy that is a service: its principal, its clients, and the files that name them."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.integration.support import API, MODEL, Head, Reply

PRINCIPAL, NEXT = "dapi-of-the-principal", "dapi-of-the-principal-2"
JOBS = {"job-a": "token-a", "job-b": "token-b"}
A: Head = [("Authorization", "Bearer token-a")]
GET = f"{API}{MODEL}?name=m"
SERVICE = "--access.sharing=service"


def replace(path: Path, text: str) -> None:
    """Put another file in the place of one, as `mv` and Kubernetes do."""
    other = path.with_suffix(".new")
    other.write_text(text)
    other.replace(path)


def clients_toml(clients: dict[str, str]) -> str:
    lines = [f'{name} = "sha256:{hashlib.sha256(t.encode()).hexdigest()}"' for name, t in clients.items()]
    return "\n".join(["[clients]", *lines, ""])


async def until(ask: Callable[[], Awaitable[Reply]], status: int) -> Reply:
    """Ask until the status changes from 200 to this one or back; the test's time-out is the limit."""
    while True:
        reply = await ask()
        if reply.status == status:
            return reply
        assert {reply.status, status} & {200}, reply.body
        await asyncio.sleep(0.02)
