"""The storage origin: serves the files of model versions to clients with a signed URL.

What belongs here: the rules of a cloud's object storage that a proxy or a client can break. The signature,
its headers and its expiry are checked, and a request that has an Authorization header as well is refused, as
the clouds refuse two kinds of authentication at once.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import unquote
from xml.sax.saxutils import escape

from aiohttp import web

from mlflow_proxy.demo.answers import Answer
from mlflow_proxy.demo.journal import Arrival
from mlflow_proxy.demo.models import Content, Model, ModelVersion, part
from mlflow_proxy.demo.server import EmulatedServer
from mlflow_proxy.demo.signing import RefusedError, SignedUrl, Signer

GROUP = "storage"
_BUCKET = "/models/"


class EmulatedStorage(EmulatedServer):
    """The storage of the versions of `models`; `clock` is in seconds since 1970."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        signer: Signer,
        models: Mapping[str, Model],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        super().__init__(host, port, monotonic=monotonic)
        self._signer = signer
        self._models = models
        self._clock = clock

    def sign(self, version: ModelVersion, path: str) -> SignedUrl:
        """Return a URL for one file, valid from now."""
        return self._signer.sign(self.url, f"{_BUCKET}{version.storage_id}/{path}", self._clock())

    def _arrival(self, request: web.Request) -> Arrival:
        return Arrival(
            time=self._monotonic(),
            group=GROUP,
            method=request.method,
            endpoint=request.path,
            target=request.raw_path,
            token=None,
            headers=request.headers,
        )

    async def _answer(self, request: web.Request, arrival: Arrival) -> Answer:
        if "Authorization" in request.headers:
            return _error(400, "InvalidArgument", "Only one auth mechanism allowed")
        if request.method != "GET":
            return _error(405, "MethodNotAllowed", "The URL is signed for GET.")
        try:
            self._signer.verify(request.raw_path, request.headers, self._clock())
        except RefusedError as refused:
            return _error(403, "AccessDenied", str(refused))
        path = unquote(request.raw_path.partition("?")[0])
        storage_id, _, file = path.removeprefix(_BUCKET).partition("/")
        content = self._content(storage_id, file)
        if content is None:
            return _error(404, "NoSuchKey", "The specified key does not exist.")
        etag = f'"{hashlib.sha256(path.encode()).hexdigest()[:32]}"'
        return _respond(content, etag, request)

    def _content(self, storage_id: str, file: str) -> Content | None:
        for model in self._models.values():
            for version in model.versions.values():
                if version.storage_id == storage_id:
                    return version.files.get(file)
        return None


class _Span(NamedTuple):
    start: int
    stop: int


def _respond(content: Content, etag: str, request: web.Request) -> Answer:
    headers = {"Content-Type": "application/octet-stream", "ETag": etag, "Accept-Ranges": "bytes"}
    if request.headers.get("If-Range", etag) != etag:
        return Answer(200, content, headers)
    span = _span(request, len(content))
    if span is None:
        return Answer(200, content, headers)
    if span.start >= span.stop:
        unsatisfiable = {"Content-Range": f"bytes */{len(content)}"}
        return _error(416, "InvalidRange", "The requested range is not satisfiable", unsatisfiable)
    headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{len(content)}"
    return Answer(206, part(content, *span), headers)


def _span(request: web.Request, size: int) -> _Span | None:
    """Return the bytes asked for, an empty span if there are none; None if the whole is wanted."""
    try:
        asked = request.http_range
    except ValueError:
        return None  # a Range header that makes no sense, or names several ranges, is as good as absent
    if asked.start is None:
        return None
    start, stop, _ = asked.indices(size)
    return _Span(start, stop)


def _error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    )
    return Answer(status, body.encode(), {"Content-Type": "application/xml", **(headers or {})})
