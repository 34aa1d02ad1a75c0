"""Structured logs, on standard error, with secrets taken out.

Tokens and signatures are kept out of log calls in the first place; the redaction here is the second lock.
"""

import logging
import re
import sys
from typing import Literal

import structlog
from structlog.typing import EventDict, WrappedLogger

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


def configure(level: str, form: Literal["auto", "console", "json"]) -> None:
    """Send all logs, those of libraries included, to standard error in one form."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    render: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if console
        else structlog.processors.JSONRenderer()
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
        *([_keep_lines] if console else []),
        render,
    ]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # Not PrintLogger, which writes a line's end by itself: lines of several processes would mix.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
