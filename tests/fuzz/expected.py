"""What of a request may reach the workspace: the oracle, in its own words and with its own decoders."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tests.fuzz.http1 import Message
from tests.fuzz.upstream import body_meaning, meaning

PRINCIPAL = b"Bearer principal"
"""What the proxy itself shows the workspace, as a service."""

_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade".split()
)
_REMADE = frozenset(b"host expect content-length mlflow-proxy-client".split())
_ARTIFACTS = re.compile(rb"/(?:ajax-)?api/2\.0/mlflow-artifacts/([^/?]*)(?:/([^?]*))?(?:\?(.*))?", re.DOTALL)
_API = re.compile(r"(/(?:ajax-)?api/2\.0/(?:preview/)?mlflow/)((?:model-versions|registered-models)/.*)")
_DISCOVERY = ("/.well-known/databricks-config", "/oidc/.well-known/oauth-authorization-server")
_LOOKUP = "/api/2.0/mlflow/"
"""Where the façade asks; for a read, the proxy asks under the prefix that the read has."""
_RESERVED = "mlflow-proxy"

Shown = tuple[tuple[str, ...], tuple[str, ...]]
"""The values of Authorization and Cookie."""
Passed = tuple[bytes, bytes, bytes, Shown]
"""Method, target, body and credential of what passes as it is."""
Question = tuple[bytes, str, tuple[tuple[str, str], ...], str, Shown]
"""What a request asks, however it is spelt: method, path, parameters, body, credential."""
Lookup = tuple[str, tuple[tuple[str, str], ...], Shown]
"""A question of the proxy's own: path, parameters, credential."""
_NOBODY: Shown = ((), ())


@dataclass
class Allowed:
    """What a request may cause at the workspace, and what its answer may be about."""

    passed: list[Passed] = field(default_factory=list)
    question: Question | None = None
    """What may arrive in a spelling of the proxy's own: what others may ask as well."""
    lookups: set[Lookup] = field(default_factory=set)
    file: tuple[str, str, str] | None = None
    """Model, version and path that its target names at the façade."""


def of_one_connection(message: Message) -> list[bytes]:
    """Return the names of fields that must not travel further, beside those that frame the message."""
    return [
        name
        for name, value in message.fields
        if name.lower() in _HOP_BY_HOP - {b"transfer-encoding"}
        and value.lower() not in {b"keep-alive", b"close"}
    ]


def text(value: bytes) -> str:
    """Read a field's value as far as it is UTF-8: the rest is lost on the way, as docs/operations.md says."""
    return value.decode("utf-8", "ignore").strip(" \t")


def end_to_end(message: Message) -> list[tuple[str, str]]:
    """Return the fields that have to arrive, names in lower case."""
    nominated = {
        option.strip(b" \t").lower() for value in message.all(b"connection") for option in value.split(b",")
    }
    dropped = _HOP_BY_HOP | nominated | _REMADE
    return [(text(n.lower()), text(v)) for n, v in message.fields if n.lower() not in dropped]


def told(message: Message) -> list[tuple[str, str]]:
    """Return the fields that have to arrive where the proxy says for whom it asks."""
    fields = end_to_end(message)
    way = {"x-forwarded-for": "127.0.0.1", "x-forwarded-proto": "http"}
    if host := b"".join(message.all(b"host")):
        way["x-forwarded-host"] = text(host)
    return [
        *((name, value) for name, value in fields if name not in way),
        *((name, ", ".join([*(v for n, v in fields if n == name and v), own])) for name, own in way.items()),
    ]


def shown(message: Message) -> Shown:
    """Return the credentials that a message carries from one end to the other."""
    fields = end_to_end(message)
    cookies = (spaced(value) for name, value in fields if name == "cookie")
    return (
        tuple(value for name, value in fields if name == "authorization"),
        tuple(cookie for cookie in cookies if cookie),
    )


def spaced(cookies: str) -> str:
    """Return the pairs of a Cookie field as RFC 6265 section 4.2.1 spaces them, which tells nothing."""
    return "; ".join(pair for each in cookies.split(";") if (pair := each.strip(" \t")))


def passed(request: Message) -> Passed:
    """Return what identifies a request that passes. docs/operations.md says that a lone ``?`` is dropped."""
    return request.method, request.target.removesuffix(b"?"), request.body, shown(request)


def question(request: Message, credential: Shown) -> Question:
    """Return what a request asks."""
    path, asked = meaning(request.target)
    body = json.dumps(body_meaning(request.body), sort_keys=True) if request.body else ""
    return request.method, path, tuple(canonical(path, asked)), body, credential


def canonical(path: str, asked: Iterable[Sequence[str]]) -> list[tuple[str, str]]:
    """Return parameters in order, spellings of one directory alike."""
    parameters = sorted((name, value) for name, value in asked)
    if path.endswith("/list-artifacts"):
        parameters = [(n, v.rstrip("/") if n == "path" else v) for n, v in parameters]
        parameters = [(n, v) for n, v in parameters if v or n not in {"path", "page_token"}]
    return parameters


def allowed(request: Message, mode: str) -> Allowed:
    """Say what a request may cause."""
    target = request.target
    if not target.startswith(b"/") or b"#" in target:
        return Allowed()
    if target.startswith(b"/-/"):
        readiness: Lookup = (_DISCOVERY[0], (), _NOBODY)
        return Allowed(lookups={readiness})
    credential: Shown = ((PRINCIPAL.decode(),), ()) if mode == "service" else shown(request)
    path, asked = meaning(target)
    file, ours = _facade(target)
    found = Allowed(file=file)
    if file is not None:
        found.lookups |= _about(*file, credential)
    if ours:
        return found
    found.passed.append((*passed(request)[:3], credential))
    if path in _DISCOVERY:
        found.passed.append((*passed(request)[:3], _NOBODY))
    parameters = dict(asked)
    registry = _API.fullmatch(path)
    if registry is None:
        return found
    prefix = registry[1]
    if request.method in {b"GET", b"POST"}:
        found.question = question(request, credential)
    if "name" in parameters:
        found.lookups.add((f"{prefix}registered-models/get", (("name", parameters["name"]),), credential))
        if "version" in parameters:
            named = (("name", parameters["name"]), ("version", parameters["version"]))
            found.lookups.add((f"{prefix}model-versions/get", named, credential))
    elif request.body:
        # get-latest-versions says in its body what it is about: any name may be looked up for a proof.
        name = _named(request.body)
        if name is not None:
            found.lookups.add((f"{prefix}registered-models/get", (("name", name),), credential))
    return found


def _named(body: bytes) -> str | None:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return None
    name = said.get("name") if isinstance(said, dict) else None
    return name if isinstance(name, str) else None


def _about(model: str, version: str, path: str, credential: Shown) -> set[Lookup]:
    name, number = ("name", model), ("version", version)
    listing = f"{_LOOKUP}model-versions/list-artifacts"
    return {
        (f"{_LOOKUP}registered-models/get", (name,), credential),
        (f"{_LOOKUP}model-versions/get", (name, number), credential),
        # What a name means is looked up in the directories on the way to it.
        *(
            (listing, tuple(canonical(listing, (name, ("path", at), number))), credential)
            for at in _way(path)
        ),
        (f"{_LOOKUP}model-versions/get-signed-download-uri", (name, ("path", path), number), credential),
    }


def _way(path: str) -> Iterator[str]:
    """Yield the root, the directories above a path, and itself."""
    segments = path.split("/")
    return ("/".join(segments[:depth]) for depth in range(len(segments) + 1))


def _facade(target: bytes) -> tuple[tuple[str, str, str] | None, bool]:
    """Return which file a target names, if any, and whether it is for the proxy alone to answer."""
    parts = _ARTIFACTS.fullmatch(target)
    if parts is None:
        return None, False
    kind, rest, query = parts[1], parts[2] or b"", parts[3] or b""
    paths = [percent_decoded(rest)]
    ours = _reserved(paths[0])
    if kind == b"artifacts" and not rest:
        pairs = [pair.partition(b"=") for pair in query.split(b"&")]
        paths = [percent_decoded(value, plus=True) for name, _, value in pairs if name == b"path"]
        ours = any(map(_reserved, paths))
    elif query and paths[0] is not None:
        # Clients leave a question mark in a file's name as it is.
        said = percent_decoded(query)
        paths = [None if said is None else f"{paths[0]}?{said}"]
    named = _file(paths[0]) if kind == b"artifacts" and len(paths) == 1 else None
    return named, ours


def _reserved(path: str | None) -> bool:
    return path is not None and f"{path}/".startswith(f"{_RESERVED}/")


def _file(path: str | None) -> tuple[str, str, str] | None:
    segments = (path or "").split("/")
    if len(segments) < 3 or segments[0] != _RESERVED:
        return None
    model = tilde_decoded(segments[1])
    inner = "/".join(segments[3:])
    return None if model is None else (model, segments[2], inner.removesuffix("/"))


def percent_decoded(raw: bytes, *, plus: bool = False) -> str | None:
    """Decode once; None if that is no UTF-8."""
    found, place = bytearray(), 0
    while place < len(raw):
        escape = raw[place + 1 : place + 3]
        if (
            raw[place : place + 1] == b"%"
            and len(escape) == 2
            and all(c in b"0123456789abcdefABCDEF" for c in escape)
        ):
            found.append(int(escape, 16))
            place += 3
            continue
        found.append(0x20 if plus and raw[place] == 0x2B else raw[place])
        place += 1
    try:
        return found.decode()
    except UnicodeDecodeError:
        return None


def tilde_decoded(segment: str) -> str | None:
    """Read a model's name as the façade spells it; None if it is not spelt so."""
    found, place = bytearray(), 0
    while place < len(segment):
        if segment[place] == "~":
            digits = segment[place + 1 : place + 3]
            if len(digits) != 2 or any(c not in "0123456789abcdef" for c in digits):
                return None
            found.append(int(digits, 16))
            place += 3
        else:
            found += segment[place].encode()
            place += 1
    try:
        return found.decode()
    except UnicodeDecodeError:
        return None
