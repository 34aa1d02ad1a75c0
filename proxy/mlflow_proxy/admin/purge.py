"""``/-/purge``: drop the stored answers about one model, or all.

What belongs here: the request's form, and the response.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import web

from mlflow_proxy.bodies import pieces
from mlflow_proxy.errors import BadRequestError
from mlflow_proxy.listener.runner import Handler
from mlflow_proxy.mlflow_api.reads import parameters
from mlflow_proxy.mlflow_api.strict_json import strict_json
from mlflow_proxy.reading.store import Invalidation
from mlflow_proxy.reading.writes import Purged

log = structlog.get_logger(__name__)

_LARGEST_BODY = 64 * 1024
_PATIENCE = 10.0
"""Seconds for the request's body."""
_USAGE = 'Send {"name": NAME}, {"name": NAME, "version": VERSION} or {"all": true} as JSON or as the query.'


def handler(purge: Callable[[Invalidation], Awaitable[Purged]]) -> Handler:
    """Return the handler of ``POST /-/purge``. It raises BadRequestError."""

    async def purge_asked(request: web.BaseRequest) -> web.StreamResponse:
        chosen = wanted(
            request.headers.get("Content-Type", ""), request.raw_path.partition("?")[2], await _body(request)
        )
        name = chosen.get("name")
        # A version's answers are dropped with its model's: what is kept for a fleet knows models only.
        what = Invalidation(None if name is None else frozenset({name}), files=True)
        purged = await purge(what)
        log.info("purged", **chosen, dropped=purged.dropped, fleet_told=purged.announced)
        return web.json_response({**chosen, "dropped": purged.dropped, "fleet_told": purged.announced})

    return purge_asked


def wanted(content_type: str, raw_query: str, body: bytes) -> dict[str, Any]:
    """Return what to purge: ``name``, perhaps ``version``, or ``all``. Raises BadRequestError.

    Only JSON is taken for a body: what a form in a web page can send is none.
    """
    if body and content_type.partition(";")[0].strip().lower() != "application/json":
        raise BadRequestError(f"The Content-Type must be application/json. {_USAGE}")
    if body and raw_query:
        raise BadRequestError(f"Either a body or a query. {_USAGE}")
    asked = _json(body) if body else parameters(raw_query)
    if asked is None:
        raise BadRequestError(_USAGE)
    match asked:
        case {"all": True | "true", **rest} if not rest:
            return {"all": True}
        case {"name": str(name), **rest} if name and not rest:
            return {"name": name}
        case {"name": str(name), "version": str(version), **rest} if name and version and not rest:
            return {"name": name, "version": version}
        case {"name": str(name), "version": int(version), **rest} if (
            name and version is not True and not rest
        ):
            return {"name": name, "version": str(version)}
    raise BadRequestError(_USAGE)


async def _body(request: web.BaseRequest) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(_PATIENCE):
            async for chunk in pieces(request.content):
                body += chunk
                if len(body) > _LARGEST_BODY:
                    raise BadRequestError(f"The body is larger than {_LARGEST_BODY} bytes. {_USAGE}")
    except TimeoutError:
        raise BadRequestError(f"The body did not arrive within {_PATIENCE:g} s.") from None
    return bytes(body)


def _json(body: bytes) -> Any:
    try:
        return strict_json(body)
    except ValueError:
        return None
