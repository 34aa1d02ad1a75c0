"""Which requests a client's bytes are: aiohttp's parser is asked first, ``framing`` after it.

What either refuses becomes a request whose content is the error: so it is answered, logged and counted where
all others are, and in its turn. ``refusal`` recognises such a request. Nothing is read behind it.
"""

import re
from typing import Any, Protocol

from aiohttp import StreamReader, web
from aiohttp.http import HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import (
    BadHttpMessage,
    BadHttpMethod,
    BadStatusLine,
    HttpProcessingError,
    InvalidURLError,
    LineTooLong,
)
from aiohttp.streams import EMPTY_PAYLOAD
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from mlflow_proxy.errors import AnswerableError, BadRequestError
from mlflow_proxy.listener import framing

_REFUSED = RawRequestMessage(
    "GET", "/", HttpVersion11, CIMultiDictProxy(CIMultiDict()), (), True, None, False, False, URL("/")
)
"""Stands for a request that is refused whatever it says; its connection is closed."""
_MOST_OVERHEAD = 512 * 1024
"""Bytes of chunks' sizes, extensions and trailers in one body, beside five for each byte of data, which
chunks of one byte take. More than aiohttp reads at once (256 KiB), since that counts before it is parsed."""
_REASON = re.compile(r"[A-Za-z0-9 ',./()-]{1,100}")
"""What the parser says of an error if none of the client's bytes are in it."""

Messages = list[tuple[RawRequestMessage, StreamReader]]


def refusal(request: web.BaseRequest) -> AnswerableError | None:
    """Return the error to answer a request with, whatever it asks, if it broke a rule of this module."""
    error = request.content.exception()
    return error if isinstance(error, AnswerableError) else None


class Parser(Protocol):
    """What a server's connection asks of aiohttp's parser."""

    def feed_data(self, data: bytes) -> tuple[Any, bool, bytes]:
        """Return the requests whose heads ``data`` completes, whether it is upgraded, and the rest."""
        ...

    def pause_reading(self) -> None:
        """Keep further bytes until reading is resumed."""
        ...

    def message_consumed(self) -> None:
        """Note that a request was taken by a handler."""
        ...


class RequestReader:
    """A parser that refuses what ``framing`` does, and reads nothing behind what was refused.

    Attributes:
        handed: requests handed over so far, refused ones included.
        head: bytes read of a head that is not complete. Those that came together with the end of the request
            before are not counted.
        body: that of the last request.
        refused: whether one was.

    """

    __slots__ = ("_bytes", "_last", "_parser", "_unsaid", "body", "handed", "head", "refused")

    def __init__(self, parser: Parser) -> None:
        self._parser = parser
        self.refused = False
        self._unsaid: Messages = []
        self._last = False
        self._bytes = 0
        self.handed = 0
        self.head = 0
        self.body: StreamReader = EMPTY_PAYLOAD

    @property
    def ended(self) -> bool:
        """Whether nothing more is read."""
        return self.refused or (self._last and self.body.is_eof())

    @property
    def at_rest(self) -> bool:
        """Whether the next byte begins a request."""
        return not (self.head or self.refused or self._last) and self.body.is_eof()

    @property
    def unfinished(self) -> bool:
        """Whether the middle of a request was reached."""
        return self.head > 0 or not self.body.is_eof()

    def feed_data(self, data: bytes) -> tuple[Messages, bool, bytes]:
        """Return the requests that ``data`` completes the heads of. It is never upgraded."""
        return self._read(data), False, b""

    def pause_reading(self) -> None:
        """Leave it to the parser."""
        if not self.refused:
            self._parser.pause_reading()

    def message_consumed(self) -> None:
        """Leave it to the parser."""
        self._parser.message_consumed()

    def refuse(self, error: AnswerableError) -> None:
        """Read no further: the request in the middle of which the client is gets this answer.

        A request that is being answered fails where it reads its body; if it has been answered already, this
        is said behind it.
        """
        if self.refused:
            return
        self.refused = True
        self.head = 0
        if not self.body.is_eof():
            self.body.set_exception(error)
            self.body.feed_eof()
        self.body = EMPTY_PAYLOAD
        content = StreamReader(_NoFlowControl(), 1)  # type: ignore[arg-type]
        content.set_exception(error)
        content.feed_eof()
        self._unsaid.append((_REFUSED, content))

    def _read(self, data: bytes) -> Messages:
        messages: Messages = []
        in_body = not self.body.is_eof()
        if not self.ended:
            try:
                messages = list(self._parser.feed_data(data)[0])
            except HttpProcessingError as error:
                self.refuse(_explained(error))
            else:
                messages = self._checked(messages)
                self._measure(len(data), data, in_body=in_body, completed=bool(messages))
        messages += self._unsaid
        self._unsaid = []
        self.handed += len(messages)
        return messages

    def _checked(self, messages: Messages) -> Messages:
        passed: Messages = []
        for message, body in messages:
            try:
                framing.check(message.method, message.path, message.version, message.raw_headers)
            except AnswerableError as error:
                self.refuse(error)
                break
            self.body = body
            if message.upgrade or message.chunked or _closes(message):
                # Servers differ on whether the bytes behind an upgrade are HTTP, and the parser drops a
                # part of it. Behind chunks it takes a trailer for a field of the next request (aiohttp 3.14).
                self._last = True
                passed.append((message._replace(should_close=True), body))
                break
            passed.append((message, body))
        return passed

    def _measure(self, size: int, data: bytes, *, in_body: bool, completed: bool) -> None:
        if completed:
            self.head, self._bytes = 0, size
        elif in_body:
            self._bytes += size
        elif self.head or data.strip(b"\r\n"):  # empty lines before a request are none of it
            self.head += size
            if self.head > framing.LARGEST_HEAD:
                self.refuse(framing.too_large_head())
        if not self.body.is_eof() and self._bytes > 6 * self.body.total_bytes + _MOST_OVERHEAD:
            self.refuse(
                BadRequestError(f"A body's chunks may have {_MOST_OVERHEAD} bytes beside data, not more.")
            )


def _closes(message: RawRequestMessage) -> bool:
    """Whether it is the last (RFC 9112 section 9.3): the parser asks HTTP/1.0 for ``keep-alive`` alone."""
    if message.version >= HttpVersion11:
        return message.should_close
    values = message.headers.getall("Connection", ())
    return any(option.strip().lower() == "close" for value in values for option in value.split(","))


class _NoFlowControl:
    """The other end of a body that is complete and empty."""

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Nothing was paused."""


def _explained(error: HttpProcessingError) -> AnswerableError:
    """Return what to say of a parser's error. None of the client's bytes are repeated: they may be secret."""
    if isinstance(error, LineTooLong):
        return framing.too_long(error.args[1])
    if isinstance(error, InvalidURLError):
        return framing.bad_target()
    if "Too many headers" in error.message:
        return framing.too_many_fields()
    reason = ""
    if type(error) in {BadHttpMessage, BadStatusLine, BadHttpMethod}:
        reason = error.message.partition(":\n\n")[0].rpartition("\n")[2].strip().rstrip(".")
    said = f": {reason}" if _REASON.fullmatch(reason) is not None else ""
    return BadRequestError(f"The request is not well-formed HTTP/1.1 (RFC 9112){said}.")
