"""Malformed answers that the HTTP parser accepts and that must not be passed on. Pure.

aiohttp parses answers leniently. The next recipient might parse some of them differently, or the client's
connection would break instead of getting an error.
"""

import re

from mlflow_proxy.mlflow_api.headers import Fields

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""What a field's name may be (RFC 9110 section 5.6.2): one with a space before the colon is another name."""
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""Control characters (RFC 9110 section 5.5), which aiohttp refuses to send on."""
_LENGTH = re.compile(r"[0-9]{1,19}")
_LONGEST_BODY = 2**63 - 1
"""Bytes. The parser counts in 64 bits, and takes the last of them for no body at all (measured)."""


def problem(status: int, version: tuple[int, int], fields: Fields) -> str:
    """Return what is wrong with the header of an answer, empty for nothing."""
    if version not in {(1, 0), (1, 1)}:
        return "it is in another version of HTTP"
    if status == 101:
        return "it switches to a protocol that was not asked for"
    if status < 100:
        return f"it has the status {status:03}"
    coded = lengthy = False
    for name, value in fields:
        if not _TOKEN.fullmatch(name):
            return "a field's name is malformed"
        if _CONTROL.search(value):
            return f"{name} holds control characters"
        match name.lower():
            case "transfer-encoding":
                # Only chunked can be undone here, and only of 1.1 (RFC 9112 section 6.1).
                if coded or value.lower() != "chunked" or version == (1, 0):
                    return "its transfer coding is not one that was asked for"
                coded = True
            case "content-length":
                if lengthy or not _LENGTH.fullmatch(value) or int(value) > _LONGEST_BODY:
                    return "its Content-Length is malformed"
                lengthy = True
    return "it has a length and a transfer coding" if coded and lengthy else ""


def reason_phrase(text: str | None) -> str:
    """Return a reason phrase as it may be sent on: without control characters and undecodable bytes."""
    return "".join(c for c in text or "" if c.isprintable() or c == "\t")
