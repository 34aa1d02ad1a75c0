"""What clients make of a file's name: which names no client can have, and how others are asked for. Pure.

MLflow clients put a name into a URL as it is, and let their HTTP library escape what it must:

- 1.x takes what stands behind ``#`` for a fragment, which is not sent, and what stands behind ``?`` for a
  query. Escapes that the name has of its own go out as they are, and are decoded where they arrive, unless
  one of the path is no escape: then all of them are escaped.
- 2.3 and later decode a listed name over and over before they do the same (``validate_path_is_safe``), and
  from 2.10 or so on also take it apart as a URL and put it together again, which loses or adds some signs, by
  the rules of their Python; control characters are escaped then. A name that has ``#`` in it by then they
  refuse.

So several names can be asked for in one way. Names are single segments of a path throughout.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import PureWindowsPath
from urllib.parse import ParseResult, unquote, urlparse, uses_netloc

_ODD = r"\x00-\x1f#%:;?\\\x7f\ud800-\udfff"
"""Signs that some client, or some machine, does not take for themselves."""
_PLAIN = re.compile(rf"[^{_ODD} ./][^{_ODD}/]*(?:/[^{_ODD} ./][^{_ODD}/]*)*/?")
_LOSSY = re.compile(r"[\x00-\x20#%;?]|file:", re.IGNORECASE)
"""What parsers of URLs may leave out, or what may be anything once it is decoded."""
_UNSENDABLE = re.compile(r"[\x00\ud800-\udfff]")
_STRIPPED = "".join(map(chr, range(0x21)))
"""What URL parsers take off the front (WHATWG), those of newer Pythons among them."""
_ESCAPE = re.compile("%[0-9a-fA-F]{2}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DECODINGS = 10
"""How often clients decode; what is not at rest by then they refuse."""
_LONGEST_SHOWN = 200


def is_plain(path: str) -> bool:
    """Whether a path can be had by every client, and each of its names is asked for as itself alone."""
    return _PLAIN.fullmatch(path) is not None


def why_unusable(path: str) -> str | None:
    """Return why no client can have a file of this path, which is relative; None if it can.

    A path has to stay below where it is put, by the rules of POSIX and of Windows, and to be sendable.
    """
    if is_plain(path):
        return None
    segments = path.removesuffix("/").split("/")
    if not {"", ".", ".."}.isdisjoint(segments):
        return "it has an empty segment, '.' or '..'"
    if _UNSENDABLE.search(path):
        return "it has a NUL or half a surrogate pair"
    if any(map(_is_lost, segments)):
        return "MLflow clients take it for nothing, or for a step to another directory"
    if any(map(_leads_elsewhere_on_windows, segments)):
        return "on Windows it leads elsewhere"
    return None


def asked_as(name: str) -> frozenset[str]:
    """Return all that a GET may say that is for this name, decoded once, its query included."""
    return _whole(form for said in listed_as(name) for form in (said, *_arriving(said)))


def listed_as(name: str) -> frozenset[str]:
    """Return all that a request for a listing may say, decoded, that is for the directory of this name."""
    return _whole({name, name.lstrip(_STRIPPED), *_validated(name)})


def shown(name: str) -> str:
    """Return a name as an error's message has it: quoted, without signs that could be taken for others."""
    quoted = json.dumps(name)
    return quoted if len(quoted) <= _LONGEST_SHOWN else f'{quoted[:_LONGEST_SHOWN]}..."'


def _is_lost(name: str) -> bool:
    """Whether a client may make of a name what is none: nothing at all, or a step up."""
    if _LOSSY.search(name) is None:
        return False
    paths = [re.split("[?#]", said, maxsplit=1)[0].split("/") for said in (name, *_validated(name))]
    return any(".." in path or {"", "."}.issuperset(path) for path in paths)


def _leads_elsewhere_on_windows(name: str) -> bool:
    steps = name.split("\\")
    return ".." in steps or {"", "."}.issuperset(steps) or PureWindowsPath(name).root != ""


def _whole(forms: Iterable[str]) -> frozenset[str]:
    """Return forms without a slash at the end, which may come of an escape and means nothing."""
    return frozenset(form.removesuffix("/") for form in forms) - {""}


def _arriving(said: str) -> Iterator[str]:
    """Yield what may arrive of a name that is part of a URL, decoded once."""
    path, mark, query = said.partition("#")[0].partition("?")
    for sent in _sent(path):
        # HTTP libraries leave out steps to where one is, unless that is in the query by now.
        for way in {sent, "/".join(segment for segment in sent.split("/") if segment != ".")}:
            for asked in _sent(query):
                if not asked:
                    yield way  # a mark with nothing behind it is left out, unless it is in the query itself
                yield f"{way}{mark}{asked}"


def _sent(part: str) -> set[str]:
    """Return what may arrive of a path or query, decoded once."""
    # One broken escape in all of it, and all are escaped: in capitals then.
    return {part, _ESCAPE.sub(lambda escape: escape[0].upper(), part), unquote(part)}


def _validated(name: str) -> Iterator[str]:
    """Yield what clients' ``validate_path_is_safe`` makes of a name."""
    for take in (str, rebuilt_by_older_pythons, rebuilt_by_newer_pythons):
        with suppress(ValueError):  # they refuse it
            path = _at_rest(name, take)
            for form in {path, _CONTROL.sub(lambda sign: f"%{ord(sign[0]):02x}", path)}:
                if "#" not in form:
                    yield form
                    if form.lstrip(_STRIPPED).lower().startswith("file:"):
                        yield unquote(urlparse(form).path if form.startswith("file:") else form)


def _at_rest(name: str, take: Callable[[str], str]) -> str:
    for _ in range(_DECODINGS):
        decoded = take(unquote(name))
        if decoded == name:
            return name
        name = decoded
    raise ValueError("still changing")


def rebuilt_by_older_pythons(name: str) -> str:
    """Return a name taken for a URL and put together again, as Python 3.11 does.

    The client's Python decides, which need not be that of the proxy. Raises ValueError for what is no URL.
    """
    url = urlparse(name)
    path = f"{url.path};{url.params}" if url.params else url.path
    if url.netloc or (url.scheme in uses_netloc and url.scheme and not path.startswith("//")):
        path = f"//{url.netloc}{'/' * (path[:1] not in {'', '/'})}{path}"
    return _with_ends(path, url)


def rebuilt_by_newer_pythons(name: str) -> str:
    """As above, as Python 3.13 does (cpython issue 67693)."""
    url = urlparse(name)
    path = f"{url.path};{url.params}" if url.params else url.path
    if url.netloc:
        path = f"//{url.netloc}{'/' * (path[:1] not in {'', '/'})}{path}"
    elif path.startswith("//") or (url.scheme in uses_netloc and url.scheme and path[:1] in {"", "/"}):
        path = f"//{path}"
    return _with_ends(path, url)


def _with_ends(path: str, url: ParseResult) -> str:
    scheme = f"{url.scheme}:" * bool(url.scheme)
    return f"{scheme}{path}{f'?{url.query}' * bool(url.query)}{f'#{url.fragment}' * bool(url.fragment)}"
