"""The one entrance: every request comes in here, and every error leaves here as one of the API's."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from aiohttp import web
from structlog.contextvars import bind_contextvars

from mlflow_proxy.access.sharing import Access
from mlflow_proxy.admin.handlers import PREFIX
from mlflow_proxy.artifacts.facade import ArtifactFacade
from mlflow_proxy.errors import AnswerableError
from mlflow_proxy.forwarding import Forwarding
from mlflow_proxy.limits import InFlight
from mlflow_proxy.listener.connection import remember
from mlflow_proxy.listener.hosts import Hosts
from mlflow_proxy.listener.requests import refusal
from mlflow_proxy.metrics import Metrics
from mlflow_proxy.mlflow_api.routes import UNKNOWN, Group, Route, match, overrides_method
from mlflow_proxy.outcome import Outcome
from mlflow_proxy.pipeline import Pipeline
from mlflow_proxy.responses import send_error
from mlflow_proxy.term import Terms

log = structlog.get_logger(__name__)

_ARTIFACTS = Route((), "mlflow-artifacts/*", Group.NONE)
"""Labels requests that the façade answers."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a request meets, in this order.

    Attributes:
        hosts: the names that clients may call the proxy by.
        administer: answers requests under ``/-/``.
        in_flight: the requests that are being answered.
        forwarding: the request's fields, as the upstream may get them.
        access: determines the caller of a request.
        artifacts: answers requests for files of models (door A).
        pipeline: answers all others.

    """

    hosts: Hosts
    administer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
    in_flight: InFlight
    forwarding: Forwarding
    access: Access
    artifacts: ArtifactFacade
    pipeline: Pipeline


class App:
    """Answers requests, and counts them in ``metrics``."""

    def __init__(self, parts: Parts, metrics: Metrics) -> None:
        self._parts = parts
        self._metrics = metrics

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer any request: the one entrance."""
        began, parts = time.monotonic(), self._parts
        route = UNKNOWN
        terms: Terms = ()
        try:
            if (refused := refusal(request)) is not None:
                raise refused
            parts.hosts.check(request.headers.get("Host"))
            target = request.raw_path
            if target.startswith(PREFIX):
                return await parts.administer(request)
            with parts.in_flight.admitted():
                facade = parts.artifacts.handles(target)
                route = _ARTIFACTS if facade else _route(request, target)
                caller = await parts.access.admit(route, target, parts.forwarding.fields(request))
                terms = caller.terms
                if caller.name:
                    bind_contextvars(client=caller.name)
                if facade:
                    reply = await parts.artifacts.handle(request, caller)
                else:
                    reply = await parts.pipeline.handle(request, route, caller)
        except AnswerableError as failure:
            # What breaks a client's body on its way shows at its other end as well.
            error = refusal(request) or failure
            log.info("request failed", route=route.name, status=error.status, reason=str(error))
            reply = await send_error(request, error, Outcome.MISS)
        except Exception as error:
            # The last edge: a bug here must reach the client as an error of the API. An answer that had
            # begun cannot be mended; its connection is closed already.
            log.exception("request failed unexpectedly", route=route.name, kind=type(error).__name__)
            if request.transport is None or request.transport.is_closing():
                raise
            reply = await send_error(
                request, AnswerableError("The proxy failed; its log says why."), Outcome.MISS
            )
        outcome = reply.outcome if reply.ended else "aborted"
        tally = self._metrics.requests.tally(route.name, outcome, reply.status)
        tally.add(time.monotonic() - began)
        if reply.hit is not None and reply.ended:
            remember(request, reply.hit.under(terms), tally.add)
        return reply


def _route(request: web.BaseRequest, target: str) -> Route:
    path, _, query = target.partition("?")
    return match(request.method, path, overridden=overrides_method(request.headers, query))
