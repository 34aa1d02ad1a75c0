"""Door A: the part of the mlflow-artifacts API that serves files of registered models.

Listings are put together from the registry's own; bytes are streamed from the storage that the workspace's
signed URL names. Storage gets the signed header fields and never the client's credentials.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import aiohttp
import structlog
from aiohttp import web

from proxy.access.sharing import Caller
from proxy.artifacts.storage import Storage
from proxy.errors import (
    BadRequestError,
    NotOfferedError,
    NotShareableError,
    ReadOnlyError,
    RefusedDestinationError,
    RefusedRedirectError,
    TooLargeToShareError,
    TruncatedError,
    UpstreamUnavailableError,
)
from proxy.metrics import Metrics
from proxy.mlflow_api.answers import Listed, json_object, listed, next_page, signed_url
from proxy.mlflow_api.artifact_paths import ModelFile, is_ours, parse
from proxy.mlflow_api.messages import StoredResponse
from proxy.mlflow_api.reads import parameters
from proxy.mlflow_api.signed_urls import has_ended
from proxy.outcome import Outcome
from proxy.pipeline import Pipeline
from proxy.reading.answer import Answer
from proxy.reading.writes import Writes
from proxy.responses import Reply, relay, send_answer
from proxy.upstream.client import HttpClient, chunks, fields, read_whole
from proxy.upstream.malformed import reason_phrase

log = structlog.get_logger(__name__)

PREFIXES = ("/api/2.0/mlflow-artifacts/", "/ajax-api/2.0/mlflow-artifacts/")

_LARGEST_LISTING = 32 * 2**20
"""Bytes of all pages of one directory, some 200,000 files, so that one whose last page never comes ends."""
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
    """Serves ``mlflow-artifacts`` paths under the reserved prefix."""

    def __init__(self, pipeline: Pipeline, writes: Writes, storage: HttpClient, metrics: Metrics) -> None:
        self._pipeline = pipeline
        self._writes = writes
        self._storage = Storage(storage, metrics)

    def handles(self, target: str) -> bool:
        """Whether a raw request target is about files under the reserved prefix."""
        raw_path, _, raw_query = target.partition("?")
        kind, path = _split(raw_path)
        if kind == "artifacts" and not path:
            return any(is_ours(value) for value in _listed(raw_query))
        return kind is not None and is_ours(path)

    async def handle(self, request: web.Request, caller: Caller) -> Reply:
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
            return await self._send_file(request, caller, parse(path))
        asked = parameters(raw_query)
        if asked is None or "path" not in asked:
            raise BadRequestError("A listing takes one parameter, path.")
        return await self._send_listing(request, caller, parse(asked["path"]))

    async def _send_listing(self, request: web.Request, caller: Caller, directory: ModelFile) -> Reply:
        deadline = self._pipeline.deadline()
        files: list[dict[str, Any]] = []
        page: dict[str, str] = {}
        shortest: Answer | None = None
        seen: set[str] = set()
        size = 0
        while True:
            answer = await self._ask(caller, "list-artifacts", directory, page, deadline)
            if answer.response.status != 200:
                return await send_answer(request, answer)
            if answer.ttl is not None and (shortest is None or answer.ttl < (shortest.ttl or 0.0)):
                shortest = answer
            try:
                found, token = _page(answer.response.body, directory.path)
                files += found
                if not token:
                    break
                size += len(answer.response.body)
                if token in seen or size > _LARGEST_LISTING:
                    raise UpstreamUnavailableError(
                        "The workspace's listing goes round, or has no end within "
                        f"{_LARGEST_LISTING >> 20} MiB."
                    )
            except UpstreamUnavailableError:
                await self._writes.disown(answer)
                raise
            seen.add(token)
            page = {"page_token": token}
        content = (("Content-Type", "application/json"),)
        complete = StoredResponse(200, "OK", content, json.dumps({"files": files}).encode())
        if shortest is not None and (shortest.outcome is Outcome.STALE or answer.outcome is Outcome.HIT):
            answer = shortest  # of stored pages the one speaks for all that expires, or has expired, first
        return await send_answer(request, answer, complete)

    async def _send_file(self, request: web.Request, caller: Caller, file: ModelFile) -> Reply:
        if not file.path:
            raise BadRequestError("This names a whole model version; list it with ?path= to see its files.")
        deadline = self._pipeline.deadline()
        asked = [item for item in request.headers.items() if item[0].lower() in _ASKED_OF_STORAGE]
        signed_anew = False
        while True:
            answer = await self._ask(caller, "get-signed-download-uri", file, {}, deadline)
            if answer.response.status != 200:
                return await send_answer(request, answer)
            signed = signed_url(json_object(answer.response.body) or {})
            if signed is None:
                raise UpstreamUnavailableError(
                    "The workspace did not name a place to download this file from."
                )
            try:
                async with self._storage.open(signed, asked) as response:
                    if response.status == 200 or (
                        response.status in {206, 416} and "Range" in request.headers
                    ):
                        return await _relay_file(request, response)
                    ended = await _has_ended(response, deadline)
            except RefusedDestinationError as error:
                log.warning("signed URL refused", model=file.model, version=file.version, reason=str(error))
                await self._writes.disown(answer)
                raise
            except RefusedRedirectError as error:
                log.warning("redirect refused", model=file.model, version=file.version, reason=str(error))
                raise
            if ended:
                await self._writes.disown(answer)
            # A stored URL may have ended before its time; a new one decides. Nothing else needs a new one.
            if not ended or signed_anew or answer.outcome is not Outcome.HIT:
                raise UpstreamUnavailableError(
                    f"The workspace's storage answered {response.status} to a signed download."
                )
            signed_anew = True

    async def _ask(
        self,
        caller: Caller,
        endpoint: str,
        file: ModelFile,
        page: Mapping[str, str],
        deadline: float,
    ) -> Answer:
        asked = {"name": file.model, "version": file.version, "path": file.path, **page}
        try:
            return await self._pipeline.ask(caller, f"model-versions/{endpoint}", asked, deadline)
        except TooLargeToShareError as error:
            raise UpstreamUnavailableError(
                f"The workspace's {endpoint} answer is larger than cache.max_entry_bytes allows ({error})."
            ) from error
        except NotShareableError as error:
            raise UpstreamUnavailableError(f"The workspace's {endpoint} answer came {error}.") from error


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


def _page(body: bytes, directory: str) -> tuple[list[dict[str, Any]], str]:
    """Return the entries of one page as this API has them, and the next page's token, "" for none."""
    answer = json_object(body)
    found = listed(answer, directory) if answer is not None else None
    token = next_page(answer) if answer is not None else None
    if found is None or token is None:
        raise UpstreamUnavailableError(
            "The workspace's answer is not a listing of files, or names one that no client can have."
        )
    return [_entry(file) for file in found], token


def _entry(file: Listed) -> dict[str, Any]:
    size = {} if file.size is None else {"file_size": file.size}
    return {"path": file.name, "is_dir": file.is_dir, **size}


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


async def _relay_file(request: web.Request, response: aiohttp.ClientResponse) -> Reply:
    told = [item for item in fields(response) if item[0].lower() in _TOLD_BY_STORAGE]
    reason = reason_phrase(response.reason)
    return await relay(request, response.status, reason, told, chunks(response), Outcome.FILE)
