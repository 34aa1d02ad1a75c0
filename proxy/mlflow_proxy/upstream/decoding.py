"""Undoing content codings, within bounds. Pure.

A few kilobytes can decode to gigabytes, so decoding stops at the size limit. An answer that does not decode
to its end, or holds more than one body, is malformed.
"""

import zlib
from collections.abc import Iterable

from mlflow_proxy.errors import BadGatewayError, TooLargeToShareError, UnknownCodingError
from mlflow_proxy.mlflow_api.headers import CODINGS

_MOST_CODINGS = 2
"""Codings applied one after the other; real servers apply one."""
_MOST_MEMBERS = 16
"""Members of one gzip body (RFC 1952 section 2.2). Each costs a new start, however little it holds."""
_SLICE = 64 * 1024
"""Bytes given to zlib at once: what it does not take of them, it copies."""
_GZIP, _ZLIB, _RAW = 31, 15, -15
"""zlib's numbers for the three formats."""


def applied_codings(values: Iterable[str]) -> list[str]:
    """Return the codings in the values of ``Content-Encoding`` fields, in the order of their application."""
    names = [name.strip().lower() for value in values for name in value.split(",")]
    return [name.removeprefix("x-") for name in names if name not in {"", "identity"}]


def decoded(body: bytes, codings: Iterable[str], limit: int) -> bytes:
    """Return a body without its content codings, at most ``limit`` bytes at each step.

    ``codings`` are the values of its ``Content-Encoding`` fields. Raises TooLargeToShareError,
    UnknownCodingError, and BadGatewayError for what is broken.
    """
    applied = applied_codings(codings)
    if unknown := set(applied).difference(CODINGS):
        raise UnknownCodingError(f"in the coding {min(unknown)[:40]!r}")
    if len(applied) > _MOST_CODINGS:
        raise UnknownCodingError(f"in {len(applied)} codings")
    for name in reversed(applied):
        # Servers send Content-Encoding with empty bodies, too.
        body = body and _inflated(body, name, limit)
    return body


def _inflated(body: bytes, name: str, limit: int) -> bytes:
    form = _GZIP if name == "gzip" else _ZLIB if _is_zlib(body) else _RAW
    whole = bytearray()
    inflater, members = zlib.decompressobj(form), 1
    view = memoryview(body)
    for start in range(0, len(body), _SLICE):
        rest: bytes | memoryview = view[start : start + _SLICE]
        while rest:
            if inflater.eof:
                if form != _GZIP or members == _MOST_MEMBERS:
                    raise _broken(name)
                inflater, members = zlib.decompressobj(form), members + 1
            try:
                whole += inflater.decompress(rest, limit + 1 - len(whole))
            except zlib.error as error:
                raise _broken(name) from error
            if len(whole) > limit:
                raise TooLargeToShareError(f"more than {limit} bytes")
            rest = inflater.unconsumed_tail or inflater.unused_data
    if not inflater.eof:
        raise _broken(name)
    return bytes(whole)


def _is_zlib(body: bytes) -> bool:
    """Whether it begins as RFC 1950 says; some servers take "deflate" for RFC 1951 alone."""
    return len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0


def _broken(name: str) -> BadGatewayError:
    return BadGatewayError(f"The workspace's answer is damaged: it does not decode as {name}.")
