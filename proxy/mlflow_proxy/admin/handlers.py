"""Health and metrics: for orchestrators and Prometheus, not for MLflow clients."""

import asyncio
from collections.abc import Callable, Mapping

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from mlflow_proxy.errors import AnswerableError
from mlflow_proxy.listener.runner import Handler
from mlflow_proxy.upstream.circuit import Circuit
from mlflow_proxy.upstream.circuit_breaker import Said, State
from mlflow_proxy.upstream.client import HttpClient
from mlflow_proxy.upstream.retry import UNAVAILABLE

PREFIX = "/-/"

_PROBE_SECONDS = 3.0
"""A readiness check must end well within the usual probe time-outs of orchestrators."""
_PROBE_LIFETIME = 5.0
"""Seconds for which a readiness result is reused, so that probes do not load the workspace."""


class Readiness:
    """Whether the workspace can be reached at all, and clients' calls are tried.

    Any HTTP answer is a yes, but one that says that the workspace is unavailable while it says so to clients
    too. Asking goes through the circuit, so that a proxy that gets no calls as long as it is not ready finds
    out all the same when the workspace is back.
    """

    def __init__(self, client: HttpClient, origin: str, circuit: Circuit, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._circuit = circuit
        self._url = origin + "/.well-known/databricks-config"
        self._asking = asyncio.Lock()
        self._problem: str | None = None
        self._status: int | None = None
        self._asked_at = float("-inf")
        self.leaving = False
        """Whether the proxy is stopping, so that clients should send no new requests."""

    async def problem(self) -> str | None:
        """Return what is wrong, None if nothing is."""
        if self.leaving:
            return "The proxy is stopping."
        if (refused := self._circuit.problem()) is not None:
            return refused
        async with self._asking:
            now = self._clock()
            if now - self._asked_at >= _PROBE_LIFETIME:
                self._problem = self._status = None
                try:
                    self._status = await self._ask()
                except AnswerableError as error:
                    self._problem = str(error)
                self._asked_at = now
            if self._status in UNAVAILABLE and self._circuit.state is not State.CLOSED:
                return f"The workspace answers {self._status}."
            return self._problem

    async def _ask(self) -> int:
        """Ask the workspace for something that it has without a credential; return the answer's status."""
        with self._circuit.through(None, telling=False) as note_answer:
            # A new connection: whether one can be made is what is asked.
            async with self._client.open("GET", self._url, (), within=_PROBE_SECONDS, idle=0) as response:
                note_answer(Said.REACHED)
                return response.status


def handlers(
    registry: CollectorRegistry,
    readiness: Readiness,
    status: Callable[[], Mapping[str, object]],
    detail: Callable[[], Mapping[str, object]],
) -> dict[str, Handler]:
    """Return the handlers of ``/-/NAME`` by name; ``detail`` is what readiness does not hang on."""

    async def healthz(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"status": "ok"})

    async def readyz(request: web.BaseRequest) -> web.StreamResponse:
        problem = await readiness.problem()
        if problem is None:
            return web.json_response({"status": "ready", **detail()})
        return web.json_response({"status": "not ready", "reason": problem, **detail()}, status=503)

    async def metrics(request: web.BaseRequest) -> web.StreamResponse:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    async def status_json(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response(status())

    return {"healthz": healthz, "readyz": readyz, "metrics": metrics, "status.json": status_json}
