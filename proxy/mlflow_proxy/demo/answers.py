"""What an emulated server sends back, and the ways a test can make that go wrong.

What belongs here: the answer as data, the family of faults, and the one place that writes to a connection.
"""

import asyncio
import json
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from multidict import CIMultiDict

from mlflow_proxy.demo.models import Content, chunks, part


@dataclass(frozen=True)
class Answer:
    """A whole answer. As a fault it replaces the true one, and the call has no effect."""

    status: int
    body: Content = b""
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Delay:
    """Answer truly, `seconds` later."""

    seconds: float


@dataclass(frozen=True)
class Hang:
    """Answer truly once `until` is set; by default never."""

    until: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class Reset:
    """Reset the connection (TCP RST) instead of answering."""


@dataclass(frozen=True)
class Truncate:
    """Send the head, with the full Content-Length, and `size` bytes of the body, then close."""

    size: int


Fault = Answer | Delay | Hang | Reset | Truncate
"""A call takes effect when it arrives; every fault but `Answer` concerns only what is sent back."""

FaultHook = Callable[[web.Request], Fault | None]
"""Asked about every request; None means no fault."""


def no_fault(_: web.Request) -> None:
    """Let every request through: the hook to begin with."""


class ApiError(Exception):
    """An error the API answers as JSON: HTTP status, `error_code` and message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    def answer(self, headers: Mapping[str, str] | None = None) -> Answer:
        """Return the error in the API's shape."""
        return json_answer({"error_code": self.code, "message": str(self)}, self.status, headers)


def json_answer(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Return `document` as the API sends it."""
    body = json.dumps(document, ensure_ascii=False).encode()
    return Answer(status, body, {"Content-Type": "application/json; charset=utf-8", **(headers or {})})


async def deliver(request: web.Request, answer: Answer, fault: Fault | None) -> web.StreamResponse:
    """Send `answer`, as `fault` spoils it. The caller has already put an `Answer` fault in its place."""
    match fault:
        case Delay(seconds):
            await asyncio.sleep(seconds)
        case Hang(until):
            await until.wait()
        case Reset():
            _reset(request)
            return web.Response()
        case Truncate(size):
            response = await _stream(request, answer, size)
            if request.transport is not None:
                request.transport.close()
            return response
        case _:
            pass
    headers = CIMultiDict(answer.headers)
    if isinstance(answer.body, bytes):
        return web.Response(status=answer.status, headers=headers, body=answer.body)
    return await _stream(request, answer, len(answer.body))


async def _stream(request: web.Request, answer: Answer, size: int) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=CIMultiDict(answer.headers))
    response.content_length = len(answer.body)
    await response.prepare(request)
    for chunk in chunks(part(answer.body, 0, min(size, len(answer.body)))):
        await response.write(chunk)
    return response


def _reset(request: web.Request) -> None:
    transport = request.transport
    if not isinstance(transport, asyncio.Transport):
        return  # the client has gone already
    connection = transport.get_extra_info("socket")
    # Closing with a linger time of zero sends RST; without it the client would see an orderly end.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
