"""Whether a request's head can be read in one way only (RFC 9110, RFC 9112).

What belongs here: the rules for a head beyond those of the parser. Proxies and servers before and behind this
one parse the same bytes. A head that one of them could parse differently is refused: a body for one could be
a request for another (request smuggling).
"""

import re
from collections.abc import Sequence

from mlflow_proxy.errors import (
    BadRequestError,
    ExpectationFailedError,
    FieldsTooLargeError,
    TargetTooLongError,
)

LONGEST_TARGET = 32 * 1024
"""Bytes of a request's target; page tokens and long model paths outgrow 8 KiB."""
LONGEST_FIELD = 32 * 1024 - 1
"""Bytes of one field, its name and value. Not that of a target: so the parser's error tells which it was."""
MOST_FIELDS = 128
"""Fields of one request, those of its trailer section included."""
LARGEST_HEAD = 128 * 1024
"""Bytes of a request's target and fields together."""

Version = tuple[int, int]
Fields = Sequence[tuple[bytes, bytes]]
"""Field lines as they came, in order."""

_VERSIONS = ((1, 0), (1, 1))
_FOREIGN = frozenset({"CONNECT", "SOURCE"})
"""Methods of requests to something else: a tunnel, whose target is no path, and Icecast's (as ICE/1.0)."""
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,17}")
"""A Content-Length that fits 64 bits, without leading zeros, which some servers take for octal."""
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+;=%-]+)(?::[0-9]*)?")
"""RFC 9110 section 7.2. Without the comma of RFC 3986, since two Host fields may be joined by one."""
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""What no field's value has (RFC 9110 section 5.5)."""
_TARGET = re.compile(r"/[\x21-\x22\x24-\x5b\x5d-\x7e]*")
"""A path and a query (RFC 9112 section 3.2.1): visible ASCII, but no fragment, nor a backslash, which some
servers take for a slash. All servers parse other characters outside the URI grammar alike; they may pass."""
_OTHER_SPELLINGS = frozenset({b"content_length", b"transfer_encoding"})
"""Names that a CGI gateway maps to the same variables as the framing fields."""


def check(method: str, target: str, version: Version, fields: Fields) -> None:
    """Raise an error if two servers could parse this head differently, or if it is too large.

    Field values are without the white space around them. Raises BadRequestError, TargetTooLongError,
    FieldsTooLargeError, ExpectationFailedError.
    """
    if version not in _VERSIONS:
        raise BadRequestError("Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    if method == "CONNECT" or target[:8].lower().startswith(("http://", "https://")):
        raise no_forward_proxy()
    if method in _FOREIGN or _TARGET.fullmatch(target) is None:
        raise bad_target()
    size = len(target)
    hosts, lengths, codings, expectations = [], [], [], []
    for name, value in fields:
        size += len(name) + len(value)
        if _CONTROL.search(value) is not None:
            raise BadRequestError("A field's value has a control character (RFC 9110 section 5.5).")
        lower = name.lower()
        if lower == b"host":
            hosts.append(value)
        elif lower == b"content-length":
            lengths.append(value)
        elif lower == b"transfer-encoding":
            codings.append(value)
        elif lower == b"expect":
            expectations.append(value)
        elif lower in _OTHER_SPELLINGS:
            raise BadRequestError("Content-Length and Transfer-Encoding are not spelt with underscores.")
    if size > LARGEST_HEAD:
        raise too_large_head()
    _check_host(version, hosts)
    _check_body(version, lengths, codings)
    # Servers of HTTP/1.0 know no expectations (RFC 9110 section 10.1.1).
    if (
        version == (1, 1)
        and any(expectations)
        and [each.lower() for each in expectations] != [b"100-continue"]
    ):
        raise ExpectationFailedError(
            "The only expectation that can be met is one 100-continue (RFC 9110 section 10.1.1)."
        )


def _check_host(version: Version, hosts: list[bytes]) -> None:
    if not hosts and version == (1, 0):
        return
    if len(hosts) != 1 or _HOST.fullmatch(hosts[0]) is None:
        raise BadRequestError(
            "A request has one Host field, with a host and perhaps a port (RFC 9112 section 3.2)."
        )


def _check_body(version: Version, lengths: list[bytes], codings: list[bytes]) -> None:
    if codings:
        if lengths or len(codings) > 1 or codings[0].lower() != b"chunked" or version == (1, 0):
            raise BadRequestError(
                "A body's Transfer-Encoding can only be chunked, once, in HTTP/1.1, and without a "
                "Content-Length (RFC 9112 section 6.1)."
            )
    elif lengths and (len(lengths) > 1 or _LENGTH.fullmatch(lengths[0]) is None):
        raise BadRequestError(
            "A body's Content-Length is one decimal number of up to 18 digits, without leading zeros "
            "(RFC 9112 section 6.2)."
        )


def bad_target() -> BadRequestError:
    """Return the error for a target that is no path."""
    return BadRequestError(
        "This proxy serves one workspace: a request target must be a path, in ASCII, percent-encoded where "
        "need be (RFC 9112 section 3.2.1)."
    )


def no_forward_proxy() -> BadRequestError:
    """Return the error for a client that takes this proxy for one to anywhere (RFC 9112 section 3.2.2)."""
    return BadRequestError(
        "This proxy serves one workspace and is no HTTP_PROXY or HTTPS_PROXY: unset these, and set "
        "MLFLOW_TRACKING_URI or DATABRICKS_HOST to its URL instead."
    )


def too_long(limit: object) -> TargetTooLongError | FieldsTooLargeError:
    """Return the error for a line longer than the parser's ``limit`` for it."""
    if limit == LONGEST_TARGET:
        return TargetTooLongError(f"A request's target may have {LONGEST_TARGET} bytes, not more.")
    return FieldsTooLargeError(f"A field may have {LONGEST_FIELD} bytes, not more.")


def too_many_fields() -> FieldsTooLargeError:
    """Return the error for more than ``MOST_FIELDS``."""
    return FieldsTooLargeError(f"A request may have {MOST_FIELDS} fields, not more.")


def too_large_head() -> FieldsTooLargeError:
    """Return the error for more than ``LARGEST_HEAD``."""
    return FieldsTooLargeError(f"A request's head may have {LARGEST_HEAD} bytes, not more.")
