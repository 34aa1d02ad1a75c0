"""The route table: every endpoint the proxy treats specially, one row each.

Adding an endpoint is adding a row. A request that matches no row passes through untouched, outside
every budget and cache; if it may write and is not of a family that ``harmless`` knows, it drops everything.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from urllib.parse import unquote

from mlflow_proxy.mlflow_api.api_prefixes import API_PREFIXES, below_mlflow
from mlflow_proxy.mlflow_api.harmless import is_harmless
from mlflow_proxy.mlflow_api.lenient_paths import readings
from mlflow_proxy.mlflow_api.shapes import (
    DOWNLOAD_URI,
    LISTING,
    MODEL,
    MODELS,
    OAUTH_SERVER,
    SIGNED_URL,
    VERSION,
    VERSIONS,
    WORKSPACE_CONFIG,
    Shape,
)


class Group(StrEnum):
    """A budget of the workspace: endpoints of one group share one limit across all clients."""

    REGISTRY = "registry"
    RUNS_SEARCH = "runs-search"
    EXPERIMENTS = "experiments"
    LOG_BATCH = "log-batch"
    TRACKING = "tracking"
    NONE = "none"


class Freshness(StrEnum):
    """What kind of answer an endpoint gives, and so how long it may be used again."""

    NEVER = "never"
    """Neither stored nor shared: the request goes straight through."""
    MUTABLE = "mutable"
    """Any client of the workspace may change it at any moment: seconds."""
    LISTING = "listing"
    """Files of a model version, which cannot change once it is READY: long."""
    SIGNED_URL = "signed-url"
    """Carries its own expiry: until then, less a margin."""
    DISCOVERY = "discovery"
    """Public documents about the workspace itself: an hour."""


class Invalidates(StrEnum):
    """Which stored answers a write makes wrong. The model is the one the write names."""

    NOTHING = "nothing"
    METADATA = "metadata"
    """Whatever may change about the model, and every search; files of READY versions stay."""
    MODEL = "model"
    """Everything about the model, files included: the name can come to mean other files."""
    REGISTRY = "registry"
    """Everything: the write is one whose reach is not known."""


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint.

    ``path`` is relative to the prefix of MLflow's API, whichever that is, or absolute when it begins with a
    slash; one that ends in ``*`` matches whatever follows. ``name`` labels the endpoint in metrics, logs and
    cache keys. ``shape`` is that of its answers, None where they are not looked at.
    """

    methods: tuple[str, ...]
    path: str
    group: Group
    freshness: Freshness = Freshness.NEVER
    invalidates: Invalidates = Invalidates.NOTHING
    shape: Shape | None = None

    @property
    def name(self) -> str:
        """The path, which is unique enough to label metrics and to key answers."""
        return self.path

    @property
    def endpoint(self) -> "Route | None":
        """The row itself if it is one endpoint; None if it stands for several, which may fail apart."""
        return self if self.methods and not self.path.endswith("*") else None


_GET, _POST, _PATCH, _DELETE = ("GET",), ("POST",), ("PATCH",), ("DELETE",)
_READ, _WRITE = ("GET", "HEAD", "OPTIONS"), ("POST", "PUT", "PATCH", "DELETE")

ROUTES: tuple[Route, ...] = (
    # Registered models
    Route(_GET, "registered-models/get", Group.REGISTRY, Freshness.MUTABLE, shape=MODEL),
    Route(_GET, "registered-models/list", Group.REGISTRY, Freshness.MUTABLE, shape=MODELS),
    Route(_GET, "registered-models/search", Group.REGISTRY, Freshness.MUTABLE, shape=MODELS),
    Route(_GET, "registered-models/alias", Group.REGISTRY, Freshness.MUTABLE, shape=VERSION),
    Route(
        ("GET", "POST"),
        "registered-models/get-latest-versions",
        Group.REGISTRY,
        Freshness.MUTABLE,
        shape=VERSIONS,
    ),
    Route(_POST, "registered-models/create", Group.REGISTRY, invalidates=Invalidates.METADATA),
    Route(_POST, "registered-models/rename", Group.REGISTRY, invalidates=Invalidates.MODEL),
    Route(_PATCH, "registered-models/update", Group.REGISTRY, invalidates=Invalidates.METADATA),
    Route(_DELETE, "registered-models/delete", Group.REGISTRY, invalidates=Invalidates.MODEL),
    Route(_POST, "registered-models/set-tag", Group.REGISTRY, invalidates=Invalidates.METADATA),
    Route(_DELETE, "registered-models/delete-tag", Group.REGISTRY, invalidates=Invalidates.METADATA),
    Route(("POST", "DELETE"), "registered-models/alias", Group.REGISTRY, invalidates=Invalidates.METADATA),
    # Model versions
    Route(_GET, "model-versions/get", Group.REGISTRY, Freshness.MUTABLE, shape=VERSION),
    Route(_GET, "model-versions/search", Group.REGISTRY, Freshness.MUTABLE, shape=VERSIONS),
    Route(_GET, "model-versions/get-download-uri", Group.REGISTRY, Freshness.MUTABLE, shape=DOWNLOAD_URI),
    Route(_GET, "model-versions/list-artifacts", Group.REGISTRY, Freshness.LISTING, shape=LISTING),
    Route(
        _GET, "model-versions/get-signed-download-uri", Group.REGISTRY, Freshness.SIGNED_URL, shape=SIGNED_URL
    ),
    Route(_POST, "model-versions/create", Group.REGISTRY, invalidates=Invalidates.METADATA),
    Route(_PATCH, "model-versions/update", Group.REGISTRY, invalidates=Invalidates.METADATA),
    Route(_DELETE, "model-versions/delete", Group.REGISTRY, invalidates=Invalidates.MODEL),
    Route(_POST, "model-versions/transition-stage", Group.REGISTRY, invalidates=Invalidates.METADATA),
    Route(_POST, "model-versions/set-tag", Group.REGISTRY, invalidates=Invalidates.METADATA),
    Route(_DELETE, "model-versions/delete-tag", Group.REGISTRY, invalidates=Invalidates.METADATA),
    # The rest of the registry: whatever this table does not know spends from the same budget
    # (the limit is on all its endpoints together), and a write of unknown reach drops everything.
    Route(_READ, "registered-models/*", Group.REGISTRY),
    Route(_READ, "model-versions/*", Group.REGISTRY),
    Route(_WRITE, "registered-models/*", Group.REGISTRY, invalidates=Invalidates.REGISTRY),
    Route(_WRITE, "model-versions/*", Group.REGISTRY, invalidates=Invalidates.REGISTRY),
    # Tracking
    Route(_POST, "runs/search", Group.RUNS_SEARCH),
    Route(_POST, "runs/log-batch", Group.LOG_BATCH),
    Route(_POST, "experiments/create", Group.EXPERIMENTS),
    Route(_POST, "experiments/update", Group.EXPERIMENTS),
    Route(_POST, "experiments/delete", Group.EXPERIMENTS),
    Route(_POST, "experiments/restore", Group.EXPERIMENTS),
    Route(_GET, "experiments/list", Group.EXPERIMENTS),
    Route(_READ + _WRITE, "experiments/*", Group.TRACKING),
    Route(_READ + _WRITE, "runs/*", Group.TRACKING),
    Route(_READ + _WRITE, "metrics/*", Group.TRACKING),
    Route(_READ + _WRITE, "artifacts/*", Group.TRACKING),
    # What the Databricks SDK asks for at every construction of a client
    Route(_GET, "/.well-known/databricks-config", Group.NONE, Freshness.DISCOVERY, shape=WORKSPACE_CONFIG),
    Route(
        _GET,
        "/oidc/.well-known/oauth-authorization-server",
        Group.NONE,
        Freshness.DISCOVERY,
        shape=OAUTH_SERVER,
    ),
)

UNKNOWN = Route((), "unknown", Group.NONE)
"""Stands for every request that matches no row and changes nothing that is stored."""
UNKNOWN_WRITE = replace(UNKNOWN, invalidates=Invalidates.REGISTRY)
"""Stands for every other: users, roles, tokens, permissions, and whatever servers have beside it."""

_SPELT = [(method, route) for route in ROUTES if not route.path.endswith("*") for method in route.methods]
_ABSOLUTE = {(method, route.path): route for method, route in _SPELT if route.path.startswith("/")}
_EXACT = {(method, route.path): route for method, route in _SPELT if not route.path.startswith("/")}
_UNSHARED = {
    endpoint: route if route.freshness is Freshness.NEVER else replace(route, freshness=Freshness.NEVER)
    for endpoint, route in _EXACT.items()
}
"""The same for API versions in which the meaning of the registry's reads is not documented."""
_FAMILIES = tuple(
    (method, route.path.removesuffix("*"), route)
    for route in ROUTES
    if route.path.endswith("*")
    for method in route.methods
)


_OVERRIDES = frozenset({"x-http-method", "x-http-method-override", "x-method-override"})
"""Fields by which some servers let a request have another method than it has."""
_MAY_NAME_A_METHOD = re.compile(r"_method|%5f|%[46][458df]|%[57]4", re.IGNORECASE)
"""Matches every query with a parameter ``_method``: as it is, or with one of its characters escaped."""
_METHODS = frozenset(_READ + _WRITE)


def overrides_method(names: Iterable[str], raw_query: str) -> bool:
    """Whether a server may take a request's method to be another, by its field names or its query.

    Gateways of some servers do not tell ``_`` and ``-`` in field names apart.
    """
    if any(map(_overrides, names)):
        return True
    if _MAY_NAME_A_METHOD.search(raw_query) is None:
        return False
    named = (unquote(part.partition("=")[0]) for part in re.split("[&;]", raw_query))
    return any(name.strip().casefold() == "_method" for name in named)


@lru_cache(maxsize=128)  # names are 32 KiB at most, and usually the same few
def _overrides(name: str) -> bool:
    return name.lower().replace("_", "-") in _OVERRIDES


def match(method: str, raw_path: str, *, overridden: bool = False) -> Route:
    """Return the row for a request, ``UNKNOWN`` or ``UNKNOWN_WRITE`` when there is none.

    ``raw_path`` is the path as it came over the wire, ``overridden`` what ``overrides_method`` says. A path
    that a server may merely *take* for a known endpoint (``registered%2Dmodels/get``, doubled slashes,
    ``;x``, capitals) gets the row for the rest of its family: it spends from the budget and its writes are
    noticed, but nothing is shared under a name it did not spell. So does one whose method is in doubt: it
    may be a write. What may be a write of unknown reach, by any reading, drops everything.
    """
    if not overridden:
        exact = _exact(method, raw_path)
        if exact is not None:
            return exact
    meant = method.upper()
    if overridden or meant not in _METHODS:
        meant = "POST"
    route = _family(method, meant, raw_path)
    if meant in _READ or route.invalidates is not Invalidates.NOTHING or is_harmless(raw_path):
        return route
    return UNKNOWN_WRITE if route is UNKNOWN else replace(route, invalidates=Invalidates.REGISTRY)


def _exact(method: str, raw_path: str) -> Route | None:
    endpoint = below_mlflow(raw_path)
    if endpoint is None:
        return _ABSOLUTE.get((method, raw_path))
    shared = raw_path.removesuffix(endpoint) in API_PREFIXES
    return (_EXACT if shared else _UNSHARED).get((method, endpoint))


def _family(method: str, meant: str, raw_path: str) -> Route:
    """Return the first row of a family that a request may belong to by any reading, ``UNKNOWN`` if none."""
    taken = [endpoint for path in readings(raw_path) if (endpoint := below_mlflow(path)) is not None]
    family = next(
        (
            route
            for row_method, prefix, route in _FAMILIES
            if meant == row_method and any(endpoint.startswith(prefix) for endpoint in taken)
        ),
        UNKNOWN,
    )
    if family.group is not Group.TRACKING:
        return family
    # Of tracking some endpoints have a limit of their own, which other spellings do not lead around.
    spelt = (_UNSHARED.get((each, endpoint)) for endpoint in taken for each in (method, meant))
    return next((route for route in spelt if route is not None), family)
