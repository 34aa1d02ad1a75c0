"""Shareable reads: what makes two requests the same question.

A request is only ever recognised as a shareable read when its meaning is beyond doubt; anything
ambiguous (repeated parameters, broken escapes, an unexpected body) is answered with None and passes
through unshared.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self
from urllib.parse import parse_qsl

from proxy.mlflow_api.routes import Freshness, Route

Key = tuple[str, str, tuple[tuple[str, str], ...]]
"""Partition, route name, sorted parameters: equal keys are the same question by the same credential."""

_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Read:
    """A question whose answer may be shared among those who ask it at once, or again."""

    key: Key
    route: Route
    model: str | None
    """Registered model the answer is about; None when it may be about any (searches, discovery)."""
    version: str | None

    @property
    def partition(self) -> str:
        """The credential that asks."""
        return self.key[0]

    def within(self, partition: str) -> Self:
        """Return the same question in another partition."""
        return replace(self, key=(partition, *self.key[1:]))


def parameters(raw_query: str) -> dict[str, str] | None:
    """Decode a query string, or return None where readers could disagree about its meaning."""
    if not raw_query.isascii() or ";" in raw_query or _BROKEN_ESCAPE.search(raw_query):
        return None
    try:
        pairs = parse_qsl(raw_query, keep_blank_values=True, strict_parsing=bool(raw_query), errors="strict")
    except ValueError:
        return None
    return _unique(pairs)


def json_parameters(body: bytes) -> dict[str, str] | None:
    """Return the members of a JSON object, each value as canonical JSON text; None if it is not one.

    Repeated members give None: parsers differ on which of them counts. So do codings other than UTF-8.
    """
    try:
        value = json.loads(body.decode(), object_pairs_hook=_object)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    return {name: json.dumps(member, sort_keys=True) for name, member in value.items()}


def shareable(route: Route, method: str, partition: str, raw_query: str, body: bytes) -> Read | None:
    """Return the read that a request asks for, or None if it must not be shared.

    ``partition`` names the credential (``access.partition``); ``body`` is the whole request body, empty
    for none.
    """
    if route.freshness is Freshness.NEVER:
        return None
    asked = parameters(raw_query)
    if asked is None:
        return None
    if method == "POST":
        # The only read sent as POST is get-latest-versions; its parameters travel in the body.
        members = json_parameters(body)
        if members is None or asked:
            return None
        model = _string(members.get("name"))
        asked = {f"json:{name}": value for name, value in members.items()}
        version = None
    elif body or any(name.startswith("json:") for name in asked):
        # The prefix is for what came in a body: a query must not pass for one.
        return None
    else:
        if route.freshness is Freshness.LISTING:
            asked = _canonical_listing(asked)
        model, version = asked.get("name"), asked.get("version")
    if route.path.endswith(("/search", "/list")):
        # About any model, whatever a stray parameter says.
        model = version = None
    return Read((partition, route.name, tuple(sorted(asked.items()))), route, model, version)


def written_models(raw_query: str, body: bytes) -> frozenset[str] | None:
    """Return the registered models that a write names, or None when that cannot be told.

    Both names of a rename count. Parameters may stand in the body or, for DELETE, in the query.
    """
    asked = parameters(raw_query)
    members = json_parameters(body) if body else {}
    if asked is None or members is None:
        return None
    named = [asked.get("name"), asked.get("new_name")]
    # JSON of protocol buffers may spell new_name either way.
    named += [_string(members.get(member)) for member in ("name", "new_name", "newName")]
    models = frozenset(name for name in named if name)
    return models or None


def _canonical_listing(asked: Mapping[str, str]) -> dict[str, str]:
    """Fold the spellings of one directory: absent ``path``, empty, and trailing slash (measured)."""
    canonical = dict(asked)
    path = canonical.pop("path", "").rstrip("/")
    if path:
        canonical["path"] = path
    if not canonical.get("page_token"):
        canonical.pop("page_token", None)
    return canonical


def _unique(pairs: list[tuple[str, str]]) -> dict[str, str] | None:
    unique = dict(pairs)
    return unique if len(unique) == len(pairs) else None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("repeated member")
    return unique


def _string(canonical: str | None) -> str | None:
    value = json.loads(canonical) if canonical else None
    return value if isinstance(value, str) else None
