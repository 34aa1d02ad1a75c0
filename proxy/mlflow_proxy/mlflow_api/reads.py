"""Shareable reads: what makes two requests the same question, and how that question is asked.

A request is only ever recognised as a shareable read when its meaning is beyond doubt; anything
ambiguous (repeated parameters, broken escapes, an unexpected body) is answered with None and passes
through unshared. The workspace is then asked as the key says, never as the first client spelt it: whatever a
request says beyond its key does not reach a call that others share, so it cannot choose their answer.
"""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple, Self
from urllib.parse import parse_qsl, quote, urlencode

from mlflow_proxy import __version__
from mlflow_proxy.errors import BadRequestError
from mlflow_proxy.mlflow_api.headers import CODINGS, Fields, only_header
from mlflow_proxy.mlflow_api.lenient_paths import folded
from mlflow_proxy.mlflow_api.messages import Client, UpstreamRequest
from mlflow_proxy.mlflow_api.routes import Freshness, Route, match
from mlflow_proxy.mlflow_api.strict_json import strict_json


class Key(NamedTuple):
    """Equal keys are the same question by the same credential; ``asked`` are the parameters, sorted.

    The path counts with its API prefix: the web interface's is open to other credentials than the others.
    """

    partition: str
    method: str
    path: str
    asked: tuple[tuple[str, str], ...]


OWN_FIELDS = (("Accept-Encoding", ", ".join(CODINGS)), ("User-Agent", f"mlflow-proxy/{__version__}"))
"""Fields of every call that is shared; others only if they count in its partition."""

_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_JSON = re.compile(r'application/json\s*(;\s*charset\s*=\s*"?utf-?8"?\s*)?', re.IGNORECASE)
_MOST_EXACT = 2**53 - 1
"""Beyond it JSON parsers disagree about whole numbers (RFC 8259 section 6)."""


class Read(NamedTuple):
    """A question whose answer may be shared by concurrent and later callers."""

    key: Key
    route: Route
    model: str | None
    """Registered model the answer is about; None when it may be about any (searches, discovery)."""
    version: str | None
    common: bool = False
    """Whether its partition is the common one of callers with a proof, not one credential's."""

    @property
    def partition(self) -> str:
        """The name of the stored answers that it may be served from (``access.partition``)."""
        return self.key.partition

    @property
    def path(self) -> str:
        """The path as it was asked for, which is spelt like a row of the route table."""
        return self.key.path

    @property
    def prefix(self) -> str:
        """The API prefix that it was asked for under."""
        return self.path.removesuffix(self.route.path)

    def asked(self, name: str) -> str | None:
        """Return the value of one of its parameters, None if it has none of that name."""
        return next((value for each, value in self.key.asked if each == name), None)

    def within(self, partition: str) -> Self:
        """Return the same question in the partition that some credentials have in common."""
        return self._replace(key=self.key._replace(partition=partition), common=True)

    def owned_by(self, partition: str) -> Self:
        """Return the same question in the partition of one credential."""
        return self._replace(key=self.key._replace(partition=partition), common=False)

    def request(self, fields: tuple[tuple[str, str], ...], client: Client, *, fresh: bool) -> UpstreamRequest:
        """Return the request that asks it, made of its key and nothing else.

        ``fields`` are those that its partition is made of; ``client`` is whose share of the budget it takes.
        ``fresh`` is for one that refuses stored answers, those of a proxy behind this one as well; it is not
        shared.
        """
        _, method, path, asked = self.key
        headers, body = (*fields, *OWN_FIELDS), b""
        if method == "POST":
            members = (f"{json.dumps(name, ensure_ascii=False)}:{value}" for name, value in asked)
            headers = (*headers, ("Content-Type", "application/json"))
            body = f"{{{','.join(members)}}}".encode()
        elif asked:
            path = f"{path}?{urlencode(asked, quote_via=quote)}"
        if fresh:
            headers = (*headers, ("Cache-Control", "no-cache"))
        public = self.route.freshness is Freshness.DISCOVERY
        return UpstreamRequest(method, path, headers, body, client, public)


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
        value = strict_json(body)
        if not isinstance(value, dict):
            return None
        return {name: json.dumps(member, sort_keys=True) for name, member in value.items()}
    except (ValueError, RecursionError):
        return None


def shareable(
    route: Route, method: str, target: str, headers: Fields, body: bytes, partition: str
) -> Read | None:
    """Return the read that a request asks for, or None if it must not be shared.

    ``target`` is the raw request target that ``route`` was found for; ``body`` is the whole request body,
    empty for none; ``partition`` names the credential (``access.partition``).
    """
    if route.freshness is Freshness.NEVER or only_header(headers, "content-encoding") != "":
        return None
    path, mark, raw_query = target.partition("?")
    if route.freshness is Freshness.DISCOVERY and mark:
        return None
    if method == "POST":
        asked = _asked_in_body(route.path, headers, body) if not raw_query else None
    elif body:
        asked = None
    else:
        understand = _asked_in_query if len(raw_query) <= _REMEMBERED else _asked_in_query.__wrapped__
        asked = understand(route.path, raw_query, listing=route.freshness is Freshness.LISTING)
    if asked is None:
        return None
    return Read(Key(partition, method, path, asked.parameters), route, asked.model, asked.version)


class _Asked(NamedTuple):
    """What a question is about: its parameters in order, and the model and version that they name."""

    parameters: tuple[tuple[str, str], ...]
    model: str | None
    version: str | None


_REMEMBERED = 512
"""Characters of a query that is worth remembering: the clients of a storm ask the same few hundred."""


@lru_cache(maxsize=2048)
def _asked_in_query(path: str, raw_query: str, *, listing: bool) -> _Asked | None:
    asked = parameters(raw_query)
    if asked is None:
        return None
    if listing:
        asked = _canonical_listing(asked)
    # No model is called nothing: what is asked about it stays each credential's own.
    return _understood(path, asked, asked.get("name") or None, asked.get("version"))


def _asked_in_body(path: str, headers: Fields, body: bytes) -> _Asked | None:
    """Return what the only read sent as POST asks, get-latest-versions: its parameters travel in the body."""
    members = _exact_members(body)
    if members is None or not _JSON.fullmatch(only_header(headers, "content-type") or ""):
        return None
    return _understood(path, members, _string(members.get("name")), None)


def _understood(path: str, asked: Mapping[str, str], model: str | None, version: str | None) -> _Asked | None:
    if _is_excessive(asked, model, version):
        return None
    if "" in (bare := {_bare(name) for name in asked}) or len(bare) < len(asked):
        return None  # such as Name beside name: servers differ on which of them counts
    if path.endswith(("/search", "/list")):
        # About any model, whatever a stray parameter says.
        model = version = None
    return _Asked(tuple(sorted(asked.items())), model, version)


def question_about(prefix: str, endpoint: str, asked: Mapping[str, str], partition: str) -> Read:
    """Return a question of the proxy's own: a shareable GET of the route table under an API prefix.

    Raises BadRequestError if it cannot be asked with these parameters.
    """
    route = match("GET", prefix + endpoint)
    target = f"{prefix}{route.path}?{urlencode(asked, quote_via=quote)}"
    read = shareable(route, "GET", target, (), b"", partition)
    if read is None:
        raise BadRequestError(f"{route.path} cannot be asked with these parameters.")
    return read


def written_models(raw_query: str, body: bytes) -> frozenset[str] | None:
    """Return the registered models that a write names, or None if they cannot be determined.

    Both names of a rename count. Parameters may stand in the body or, for DELETE, in the query.
    """
    asked = parameters(raw_query)
    members = json_parameters(body) if body else {}
    if asked is None or members is None:
        return None
    if any(len(name) > _LONGEST_NAME for name in (*asked, *members)):
        return None
    # JSON of protocol buffers may spell new_name either way; some parsers do not tell case apart.
    named = [value for name, value in asked.items() if _bare(name) in _NAMES]
    for name, value in members.items():
        if _bare(name) in _NAMES:
            model = _string(value)
            if model is None:
                return None
            named.append(model)
    models = frozenset(name for name in named if name)
    return models or None


_NAMES = frozenset({"name", "newname"})
_LONGEST_NAME, _LONGEST_MODEL, _LONGEST_VERSION = 64, 256, 32
"""Characters of a parameter's name, a model's name (as of MLflow's own store) and a version."""
_LARGEST_QUESTION = 32 * 1024
"""Characters of all values together: paths and page tokens."""


def _is_excessive(asked: Mapping[str, str], model: str | None, version: str | None) -> bool:
    """Whether a question is larger than any that is meant: keys are kept, in places that count them."""
    return (
        any(len(name) > _LONGEST_NAME for name in asked)
        or sum(map(len, asked.values())) > _LARGEST_QUESTION
        or (model is not None and len(model) > _LONGEST_MODEL)
        or (version is not None and len(version) > _LONGEST_VERSION)
    )


@lru_cache(maxsize=128)  # names are short by now, and usually the same few
def _bare(name: str) -> str:
    """Return a parameter's name, letters and digits only, as lenient servers read ``name[]``, ``Name``."""
    return "".join(each for each in folded(name) if each.isalnum())


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


def _exact_members(body: bytes) -> dict[str, str] | None:
    """Return what ``json_parameters`` does, None also for values that not all parsers read alike.

    What reads take is text, lists of it and whole numbers. Fractions, numbers beyond what all parsers hold
    and surrogates that stand alone are none of it, nor is anything nested.
    """
    try:
        value = strict_json(body, _exact_number)
        if not isinstance(value, dict):
            return None
        if not all(_is_plain(member) for member in value.values()):
            return None
        members = {
            name: json.dumps(member, ensure_ascii=False, separators=(",", ":"))
            for name, member in value.items()
        }
        # Surrogates that stand alone have no form in UTF-8.
        "".join([*members, *members.values()]).encode()
    except (ValueError, RecursionError):
        return None
    return members


def _is_plain(value: object) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(isinstance(each, str | int | None) for each in values)


def _exact_number(digits: str) -> int:
    number = int(digits)
    if abs(number) > _MOST_EXACT:
        raise ValueError("too large a number")
    return number


def _string(canonical: str | None) -> str | None:
    value = json.loads(canonical) if canonical else None
    return value if isinstance(value, str) else None
