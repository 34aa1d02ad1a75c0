"""Passing a request through as it is, and its answer back as it comes."""

import asyncio

from aiohttp import web

from mlflow_proxy.access.sharing import Access, Caller
from mlflow_proxy.bodies import pieces
from mlflow_proxy.mlflow_api.headers import CLIENT, without
from mlflow_proxy.mlflow_api.messages import UpstreamRequest
from mlflow_proxy.mlflow_api.reads import written_models
from mlflow_proxy.mlflow_api.routes import Freshness, Invalidates, Route
from mlflow_proxy.outcome import Outcome
from mlflow_proxy.reading.memory import Memory
from mlflow_proxy.reading.store import Invalidation
from mlflow_proxy.reading.writes import Writes
from mlflow_proxy.responses import Reply, relay
from mlflow_proxy.upstream.client import chunks, fields
from mlflow_proxy.upstream.malformed import reason_phrase
from mlflow_proxy.workspace import Attempts, Call, Workspace

_OURS = frozenset({"host", "expect", CLIENT.lower()})
"""The client's ``Host`` names the proxy; ``Expect`` was answered by it."""


class Passing:
    """Passes requests on to the workspace, and notes what they may have changed there.

    ``patience`` are the seconds for which an answer is waited for.
    """

    def __init__(
        self, workspace: Workspace, access: Access, memory: Memory, writes: Writes, patience: float
    ) -> None:
        self._workspace = workspace
        self._access = access
        self._memory = memory
        self._writes = writes
        self._patience = patience

    async def forward(
        self, request: web.BaseRequest, route: Route, caller: Caller, body: bytes | None, deadline: float
    ) -> Reply:
        """Answer a request with what the workspace says. Raises AnswerableError.

        ``body`` is None if it is to be streamed; ``deadline`` is in the event loop's time.
        """
        passed = UpstreamRequest(
            request.method,
            request.raw_path,
            tuple(without(caller.fields, _OURS)),
            body or b"",
            caller.client,
            public=route.freshness is Freshness.DISCOVERY,
        )
        attempts = Attempts()
        call = Call(
            route.group,
            passed,
            lambda: deadline,
            shared=False,
            stream=pieces(request.content) if body is None else None,
            attempts=attempts,
            endpoint=route.endpoint,
        )
        written = _written(request, route, body)
        try:
            async with self._workspace.call(call) as response:
                if response.status == 401:
                    self._memory.refusals.note(caller.partition, None, self._memory.clock.now())
                if attempts.may_have_worked and written is not None:
                    # Before the answer goes out: every read that begins after it must see the write.
                    self._writes.note(written)
                    await self._writes.announced()
                return await relay(
                    request,
                    response.status,
                    reason_phrase(response.reason),
                    self._access.returned(fields(response)),
                    chunks(response),
                    Outcome.BYPASS,
                )
        except BaseException:
            if attempts.may_have_worked and written is not None:
                # An answer that was lost says nothing about the write: it may have happened, or do so yet.
                self._writes.note(written)
                asyncio.get_running_loop().call_later(self._patience, self._writes.note, written)
            raise


def _written(request: web.BaseRequest, route: Route, body: bytes | None) -> Invalidation | None:
    """Return what a request may change at the workspace, None for nothing."""
    if route.invalidates is Invalidates.NOTHING:
        return None
    models = None
    if route.invalidates is not Invalidates.REGISTRY and body is not None:
        models = written_models(request.raw_path.partition("?")[2], body)
    return Invalidation(models, files=models is None or route.invalidates is Invalidates.MODEL)
