"""One client's connection: how long each part of an exchange on it may take, and how it ends.

What belongs here: the seam with aiohttp's server. These parts of aiohttp are not public, which is why
pyproject.toml holds it to a minor version; test_aiohttp_parts fails if one is gone, and the tests
of framing, slow clients and limits fail if one works otherwise.

    ``RequestHandler._parser``         there is no other place between the bytes and the handler that sees
                                       every head, and that can end a body whose framing breaks
    ``RequestHandler._drain_helper``   waits until a client has taken all that was written
    ``RequestHandler._next_keepalive_close_time``   when the connection has been idle for too long: requests
                                       that the memo answers pass the server by
    ``BaseSite._server``               what a site closes when it stops (in ``accepting``)
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from aiohttp import HttpVersion11, web

from mlflow_proxy.errors import AnswerableError, ClientTimeoutError
from mlflow_proxy.listener import framing
from mlflow_proxy.listener.memo import LONGEST_HEAD, Digest, Hit, Memo
from mlflow_proxy.listener.requests import Parser, RequestReader, refusal
from mlflow_proxy.listener.sockets import reset, unsent

_LINGER = 2.0
"""Seconds for a client to take notice of the end and close."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds.

    Attributes:
        head: from a connection's opening, or a further request's first byte, until its head is there.
        client: how long a client may send nothing of its request's body, or take nothing of its answer.
        idle: how long a connection is kept between requests.

    """

    head: float
    client: float
    idle: float


@dataclass(frozen=True, slots=True)
class Ending:
    """When connections end.

    ``stopping`` is whether it is too late for new requests; ``leaving`` is whether clients are asked to go
    elsewhere, which comes first.
    """

    stopping: Callable[[], bool]
    leaving: Callable[[], bool]


class ClientConnection(web.RequestHandler):
    """One connection."""

    __slots__ = (
        "_answered", "_asked", "_ending", "_event_loop", "_gone", "_hasher", "_heard", "_memo",
        "_of_address", "_reader", "_since", "_timeouts", "_timer", "_untaken", "_wire",
    )  # fmt: skip

    def __init__(
        self,
        manager: web.Server,
        *,
        loop: asyncio.AbstractEventLoop,
        timeouts: Timeouts,
        ending: Ending,
        memo: Memo | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            manager,
            loop=loop,
            keepalive_timeout=timeouts.idle,
            max_line_size=framing.LONGEST_TARGET,
            max_field_size=framing.LONGEST_FIELD,
            max_headers=framing.MOST_FIELDS,
            auto_decompress=False,
            **options,
        )
        self._event_loop = loop
        self._timeouts = timeouts
        self._ending = ending
        self._memo = memo
        self._hasher: Any = None
        self._of_address = False
        """Whether digests of heads are different for each address of a client."""
        self._asked: Digest | None = None
        """The head of the request under way, if it came alone."""
        self._reader = RequestReader(cast("Parser", self._parser))
        self._parser = cast("Any", self._reader)
        self._timer: asyncio.TimerHandle | None = None
        self._wire: asyncio.Transport | None = None
        self._gone: asyncio.Future[None] | None = None
        self._answered = 0
        self._since = self._heard = loop.time()
        """When the client's turn came, and when it last said something."""
        self._untaken: tuple[int, float] | None = None
        """Bytes of answers that the client had not taken when last looked at, and when that was."""

    @property
    def leaving(self) -> bool:
        """Whether the client is to send its next request elsewhere."""
        return self._ending.leaving()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request."""
        self._wire = cast("asyncio.Transport", transport)
        if self._ending.stopping():
            # aiohttp has closed all connections by now that it knew: it would keep this one for ever.
            self._wire.abort()
            return
        self._since = self._event_loop.time()
        super().connection_made(transport)
        if self._memo is not None:
            self._of_address = self._memo.by_address()
            self._hasher = self._memo.hasher(self._address() if self._of_address else "")
        self._watch()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Wait for nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
        self._wire = self._timer = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, or answer at once what the memo knows."""
        reader = self._reader
        self._heard = self._event_loop.time()
        self._asked = self._lone_head(data)
        if self._asked is not None and self._repeated(self._asked):
            return
        new = not reader.head
        super().data_received(data)
        if reader.unfinished:
            if new and reader.head and reader.handed:
                self._since = self._heard
            self._watch()

    def _lone_head(self, data: bytes) -> Digest | None:
        """Return the digest of a GET's head that came alone and whole, None for anything else."""
        if (
            data[:4] == b"GET "
            and data.find(b"\r\n\r\n") == len(data) - 4 <= LONGEST_HEAD
            and self._reader.handed == self._answered
            and self._hasher is not None
            and self._reader.at_rest
        ):
            hasher = self._hasher.copy()
            hasher.update(data)
            digest: Digest = hasher.digest()
            return digest
        return None

    def _repeated(self, asked: Digest) -> bool:
        """Whether a head was answered from the memo."""
        memo, wire = self._memo, self._wire
        if memo is None or wire is None or wire.is_closing():
            return False
        if wire.get_write_buffer_size() or self._ending.leaving():
            return False
        answer = memo.find(asked)
        if answer is None:
            return False
        wire.write(answer)
        self._reader.handed += 1
        self._answered += 1
        self._since = self._heard
        self._next_keepalive_close_time = self._heard + self._timeouts.idle
        if wire.get_write_buffer_size():
            self._look()
        return True

    def remember(self, request: web.BaseRequest, hit: Hit, count: Callable[[float], None]) -> None:
        """Let the memo answer a request's head next time; see its rules.

        The connection stays open behind the answer: else there is no ``hit``.
        """
        memo, asked = self._memo, self._asked
        if (
            memo is not None
            and asked is not None
            and self._reader.handed == self._answered + 1
            and request.version == HttpVersion11
            and "Expect" not in request.headers
            # Else the answer may rest on the client's address, of which the digest says nothing.
            and (self._of_address or not memo.by_address())
        ):
            memo.remember(asked, hit, count)

    def _address(self) -> str:
        """Return what the upstream may be told of this connection: the client's address, and the scheme."""
        peer = self.peername
        return f"{peer[0] if isinstance(peer, tuple) else peer} {self.ssl_context is not None}"

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on: while nothing was read, the client could not be heard."""
        super().resume_reading(resume_parser)
        self._heard = self._event_loop.time()
        if self._reader.unfinished:
            self._watch()

    def pause_writing(self) -> None:
        """Wait for the client to take what it was sent."""
        super().pause_writing()
        self._look()

    def resume_writing(self) -> None:
        """Go on: it has taken most of it."""
        super().resume_writing()
        self._untaken = None

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the end of an answer: then it is the client's turn."""
        finished = await super().finish_response(request, resp, start_time)
        self._answered += 1
        self._since = self._event_loop.time()
        if self._wire is not None and self._wire.get_write_buffer_size():
            # It may be about to be closed, which takes until all of it is taken.
            self._look()
        if self._reader.unfinished:
            self._watch()
        # What was refused behind this request has to be answered yet, and what came between them.
        last = refusal(request) is not None or self._answered == self._reader.handed
        if self._reader.ended and last and not finished[1]:
            await self._linger()
        return finished

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log an error, unless it is a broken rest of a body that no handler reads."""
        if not isinstance(kw.get("exc_info"), AnswerableError):
            super().log_exception(*args, **kw)

    async def _linger(self) -> None:
        """Let the client read its answer, although it may still be sending.

        What reaches a closed socket makes it reset the connection, and the answer is lost (RFC 9112 section
        9.6).
        """
        if self._wire is None or self._wire.is_closing():
            return
        if self._wire.can_write_eof():
            if not await self._end_sending(self._wire):
                return
        elif not self._reader.refused:
            return  # TLS has no half a close: a client that waits for the end would wait for all of this
        self._gone = self._event_loop.create_future()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER):
                await self._gone

    async def _end_sending(self, wire: asyncio.Transport) -> bool:
        """Close this side once the client has taken all; returns whether the client is still there.

        asyncio shuts down the socket here, or in a callback of its own if bytes wait to be sent, and lets the
        system's error out in both: the client may have reset the connection since the last byte was sent. So
        nothing is left to send first, and the error is caught.
        """
        wire.set_write_buffer_limits(0)
        try:
            await self._drain_helper()
            if wire.is_closing():
                return False
            wire.write_eof()
        except OSError:
            return False
        return True

    # -- deadlines -----------------------------------------------------------------------------------

    def _due(self) -> tuple[float, Callable[[], None]] | None:
        """Return the event loop's time at which the client must have done something, and what follows."""
        if self._wire is None:
            return None
        reader, timeouts = self._reader, self._timeouts
        due: list[tuple[float, Callable[[], None]]] = []
        if self._untaken is not None:
            due.append((self._untaken[1] + timeouts.client, self._see_what_is_taken))
        being_answered = reader.handed - self._answered
        if being_answered == 0 and (reader.head or not reader.handed):
            due.append((self._since + timeouts.head, self._end_head))
        elif being_answered == 1 and not reader.body.is_eof() and self._wire.is_reading():
            due.append((max(self._heard, self._since) + timeouts.client, self._end_body))
        return min(due, key=lambda each: each[0]) if due else None

    def _watch(self) -> None:
        """Set the timer, unless it is: one that is early finds out how much time is left."""
        due = self._due()
        if due is None:
            return
        if self._timer is not None:
            if self._timer.when() <= due[0]:
                return
            self._timer.cancel()
        self._timer = self._event_loop.call_at(due[0], self._ring)

    def _ring(self) -> None:
        self._timer = None
        due = self._due()
        if due is not None and due[0] <= self._event_loop.time():
            due[1]()
        self._watch()

    def _end_head(self) -> None:
        if not self._reader.head:
            self.force_close()
            # By TLS the connection is lost later, when the client has agreed: nothing is due till then.
            self._wire = None
            return
        self._refuse(
            f"The head of a request must be there {self._timeouts.head:g} s after its beginning, or its "
            "connection's (connections.head_timeout)."
        )

    def _end_body(self) -> None:
        self._refuse(
            f"Nothing of the body came for {self._timeouts.client:g} s (connections.client_timeout)."
        )

    def _refuse(self, message: str) -> None:
        self._reader.refuse(ClientTimeoutError(message))
        super().data_received(b"")

    def _look(self) -> None:
        """Note how much the client has not taken yet."""
        if self._wire is not None:
            self._untaken = unsent(self._wire), self._event_loop.time()
            self._watch()

    def _see_what_is_taken(self) -> None:
        if self._wire is None or self._untaken is None:
            return
        if not self._wire.get_write_buffer_size():
            self._untaken = None
        elif unsent(self._wire) < self._untaken[0] or self._is_writing():
            self._look()
        else:
            reset(self._wire)
            self._wire = None

    def _is_writing(self) -> bool:
        """Whether what the client has not taken may be new."""
        return self._reader.handed > self._answered and not self.writing_paused


def is_last(request: web.BaseRequest) -> bool:
    """Whether the connection is closed behind the answer to a request of a ``ClientConnection``."""
    connection = cast("ClientConnection", request.protocol)
    return not request.keep_alive or connection.leaving or refusal(request) is not None


def remember(request: web.BaseRequest, hit: Hit, count: Callable[[float], None]) -> None:
    """Let the memo of a request's connection repeat its answer; ``count`` is given the seconds each took."""
    cast("ClientConnection", request.protocol).remember(request, hit, count)
