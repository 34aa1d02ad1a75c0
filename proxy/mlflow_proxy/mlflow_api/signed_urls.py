"""When a signed storage URL stops working: read from the URL itself, or from storage's answer to it.

The clouds each write it their own way; nothing else is guessed at. What a URL states is only an upper bound:
it ends with the credentials that signed it.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

from mlflow_proxy.mlflow_api.headers import Fields

_BASIC = re.compile(r"[0-9]{8}T[0-9]{6}Z")
"""ISO 8601's basic format, which AWS and Google use."""
_SECURITY_TOKEN = "x-amz-security-token"  # noqa: S105 - the name of a parameter
"""Stands in the URL, or in the fields that go with it, if AWS's temporary credentials signed it."""
TEMPORARY = 300.0
"""Seconds that temporary credentials have left at least when they sign: AWS's SDKs renew theirs five to
fifteen minutes before they end. The URL does not say when they do."""

_ENDED = frozenset({401, 403})
_CODE = re.compile(rb"<Code>\s*(ExpiredToken|InvalidToken|TokenRefreshRequired)\s*</Code>")
"""What S3 and Google say with a 400 about the credentials in a URL (S3's list of error codes)."""


def expires_at(url: str, fields: Fields = ()) -> float | None:
    """Return the Unix time at which ``url`` stops working at the earliest, or None if that is not known.

    ``fields`` go with it. Of several ends the earliest counts; one that is present but unreadable makes the
    whole expiry unknown. So do temporary credentials in a URL that does not say when they signed it.
    """
    try:
        pairs = parse_qsl(urlsplit(url).query, keep_blank_values=True, errors="strict")
        query = {name.lower(): value for name, value in pairs}
        if len(query) < len(pairs):
            return None  # repeated: which of them counts?
        moments = [read(query) for names, read in _FORMS if names <= query.keys()]
        if moments and _SECURITY_TOKEN in {*query, *(name.lower() for name, _ in fields)}:
            moments.append(_basic(query.get("x-amz-date", "")) + TEMPORARY)
    except (ValueError, OverflowError):
        return None
    return min(moments, default=None)


def has_ended(status: int, body: bytes) -> bool:
    """Whether storage's answer to a signed URL, with this body, says that the URL is of no more use."""
    return status in _ENDED or (status == 400 and _CODE.search(body) is not None)


def _duration(date: str, seconds: str) -> Callable[[Mapping[str, str]], float]:
    def read(query: Mapping[str, str]) -> float:
        return _basic(query[date]) + _count(query[seconds])

    return read


def _basic(text: str) -> float:
    # strptime also takes months, days and hours of one digit, and digits of other scripts.
    if not _BASIC.fullmatch(text):
        raise ValueError(f"not a moment: {text!r}")
    return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _azure(query: Mapping[str, str]) -> float:
    """Return the end of the signature (``se``), or of the user delegation key that made it (``ske``)."""
    return min(_extended(query[name]) for name in ("se", "ske") if name in query)


def _extended(text: str) -> float:
    moment = datetime.fromisoformat(text)
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
