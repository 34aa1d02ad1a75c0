"""The head of a response as bytes (RFC 9112). Pure.

The proxy writes the heads of its answers itself: aiohttp's responses have a Content-Type and a Server field
where the workspace sent none, which a proxy must not add, and leave in two packets.
"""

import math
import re
from email.utils import formatdate
from functools import lru_cache

from mlflow_proxy.mlflow_api.headers import CACHE_NAME, Fields

_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""What neither a field nor a reason phrase has: it could begin another field (RFC 9110 section 5.5)."""


def has_body(status: int) -> bool:
    """Whether a response of this status has a body, and so a length (RFC 9112 section 6.3)."""
    return status >= 200 and status not in {204, 304}


def status_and_fields(status: int, reason: str, fields: Fields) -> bytes:
    """Return a head without its HTTP version in front and the empty line behind.

    Bytes that could not be decoded when they came are left out. Raises ValueError for a control character.
    """
    lines = [f"{status} {reason}", *(f"{name}: {value}" for name, value in fields)]
    for line in lines:
        if _FORBIDDEN.search(line) is not None:
            raise ValueError("a control character in the head of a response")
    return "".join([f"{line}\r\n" for line in lines]).encode("utf-8", "ignore")


def complete(
    shared: bytes,
    outcome: str,
    age: float | None,
    ttl: float | None,
    *,
    date: float | None,
    minor: int = 1,
    last: bool = False,
    chunked: bool = False,
) -> bytes:
    """Return a whole head: what ``status_and_fields`` returned, and what one client is told beside it.

    ``age`` and ``ttl`` are in seconds for a response that was stored, ``ttl`` below 0 if it has expired (RFC
    9111 section 5.1, RFC 9211). ``date`` is Unix time, None if the fields have one. ``minor`` is that of the
    HTTP version, ``last`` whether the connection is closed behind the response.
    """
    old = "" if age is None else f"Age: {int(age)}\r\n"
    left = "" if ttl is None else f"; ttl={math.floor(ttl)}"
    own = f"{old}Cache-Status: {CACHE_NAME}; {outcome}{left}\r\n"
    own += "" if date is None else _date_line(int(date))
    own += "Transfer-Encoding: chunked\r\n" if chunked else ""
    own += _persistence(minor, last=last)
    return b"".join((b"HTTP/1.1 " if minor else b"HTTP/1.0 ", shared, own.encode(), b"\r\n"))


def _persistence(minor: int, *, last: bool) -> str:
    """Return the ``Connection`` line, empty where the version says as much (RFC 9112 section 9.3)."""
    if minor:
        return "Connection: close\r\n" if last else ""
    return "" if last else "Connection: keep-alive\r\n"


@lru_cache(maxsize=4)
def _date_line(now: int) -> str:
    """Return the ``Date`` line for a Unix time (RFC 9110 section 6.6.1)."""
    return f"Date: {formatdate(now, usegmt=True)}\r\n"
