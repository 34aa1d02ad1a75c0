"""The line that every request walks once, from left to right.

    request -> route -> access -> read (proof? store? same flight? fleet?) -> budget -> upstream (retry)
            -> store -> respond

The entrance (``app``) has found the route and the caller. Requests whose answers may be shared are read by
the stack of ``reading``; all others pass through (``passing``). Both end in ``Workspace.call``, which is the
part from budget to upstream.
"""

import asyncio
from collections.abc import Mapping

import structlog
from aiohttp import web

from mlflow_proxy.access.sharing import Caller
from mlflow_proxy.bodies import pieces
from mlflow_proxy.errors import NotShareableError
from mlflow_proxy.mlflow_api.api_prefixes import API_PREFIXES
from mlflow_proxy.mlflow_api.artifact_paths import rewrite_download_uri
from mlflow_proxy.mlflow_api.reads import Read, question_about, shareable
from mlflow_proxy.mlflow_api.routes import Group, Invalidates, Route
from mlflow_proxy.party import Party
from mlflow_proxy.passing import Passing
from mlflow_proxy.reading.answer import Answer, Reader
from mlflow_proxy.responses import Reply, send_answer

log = structlog.get_logger(__name__)

LARGEST_HELD_BODY = 2**20
"""Bytes. Request bodies up to this are held, to be understood and sent again after a 429; larger ones
stream through and get one attempt."""


class Pipeline:
    """Answers clients' requests, and questions that door A has to ask for its clients.

    ``patience`` are the seconds for which a request waits; ``rewrite_dbfs`` is whether clients
    fetch a version's files here (door A).
    """

    def __init__(self, reader: Reader, passing: Passing, patience: float, *, rewrite_dbfs: bool) -> None:
        self._reader = reader
        self._passing = passing
        self._patience = patience
        self._rewrite_dbfs = rewrite_dbfs
        self._loop = asyncio.get_running_loop()

    def deadline(self) -> float:
        """Return the event loop's time at which a request that arrives now loses patience."""
        return self._loop.time() + self._patience

    async def handle(self, request: web.BaseRequest, route: Route, caller: Caller) -> Reply:
        """Answer a client's request, whatever it is. Raises AnswerableError."""
        body = await _held_body(request, route)
        read = None
        if body is not None:
            read = shareable(route, request.method, request.raw_path, caller.fields, body, caller.partition)
        if read is not None:
            party = Party(caller.client, deadline=self.deadline())
            try:
                answer = await self._reader.read(read, caller, party)
            except NotShareableError as error:
                log.info("answer cannot be shared", route=route.name, reason=str(error))
            else:
                return await self._respond(request, read, answer)
        return await self._passing.forward(request, route, caller, body, self.deadline())

    async def ask(
        self, caller: Caller, endpoint: str, parameters: Mapping[str, str], deadline: float
    ) -> Answer:
        """Return the registry's answer to a question on behalf of a caller, which may refuse stored answers.

        ``endpoint`` is a shareable GET of the route table, such as ``model-versions/get``; ``deadline`` is in
        the event loop's time. Errors of the workspace are answers; raises AnswerableError when there is none,
        NotShareableError.
        """
        question = question_about(API_PREFIXES[0], endpoint, parameters, caller.partition)
        return await self._reader.read(question, caller, Party(caller.client, deadline=deadline))

    async def _respond(self, request: web.BaseRequest, read: Read, answer: Answer) -> Reply:
        response = answer.response
        if self._rewrite_dbfs and read.route.path == "model-versions/get-download-uri":
            response = rewrite_download_uri(response, read.model or "", read.version or "")
        return await send_answer(request, answer, response)


async def _held_body(request: web.BaseRequest, route: Route) -> bytes | None:
    """Return the request's body, or None if it is to be streamed."""
    if not request.can_read_body:
        return b""
    # A write of unknown reach drops everything, whatever its body says.
    named = route.invalidates not in {Invalidates.NOTHING, Invalidates.REGISTRY}
    matters = named or route.group is not Group.NONE
    size = request.content_length
    if matters and size is not None and size <= LARGEST_HELD_BODY:
        return b"".join([piece async for piece in pieces(request.content)])
    return None
