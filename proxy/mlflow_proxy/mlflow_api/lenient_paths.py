"""How lenient servers may read a path.

Servers differ in how often they decode a path, and in what they take for a slash, a step up or a letter. None
of these readings is the right one: a decision about a path has to hold under each of them.
"""

import posixpath
import re
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

DECODINGS = 4
"""How often a path may be encoded over again and still be understood."""

_SLASHES = re.compile(r"[/\\]+")
_PARAMETERS = re.compile(r";[^/\\]*")
"""Of a path segment (RFC 3986 section 3.3), which servlet containers take off before they match a path."""
_INVISIBLE = re.compile(r"[\x00-\x20\x7f]+")
_OVERLONG = re.compile(rb"[\xc0\xc1][\x80-\xbf]")
"""Two bytes for an ASCII character, which UTF-8 forbids (RFC 3629 section 3) and some decoders take."""
_WIDE_ESCAPE = re.compile(r"%u([0-9A-Fa-f]{4})")
_ODD = re.compile(r"[^a-z0-9/._~:@!$&'()*+,=-]|//|/\.|/\Z")
"""What makes readings of a path differ; capitals as well."""


def decodings(raw_path: str) -> Iterator[str]:
    """Yield a path as it is, then decoded once and again: until that changes nothing, or too often."""
    yield raw_path
    for _ in range(DECODINGS):
        decoded = _decoded(raw_path)
        if decoded == raw_path:
            return
        yield decoded
        raw_path = decoded


def settles(raw_path: str) -> bool:
    """Whether decoding a path comes to an end soon enough for ``decodings`` to have all of them."""
    *_, last = decodings(raw_path)
    return _decoded(last) == last


def plain(path: str) -> str:
    """Return a path without what only some servers tell apart: case, slashes, parameters, invisible signs."""
    return _SLASHES.sub("/", _INVISIBLE.sub("", _PARAMETERS.sub("", folded(path))))


def folded(text: str) -> str:
    """Return a text without what caseless matching ignores (Unicode, NFKC and case folding)."""
    return unicodedata.normalize("NFKC", text).casefold()


def has_steps(raw_path: str) -> bool:
    """Whether a segment of a path is a step (``.``, ``..``) by any reading, so that it may lead elsewhere."""
    return any({".", ".."} & set(plain(decoded).split("/")) for decoded in decodings(raw_path))


def readings(raw_path: str) -> set[str]:
    """Return all that a path may be taken for, in lower case, with steps up taken and not.

    Both in the form of ``plain`` and as it is: what one server takes for a slash is a letter to another, and
    a step up leads to another place then.
    """
    if not _ODD.search(raw_path):
        return {raw_path}
    taken = {form for decoded in decodings(raw_path) for form in (plain(decoded), decoded.casefold())}
    return taken | {posixpath.normpath(path) for path in taken}


def _decoded(path: str) -> str:
    path = _WIDE_ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), path)
    raw = unquote_to_bytes(path.encode(errors="surrogatepass"))
    shortest = _OVERLONG.sub(lambda pair: bytes([(pair[0][0] & 1) << 6 | pair[0][1] & 0x3F]), raw)
    return shortest.decode(errors="replace")
