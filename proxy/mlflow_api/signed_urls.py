"""When a signed storage URL stops working, read from the URL itself.

The clouds each write it their own way; nothing else is guessed at.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

_BASIC = re.compile(r"[0-9]{8}T[0-9]{6}Z")
"""ISO 8601's basic format, which AWS and Google use."""


def expires_at(url: str) -> float | None:
    """Return the Unix time at which ``url`` expires, or None if it does not say so in a known form.

    Of several forms in one URL the earliest counts; one that is present but unreadable makes the whole
    expiry unknown.
    """
    try:
        pairs = parse_qsl(urlsplit(url).query, keep_blank_values=True, errors="strict")
        query = {name.lower(): value for name, value in pairs}
        if len(query) < len(pairs):
            return None  # repeated: which of them counts?
        moments = [read(query) for names, read in _FORMS if names <= query.keys()]
    except (ValueError, OverflowError):
        return None
    return min(moments, default=None)


def _duration(date: str, seconds: str) -> Callable[[Mapping[str, str]], float]:
    def read(query: Mapping[str, str]) -> float:
        # strptime also takes months, days and hours of one digit, and digits of other scripts.
        if not _BASIC.fullmatch(query[date]):
            raise ValueError(f"not a moment: {query[date]!r}")
        signed = datetime.strptime(query[date], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        return signed.timestamp() + _count(query[seconds])

    return read


def _azure(query: Mapping[str, str]) -> float:
    moment = datetime.fromisoformat(query["se"])
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _epoch(query: Mapping[str, str]) -> float:
    return _count(query["expires"])


def _count(text: str) -> float:
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise ValueError(f"not a count of seconds: {text!r}")
    return float(text)


_FORMS: tuple[tuple[frozenset[str], Callable[[Mapping[str, str]], float]], ...] = (
    # AWS Signature Version 4
    (frozenset({"x-amz-date", "x-amz-expires"}), _duration("x-amz-date", "x-amz-expires")),
    # Google Cloud Storage V4
    (frozenset({"x-goog-date", "x-goog-expires"}), _duration("x-goog-date", "x-goog-expires")),
    # Azure shared access signature; `se` alone is too common a name, `sig` always stands beside it
    (frozenset({"se", "sig"}), _azure),
    # AWS Signature Version 2, Google V2, CloudFront
    (frozenset({"expires"}), _epoch),
)
