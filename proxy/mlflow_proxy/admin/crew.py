"""Merge status and metrics of all workers; the worker that is asked queries its peers.

Each worker has a listening socket for this that its parent opened, on the loopback interface and not in a
directory: it outlives the worker, needs no file system that can be written to, and leaves nothing behind. It
shows no more than the shared address does.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from mlflow_proxy.admin import samples
from mlflow_proxy.admin.entrance import Entrance, only
from mlflow_proxy.admin.handlers import PREFIX
from mlflow_proxy.listener.accepting import Site
from mlflow_proxy.listener.connection import Timeouts
from mlflow_proxy.listener.hosts import LOOPBACK_ONLY
from mlflow_proxy.listener.runner import BoundedRunner, Handler

_PATIENCE = 1.0
"""Seconds for a worker's answer; one that takes longer is left out."""
_MOST_CLIENTS = 32
"""Connections at once that ask one worker: each of the others may have several to answer at a time."""


def apart(registry: CollectorRegistry, status: Callable[[], Mapping[str, object]]) -> dict[str, Handler]:
    """Return the handlers of ``/-/NAME`` by which a worker speaks for itself alone."""

    async def own_samples(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response(samples.taken(registry))

    async def own_status(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response(status())

    return {"samples": own_samples, "status.json": own_status}


def together(crew: Sequence[str]) -> dict[str, Handler]:
    """Return the handlers of ``/-/NAME`` that speak for all; ``crew`` is each worker's own URL."""

    async def metrics(request: web.BaseRequest) -> web.StreamResponse:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        registry = samples.merged(await _ask(crew, "samples"))
        # In a thread, since it takes as long as all workers' metrics one after the other.
        body = await asyncio.to_thread(encode, registry)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def status_json(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"workers": await _ask(crew, "status.json")})

    return {"metrics": metrics, "status.json": status_json}


@asynccontextmanager
async def answer_apart(handlers: Mapping[str, Handler], listening: socket.socket) -> AsyncIterator[None]:
    """Answer the other workers until the context is left."""
    own = only(LOOPBACK_ONLY, Entrance(handlers, {}, token="").handle)
    timeouts = Timeouts(_PATIENCE, _PATIENCE, _PATIENCE)
    runner = BoundedRunner(own, _MOST_CLIENTS, "of one worker", timeouts, shutdown_timeout=_PATIENCE)
    await runner.setup()
    try:
        await Site(runner, listening, alone=True).start()
        yield
    finally:
        await runner.cleanup()


async def _ask(crew: Sequence[str], name: str) -> dict[str, Any]:
    """Return what the workers say, by their number, without those that do not answer in time."""
    async with aiohttp.ClientSession() as session:
        said = await asyncio.gather(*(_ask_one(session, url + PREFIX + name) for url in crew))
    return {str(number): each for number, each in enumerate(said) if each is not None}


async def _ask_one(session: aiohttp.ClientSession, url: str) -> Any:
    try:
        async with asyncio.timeout(_PATIENCE), session.get(url, raise_for_status=True) as response:
            return await response.json()
    except (aiohttp.ClientError, TimeoutError):
        return None
