"""Structured logs, on standard error, with secrets taken out.

Tokens and signatures are kept out of log calls in the first place; the redaction here is the second lock.
It comes before a line waits to be written: see ``log_writer``.
"""

import io
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Literal, TextIO, cast

import structlog
from structlog.typing import EventDict, WrappedLogger

from mlflow_proxy.log_writer import LogWriter

_STANDARD_ERROR = 2
_LONGEST = 16 * 1024
"""Characters of one value: what waits to be written is bounded not only in lines."""

_SECRET = re.compile(
    r"""
    (?P<label>
        \b (?: Bearer | Basic ) \s+
      | \b (?: X-Amz-Signature | X-Amz-Security-Token | X-Goog-Signature | Signature | sig | AWSAccessKeyId
             | GoogleAccessId | token | password ) =
    )
    [^\s&"',;]+
    """,
    re.IGNORECASE | re.VERBOSE,
)
_USER = re.compile(r"(?<=://)[^\s/?#\"'@]+@")
_TOKEN = re.compile(r"\b(?:dapi|dose|dkea)[0-9a-f]{16,}\b")
_OF_SEVERAL_LINES = frozenset({"exception", "stack"})
_SECRET_FIELDS = frozenset({"authorization", "cookie", "password", "secret", "token"})


def redact(text: str) -> str:
    """Blank out bearer tokens, Databricks tokens, the signatures of storage URLs and the users of others."""
    return _TOKEN.sub("[redacted]", _USER.sub("[redacted]@", _SECRET.sub(r"\g<label>[redacted]", text)))


def _redact_event(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    for name, value in event.items():
        if name.lower() in _SECRET_FIELDS:
            event[name] = "[redacted]"
        elif isinstance(value, str):
            event[name] = redact(value)
    return event


def _shorten(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Leave out the middle of what is too long; after the redaction, which may need to see it."""
    for name, value in event.items():
        if isinstance(value, str) and len(value) > _LONGEST:
            event[name] = f"{value[: _LONGEST // 2]} [...] {value[-_LONGEST // 2 :]}"
    return event


def _keep_lines(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Escape what would begin another line or move a terminal's cursor, in names and values alike.

    Requests bring such text. JSON has escapes of its own; tracebacks keep their lines, set in so that none of
    them looks like one of the log.
    """
    kept: EventDict = {}
    for name, value in event.items():
        if isinstance(value, str):
            lines = value.split("\n") if name in _OF_SEVERAL_LINES else [value]
            kept[_printable(name)] = "\n    ".join(_printable(line) for line in lines)
        else:
            kept[_printable(name)] = value
    return kept


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


_writer = LogWriter(_STANDARD_ERROR)
"""All of the process write by it, so that lines keep their order."""


class _Handler(logging.StreamHandler[LogWriter]):
    """Takes the lines of libraries."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        """Drop a line that cannot be put in form: the library would report it on standard error, and wait."""
        self.stream.drop()


class _Reports(io.TextIOBase):
    """Standard error for what the interpreter reports there itself: warnings, and errors of finalizers."""

    def write(self, text: str, /) -> int:
        """Take a part of a report."""
        return _writer.write(redact(text))


def configure(level: str, form: Literal["auto", "console", "json"]) -> None:
    """Send all logs, those of libraries included, to standard error in one form."""
    terminal = os.isatty(_STANDARD_ERROR)
    console = form == "console" or (form == "auto" and terminal)
    render: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=terminal) if console else structlog.processors.JSONRenderer()
    )
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # A traceback is text too, so it is rendered before the redaction.
    last: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        _redact_event,
        _shorten,
        *([_keep_lines] if console else []),
        render,
    ]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # Not PrintLogger, which writes a line's end by itself: it would be a line of its own.
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _writer)),
        cache_logger_on_first_use=True,
    )
    handler = _Handler(_writer)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


@contextmanager
def in_background() -> Iterator[None]:
    """Let nothing wait until its lines are written, for as long as a process serves."""
    with _writer.in_background(), redirect_stderr(cast("TextIO", _Reports())):
        yield


def begin_anew() -> None:
    """Forget what waits to be written: it is said by the process that this one was forked from."""
    _writer.reset()


def dropped() -> int:
    """Return how many lines of this process were not written."""
    return _writer.dropped
