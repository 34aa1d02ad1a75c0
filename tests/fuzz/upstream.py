"""The far side: a workspace and a storage that take nothing but perfect requests, and tell what they got.

Each answer says what was asked, as far as it may depend on it: an answer that reaches somebody who asked
something else, or under another credential, shows.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, quote

from tests.fuzz.http1 import DoubtfulError, IncompleteError, Message, take_request

CANARY = "canary"
"""A model that is asked for between batches, to see that nobody spoilt what is stored about it."""
SECRET = "secret"
"""A model that only credentials with ``may`` in them may read."""
MISSING = "missing"
TREASURE = "what-only-those-may-see-who-may"
BROKEN = "broken"
"""What has this in its target, method HEAD apart, is answered with a body that breaks off."""
UPSTREAM = "X-Content-Type-Options"
"""Response field of the workspace, which marks what is not the proxy's own."""
SIGNED_UNTIL = "X-Amz-Date=20990101T000000Z&X-Amz-Expires=900"


def digest(*parts: str) -> str:
    """Name a question such that no two share the name."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def meaning(target: bytes) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return the path of a target, and what its query says, whatever its spelling."""
    path, _, query = target.decode("latin-1").partition("?")
    return path, tuple(sorted(parse_qsl(query, keep_blank_values=True)))


def body_meaning(body: bytes) -> object:
    """Return what a body says: its JSON, else its digest."""
    try:
        return json.loads(body)
    except ValueError:
        return hashlib.sha256(body).hexdigest()


ALIKE: dict[str, dict[str, object]] = {
    "registered-models/list": {"registered_models": []},
    "registered-models/search": {"registered_models": []},
    "registered-models/get-latest-versions": {"model_versions": []},
    "model-versions/search": {"model_versions": []},
    ".well-known/databricks-config": {"oidc_endpoint": "https://workspace.test"},
    ".well-known/oauth-authorization-server": {
        "authorization_endpoint": "https://workspace.test",
        "token_endpoint": "https://workspace.test",
    },
}
"""What is said in answers of an endpoint, whatever was asked: without it none is kept."""

Answer = Callable[[Message], tuple[int, bytes]]


@dataclass
class Recorder:
    """A server that notes what arrives.

    ``requests`` are complete; ``begun`` are the heads of those whose connection ended before they were;
    ``violations`` are what no perfect client sends, with all that came over the connection.
    """

    answer: Answer
    mark: str
    requests: list[Message] = field(default_factory=list)
    begun: list[Message] = field(default_factory=list)
    violations: list[tuple[str, bytes]] = field(default_factory=list)
    url: str = ""

    async def __aenter__(self) -> Self:
        self._open: set[_Connection] = set()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self, self._open), "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for each in list(self._open):
            each.transport.abort()

    def forget(self) -> None:
        """Begin anew."""
        self.requests, self.begun, self.violations = [], [], []


class _Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, recorder: Recorder, open_: set["_Connection"]) -> None:
        self._recorder, self._open, self._data, self._seen = recorder, open_, b"", b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        try:
            take_request(self._data)
        except IncompleteError as error:
            if error.head is not None:
                self._recorder.begun.append(error.head)
        except DoubtfulError:
            pass  # noted when it came

    def data_received(self, data: bytes) -> None:
        self._data += data
        while self._data:
            try:
                request, rest = take_request(self._data)
            except IncompleteError:
                return
            except DoubtfulError as error:
                self._recorder.violations.append((error.reason, self._data))
                self.transport.abort()
                return
            if not request.target.startswith(b"/") or request.first[2] != b"HTTP/1.1":
                self._recorder.violations.append(("target or version", self._data))
            self._data = rest
            self._recorder.requests.append(request)
            status, body = self._recorder.answer(request)
            answer = _response(request, status, body, self._recorder.mark)
            if BROKEN.encode() in request.target and request.method != b"HEAD":
                self.transport.write(answer[:-10])
                self.transport.close()
                return
            self.transport.write(answer)


def _response(request: Message, status: int, body: bytes, mark: str) -> bytes:
    head = f"HTTP/1.1 {status} Such\r\nContent-Type: application/json\r\n{mark}\r\n".encode()
    if request.method == b"HEAD":
        return head + b"Content-Length: %d\r\n\r\n" % len(body)
    if len(request.target) % 3 == 0:
        return head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def workspace(storage: Callable[[], str], *, echo: bool) -> Answer:
    """Return a workspace's answers; ``storage`` says where files are.

    With ``echo`` each answer shows the credential it was asked with. Without, answers about models do not:
    they may be shared by those who may see them.
    """

    def answer(request: Message) -> tuple[int, bytes]:
        path, asked = meaning(request.target)
        parameters = dict(asked)
        shown = b" ".join(request.all(b"authorization") + request.all(b"cookie")).decode("latin-1")
        body = body_meaning(request.body)
        named = body.get("name") if isinstance(body, dict) else None
        model, version = parameters.get("name", named or ""), parameters.get("version", "")
        if model == SECRET and "may" not in shown:
            return 403, b'{"error_code": "PERMISSION_DENIED", "message": "no"}'
        if model == MISSING:
            return 404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no"}'
        said: dict[str, object] = {"asked": [path, asked], "method": request.method.decode("latin-1")}
        if model == SECRET:
            said["treasure"] = TREASURE
        endpoint = "/".join(path.split("/")[-2:])
        shared = model and endpoint != "registered-models/get" and "search" not in endpoint
        if echo or not shared:
            said["shown"] = shown
        if request.body:
            said["body"] = body
        said |= ALIKE.get(endpoint, {})
        match endpoint:
            case "registered-models/get":
                said["registered_model"] = {"name": model, "creation_timestamp": 1}
            case "registered-models/alias":
                said["model_version"] = {"name": model, "version": "1", "status": "READY"}
            case "model-versions/get":
                said["model_version"] = {"name": model, "version": version, "status": "READY"}
            case "model-versions/get-download-uri":
                said["artifact_uri"] = f"dbfs:/databricks/{digest(model, version)}"
            case "model-versions/list-artifacts":
                where = parameters.get("path", "").rstrip("/")
                name = f"{where}/{digest(model, version, where)}".lstrip("/")
                said["files"] = [{"path": name, "is_dir": False, "file_size": 3}]
            case "model-versions/get-signed-download-uri":
                name = digest(model, version, where := parameters.get("path", ""))
                broken = f"{BROKEN}=1&" if BROKEN in where else ""
                said["signed_uri"] = (
                    f"{storage()}/{name}/{quote(where)}?{broken}{SIGNED_UNTIL}&X-Amz-Signature={digest(name)}"
                )
                said["headers"] = [{"name": "x-amz-signed", "value": name}]
        return 200, json.dumps(said).encode()

    return answer


def stored(request: Message) -> tuple[int, bytes]:
    """Return a storage's answer: the name under which the workspace signed it."""
    path, asked = meaning(request.target)
    name = path.removeprefix("/").partition("/")[0]
    if dict(asked).get("X-Amz-Signature") != digest(name) or request.all(b"x-amz-signed") != (name.encode(),):
        return 403, b"<Error/>"
    return 200, name.encode()
