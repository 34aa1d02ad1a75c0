"""Which header fields cross the proxy, and which ones decide what a stored answer may be used for."""

import re
from collections.abc import Iterable
from datetime import UTC
from email.utils import parsedate_to_datetime

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Fields that belong to one connection (RFC 9110 section 7.6.1)."""

CLIENT = "Mlflow-Proxy-Client"
"""Request field by which a proxy tells the one behind it on whose behalf it asks: for its share of the
budget, and for nothing else."""

PARTIAL = frozenset(
    {"if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "range"}
)
"""Request fields that ask for less than the whole answer (RFC 9110 sections 13.1 and 14.2)."""

_NOT_FOR_STORAGE = HOP_BY_HOP | PARTIAL | {"authorization", "content-length", "cookie", "expect", "host"}
"""What no signed URL can need: credentials, what frames a request, and what asks for less than the file."""
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\ud7ff\ue000-\U0010ffff]*")

CODINGS = ("gzip", "deflate")
"""Content codings that a shared call asks for: all that ``upstream.decoding`` can undo."""

CACHE_NAME = "mlflow-proxy"
"""What this cache is called in Cache-Status (RFC 9211)."""

NOT_STORED = frozenset(
    {
        "age",
        "authentication-info",
        "cache-status",
        "clear-site-data",
        "content-encoding",
        "content-length",
        "set-cookie",
        "set-cookie2",
    }
)
"""Response fields that are not part of a shared answer: they are about one client's session, or about the
message; its body is decoded, and its age is ours to tell."""

_OF_ITS_BYTES = frozenset({"accept-ranges", "content-digest", "content-md5", "digest", "repr-digest"})
"""Response fields that hold for the bytes of a body as it was sent, coded (RFC 9530, RFC 3230, RFC 1864), and
that offer parts of them (RFC 9110 section 14.3)."""

Fields = Iterable[tuple[str, str]]
"""Header fields in order, repeated names kept."""


def end_to_end(fields: Fields) -> list[tuple[str, str]]:
    """Drop hop-by-hop fields and those nominated by ``Connection`` (RFC 9110 section 7.6.1)."""
    kept: list[tuple[str, str]] = []
    nominated: set[str] = set()
    for name, value in fields:
        lower = name.lower()
        if lower not in HOP_BY_HOP:
            kept.append((name, value))
        elif lower == "connection":
            nominated.update(option.strip().lower() for option in value.split(","))
    if nominated <= HOP_BY_HOP:
        return kept
    return [(name, value) for name, value in kept if name.lower() not in nominated]


def without(fields: Fields, names: frozenset[str]) -> list[tuple[str, str]]:
    """Return the fields whose lower-case name is not in ``names``."""
    return [(name, value) for name, value in fields if name.lower() not in names]


def of_decoded(fields: Fields) -> list[tuple[str, str]]:
    """Return the fields of an answer as they are true without its content coding, which is gone.

    A strong ETag is of the coded bytes alone, a weak one of what they mean (RFC 9110 section 8.8.3).
    """
    kept = without(fields, _OF_ITS_BYTES | {"content-encoding"})
    return [
        (name, value if value.startswith("W/") else f"W/{value}") if name.lower() == "etag" else (name, value)
        for name, value in kept
        if name.lower() != "etag" or value.startswith(('"', 'W/"'))
    ]


def of_another_body(fields: Fields) -> list[tuple[str, str]]:
    """Return the fields of an answer that are true of it with another body, too."""
    return without(fields, _OF_ITS_BYTES | {"etag"})


def for_storage(fields: Fields) -> list[tuple[str, str]] | None:
    """Return what is sent of the fields that go with a signed URL, None if one of them is malformed.

    Those that it cannot need are left out, and what ``Connection`` names with them.
    """
    fields = list(fields)
    if not all(_NAME.fullmatch(name) and _VALUE.fullmatch(value) for name, value in fields):
        return None
    return without(end_to_end(fields), _NOT_FOR_STORAGE)


def is_token(text: str) -> bool:
    """Whether a text can be the name of a field or a cookie (RFC 9110 section 5.6.2)."""
    return _NAME.fullmatch(text) is not None


def field(fields: Fields, name: str) -> str:
    """Return the first field of that name, empty if there is none."""
    lower = name.lower()
    for each, value in fields:
        if each.lower() == lower:
            return value
    return ""


def from_proxy(fields: Fields) -> bool:
    """Whether a response came through a proxy of this kind, by its Cache-Status (RFC 9211 section 2)."""
    caches = (
        member.partition(";")[0].strip()
        for name, value in fields
        if name.lower() == "cache-status"
        for member in value.split(",")
    )
    return CACHE_NAME in caches


def age(value: str | None) -> float:
    """Read an ``Age`` field (RFC 9111 section 5.1): seconds since the answer was made, 0 if unreadable."""
    text = (value or "").strip()
    return float(min(int(text), 2**31)) if text.isascii() and text.isdigit() and len(text) <= 20 else 0.0


def unix_time(date: str) -> float | None:
    """Read an HTTP date (RFC 9110 section 5.6.7) as Unix time, None if it is none."""
    try:
        moment = parsedate_to_datetime(date)
        # The two old forms of dates name no zone; all HTTP dates are in UTC.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def asks_for_fresh(fields: Fields) -> bool:
    """Whether a request refuses stored answers (RFC 9111 section 5.2.1.4 and 5.2.1.5)."""
    return not directives(fields, "cache-control", "pragma").isdisjoint({"no-cache", "no-store"})


def directives(fields: Fields, *names: str) -> frozenset[str]:
    """Return the cache directives in the fields of these lower-case names, without their arguments.

    RFC 9111 section 5.2.
    """
    return frozenset(
        directive.partition("=")[0].strip().lower()
        for name, value in fields
        if name.lower() in names
        for directive in value.split(",")
    )


def vary(fields: Fields) -> frozenset[str]:
    """Return what an answer says that it depends on: request fields in lower case, or ``*``.

    RFC 9110 section 12.5.5.
    """
    return frozenset(
        member.strip().lower()
        for name, value in fields
        if name.lower() == "vary"
        for member in value.split(",")
        if member.strip()
    )


def only_header(fields: Fields, name: str) -> str | None:
    """Return the field of that lower-case name, None if there are several, empty if there is none."""
    values = [value for each, value in fields if each.lower() == name]
    return None if len(values) > 1 else "".join(values)
