"""Door A: the part of the mlflow-artifacts API that serves files of registered models.

Listings are put together from the registry's own; bytes are streamed from the storage that the workspace's
signed URL names. Storage gets the signed header fields and never the client's credentials.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from urllib.parse import unquote

import aiohttp
import structlog
from aiohttp import web

from mlflow_proxy.access.sharing import Caller
from mlflow_proxy.artifacts.directories import EMPTY
from mlflow_proxy.artifacts.listings import Found, Listings
from mlflow_proxy.artifacts.names import Names
from mlflow_proxy.artifacts.registry import FileRegistry
from mlflow_proxy.artifacts.storage import Storage
from mlflow_proxy.errors import (
    BadGatewayError,
    BadRequestError,
    FileNotThereError,
    NotOfferedError,
    ReadOnlyError,
    RefusedDestinationError,
    RefusedRedirectError,
    TooLargeToShareError,
    TruncatedError,
    UnusableNameError,
)
from mlflow_proxy.listener.memo import Hit
from mlflow_proxy.metrics import Metrics
from mlflow_proxy.mlflow_api.answers import json_object, signed_url
from mlflow_proxy.mlflow_api.artifact_paths import ModelFile, is_ours, parse
from mlflow_proxy.mlflow_api.client_names import shown
from mlflow_proxy.mlflow_api.messages import StoredResponse
from mlflow_proxy.mlflow_api.reads import parameters
from mlflow_proxy.mlflow_api.signed_urls import has_ended
from mlflow_proxy.outcome import Outcome
from mlflow_proxy.pipeline import Pipeline
from mlflow_proxy.reading.answer import Answer
from mlflow_proxy.reading.memory import Memory
from mlflow_proxy.reading.writes import Writes
from mlflow_proxy.responses import Reply, relay, send_answer, send_whole
from mlflow_proxy.term import together
from mlflow_proxy.upstream.client import HttpClient, chunks, fields, read_whole
from mlflow_proxy.upstream.malformed import reason_phrase

log = structlog.get_logger(__name__)

PREFIXES = ("/api/2.0/mlflow-artifacts/", "/ajax-api/2.0/mlflow-artifacts/")

_SENT_AT_ONCE = 256 * 1024
"""Bytes of a listing. A larger one is sent by and by, as its client takes it."""
_LARGEST_ERROR = 64 * 1024
"""Bytes of an error of storage that are looked at."""
_ASKED_OF_STORAGE = frozenset({"if-range", "range"})
"""The client's request fields that mean something to storage. None of them may be a credential."""
_TOLD_BY_STORAGE = frozenset(
    {
        "accept-ranges",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "etag",
        "last-modified",
    }
)


class ArtifactFacade:
    """Serves ``mlflow-artifacts`` paths under the reserved prefix. ``memory`` is that of the pipeline."""

    def __init__(
        self, pipeline: Pipeline, writes: Writes, memory: Memory, storage: HttpClient, metrics: Metrics
    ) -> None:
        self._pipeline = pipeline
        self._registry = FileRegistry(pipeline, writes)
        self._listings = Listings(self._registry, memory.store, memory.clock)
        self._names = Names(self._listings)
        self._storage = Storage(storage, metrics)

    def handles(self, target: str) -> bool:
        """Whether a raw request target is about files under the reserved prefix."""
        raw_path, _, raw_query = target.partition("?")
        kind, path = _split(raw_path)
        if kind == "artifacts" and not path:
            return any(is_ours(value) for value in _listed(raw_query))
        return kind is not None and is_ours(path)

    async def handle(self, request: web.BaseRequest, caller: Caller) -> Reply:
        """Answer a request that ``handles`` said yes to. Raises AnswerableError."""
        raw_path, _, raw_query = request.raw_path.partition("?")
        kind, path = _split(raw_path)
        if kind == "presigned":
            raise NotOfferedError("Files of registered models are downloaded through the artifacts endpoint.")
        if request.method not in {"GET", "HEAD"}:
            raise ReadOnlyError("Files of registered models can only be read.")
        if kind != "artifacts":
            raise NotOfferedError("Files of registered models can only be listed and downloaded.")
        if path:
            return await self._send_file(request, caller, parse(_with_query(path, raw_query)))
        asked = parameters(raw_query)
        if asked is None or "path" not in asked:
            raise BadRequestError("A listing takes one parameter, path.")
        return await self._send_listing(request, caller, parse(asked["path"]))

    async def _send_listing(self, request: web.BaseRequest, caller: Caller, said: ModelFile) -> Reply:
        deadline = self._pipeline.deadline()
        meant = await self._names.meant(caller, said, "listing", deadline)
        if isinstance(meant, Answer):
            return await send_answer(request, meant)
        if meant.above is not None and meant.is_file:  # clients ask to learn just that
            found: Found | Answer = meant.above._replace(directory=EMPTY)
        else:
            found = await self._listings.find(caller, meant.file, deadline)
        found = found._replace(terms=together(meant.terms, found.terms))
        if isinstance(found, Answer):
            return await send_answer(request, found)
        if (unusable := found.directory.unusable) is not None:
            raise UnusableNameError(
                f"No client can have the file {shown(unusable.path)} of this directory: {unusable.why}. "
                "Register the model without it."
            )
        body, content = list(found.directory.chunks()), (("Content-Type", "application/json"),)
        length = sum(map(len, body))
        if length <= _SENT_AT_ONCE:
            complete = StoredResponse(200, "OK", content, b"".join(body))
            hit = None
            if (entry := found.entry) is not None and found.terms:
                hit = Hit(complete, entry.stored_at, entry.expires_at, found.terms)
            return await send_whole(request, complete, found.outcome, found.age, found.ttl, hit)
        fields = (*content, ("Content-Length", str(length)))
        return await relay(request, 200, "OK", fields, _by_turns(body), found.outcome, found.age, found.ttl)

    async def _send_file(self, request: web.BaseRequest, caller: Caller, said: ModelFile) -> Reply:
        if not said.path:
            raise BadRequestError("This names a whole model version; list it with ?path= to see its files.")
        deadline = self._pipeline.deadline()
        asked = [item for item in request.headers.items() if item[0].lower() in _ASKED_OF_STORAGE]
        meant = await self._names.meant(caller, said, "file", deadline)
        if isinstance(meant, Answer):
            return await send_answer(request, meant)
        file = meant.file
        signed_anew = False
        while True:
            answer = await self._registry.signed(caller, file, deadline)
            if answer.response.status != 200:
                return await send_answer(request, answer)
            signed = signed_url(json_object(answer.response.body) or {})
            if signed is None:
                raise BadGatewayError("The workspace did not name a place to download this file from.")
            try:
                async with self._storage.open(signed, asked) as response:
                    if response.status == 200 or (
                        response.status in {206, 416} and "Range" in request.headers
                    ):
                        return await _relay_file(request, response)
                    if response.status == 404:
                        raise FileNotThereError(f"The workspace's storage has no file {shown(file.path)}.")
                    ended = await _has_ended(response, deadline)
            except RefusedDestinationError as error:
                log.warning("signed URL refused", model=file.model, version=file.version, reason=str(error))
                await self._registry.disown(answer)
                raise
            except RefusedRedirectError as error:
                log.warning("redirect refused", model=file.model, version=file.version, reason=str(error))
                raise
            if ended:
                await self._registry.disown(answer)
            # A stored URL may have ended before its time; a new one decides. Nothing else needs a new one.
            if not ended or signed_anew or answer.outcome is not Outcome.HIT:
                raise BadGatewayError(
                    f"The workspace's storage answered {response.status} to a signed download."
                )
            signed_anew = True


def _split(raw_path: str) -> tuple[str | None, str]:
    """Split a raw path below the API prefix into its first segment and the rest, decoded once."""
    for prefix in PREFIXES:
        if raw_path.startswith(prefix):
            kind, _, rest = raw_path.removeprefix(prefix).partition("/")
            return kind, _decoded(rest)
    return None, ""


def _listed(raw_query: str) -> list[str]:
    asked = parameters(raw_query)
    if asked is not None:
        return [asked["path"]] if "path" in asked else []
    # Ambiguous: if any reading of it is ours, it is ours to refuse.
    return [unquote(part.partition("=")[2]) for part in raw_query.replace(";", "&").split("&")]


def _decoded(raw: str) -> str:
    try:
        return unquote(raw, errors="strict")
    except UnicodeDecodeError:
        # Kept undecodable on purpose: it is refused if it is ours, and passed through as it came if not.
        return unquote(raw, errors="replace").replace("\ufffd", "\x00")


def _with_query(path: str, raw_query: str) -> str:
    """Return what a GET of a file says: clients leave a question mark in a name as it is."""
    return f"{path}?{_decoded(raw_query)}" if raw_query else path


async def _by_turns(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Yield chunks; others have their turn between any two, also if the client takes all at once."""
    for chunk in chunks:
        yield chunk
        await asyncio.sleep(0)


async def _has_ended(response: aiohttp.ClientResponse, deadline: float) -> bool:
    """Whether storage's error is about the signed URL, so that a new one may be accepted."""
    body = b""
    if response.status == 400:
        try:
            async with asyncio.timeout_at(deadline):
                body = await read_whole(response, _LARGEST_ERROR)
        except (TimeoutError, TooLargeToShareError, TruncatedError) as error:
            log.info("error of storage is unreadable", reason=type(error).__name__)
    return has_ended(response.status, body)


async def _relay_file(request: web.BaseRequest, response: aiohttp.ClientResponse) -> Reply:
    told = [item for item in fields(response) if item[0].lower() in _TOLD_BY_STORAGE]
    reason = reason_phrase(response.reason)
    return await relay(request, response.status, reason, told, chunks(response), Outcome.FILE)
