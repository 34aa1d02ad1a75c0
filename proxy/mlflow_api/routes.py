"""The route table: every endpoint the proxy treats specially, one row each.

Adding an endpoint is adding a row. A request that matches no row passes through untouched, outside
every budget and cache.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from urllib.parse import unquote

from proxy.mlflow_api.lenient_paths import readings

API_PREFIXES = ("/api/2.0/mlflow/", "/api/2.0/preview/mlflow/", "/ajax-api/2.0/mlflow/")
"""Three spellings of one API: current clients, mlflow 1.x, and the web interface."""


class Group(StrEnum):
    """A budget of the workspace: endpoints of one group share one limit, whoever calls."""

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
    """May change at any moment by anyone's hand: seconds."""
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

    ``path`` is relative to the API prefix, or absolute when it begins with a slash; one that ends in
    ``*`` matches whatever follows. ``name`` labels the endpoint in metrics, logs and cache keys.
    """

    methods: tuple[str, ...]
    path: str
    group: Group
    freshness: Freshness = Freshness.NEVER
    invalidates: Invalidates = Invalidates.NOTHING

    @property
    def name(self) -> str:
        """The path, which is unique enough to label metrics and to key answers."""
        return self.path


_GET, _POST, _PATCH, _DELETE = ("GET",), ("POST",), ("PATCH",), ("DELETE",)
_READ, _WRITE = ("GET", "HEAD", "OPTIONS"), ("POST", "PUT", "PATCH", "DELETE")

ROUTES: tuple[Route, ...] = (
    # Registered models
    Route(_GET, "registered-models/get", Group.REGISTRY, Freshness.MUTABLE),
    Route(_GET, "registered-models/list", Group.REGISTRY, Freshness.MUTABLE),
    Route(_GET, "registered-models/search", Group.REGISTRY, Freshness.MUTABLE),
    Route(_GET, "registered-models/alias", Group.REGISTRY, Freshness.MUTABLE),
    Route(("GET", "POST"), "registered-models/get-latest-versions", Group.REGISTRY, Freshness.MUTABLE),
    Route(_POST, "registered-models/create", Group.REGISTRY, invalidates=Invalidates.METADATA),
    Route(_POST, "registered-models/rename", Group.REGISTRY, invalidates=Invalidates.MODEL),
    Route(_PATCH, "registered-models/update", Group.REGISTRY, invalidates=Invalidates.METADATA),
    Route(_DELETE, "registered-models/delete", Group.REGISTRY, invalidates=Invalidates.MODEL),
    Route(_POST, "registered-models/set-tag", Group.REGISTRY, invalidates=Invalidates.METADATA),
    Route(_DELETE, "registered-models/delete-tag", Group.REGISTRY, invalidates=Invalidates.METADATA),
    Route(("POST", "DELETE"), "registered-models/alias", Group.REGISTRY, invalidates=Invalidates.METADATA),
    # Model versions
    Route(_GET, "model-versions/get", Group.REGISTRY, Freshness.MUTABLE),
    Route(_GET, "model-versions/search", Group.REGISTRY, Freshness.MUTABLE),
    Route(_GET, "model-versions/get-download-uri", Group.REGISTRY, Freshness.MUTABLE),
    Route(_GET, "model-versions/list-artifacts", Group.REGISTRY, Freshness.LISTING),
    Route(_GET, "model-versions/get-signed-download-uri", Group.REGISTRY, Freshness.SIGNED_URL),
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
    # Who may do what. Rare, and after it nobody may be served what was fetched before.
    *(
        Route(_WRITE, f"{prefix}permissions/*", Group.NONE, invalidates=Invalidates.REGISTRY)
        for prefix in ("/api/2.0/", "/api/2.0/preview/", "/ajax-api/2.0/", "/ajax-api/2.0/preview/")
    ),
    # Databricks' own additions, which change stages and permissions without a limit of their own on record
    Route(_WRITE, "databricks/*", Group.NONE, invalidates=Invalidates.REGISTRY),
    Route(_WRITE, "transition-requests/*", Group.NONE, invalidates=Invalidates.REGISTRY),
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
    Route(_GET, "/.well-known/databricks-config", Group.NONE, Freshness.DISCOVERY),
    Route(_GET, "/oidc/.well-known/oauth-authorization-server", Group.NONE, Freshness.DISCOVERY),
)

UNKNOWN = Route((), "unknown", Group.NONE)
"""Stands for every request that matches no row."""


def _full_paths(route: Route) -> Iterator[str]:
    if route.path.startswith("/"):
        yield route.path
    else:
        yield from (prefix + route.path for prefix in API_PREFIXES)


_EXACT = {
    (method, path): route
    for route in ROUTES
    if not route.path.endswith("*")
    for method in route.methods
    for path in _full_paths(route)
}
_WILDCARD = tuple(
    (method, path.removesuffix("*"), route)
    for route in ROUTES
    if route.path.endswith("*")
    for method in route.methods
    for path in _full_paths(route)
)


_OVERRIDES = frozenset({"x-http-method", "x-http-method-override", "x-method-override"})
"""Fields by which some servers let a request have another method than it has."""
_METHODS = frozenset(_READ + _WRITE)


def overrides_method(names: Iterable[str], raw_query: str) -> bool:
    """Whether a server may take a request's method to be another, by its field names or its query.

    Gateways of some servers do not tell ``_`` and ``-`` in field names apart.
    """
    if any(map(_overrides, names)):
        return True
    if "%" not in raw_query and "_method" not in raw_query.lower():
        return False
    named = (unquote(part.partition("=")[0]) for part in re.split("[&;]", raw_query))
    return any(name.strip().casefold() == "_method" for name in named)


@lru_cache(maxsize=128)  # names are 32 KiB at most, and usually the same few
def _overrides(name: str) -> bool:
    return name.lower().replace("_", "-") in _OVERRIDES


def match(method: str, raw_path: str, *, overridden: bool = False) -> Route:
    """Return the row for a request, ``UNKNOWN`` when there is none.

    ``raw_path`` is the path as it came over the wire, ``overridden`` what ``overrides_method`` says. A path
    that a server may merely *take* for a known endpoint (``registered%2Dmodels/get``, doubled slashes,
    ``;x``, capitals) gets the row for the rest of its family: it spends from the budget and its writes are
    noticed, but nothing is shared under a name it did not spell. So does one whose method is in doubt: it
    may be a write.
    """
    exact = _EXACT.get((method, raw_path))
    if exact is not None and not overridden:
        return exact
    known = method.upper() in _METHODS and not overridden
    taken, meant = readings(raw_path), method.upper() if known else "POST"
    family = next(
        (
            route
            for row_method, prefix, route in _WILDCARD
            if meant == row_method and any(path.startswith(prefix) for path in taken)
        ),
        UNKNOWN,
    )
    if family.group is not Group.TRACKING:
        return family
    # Of tracking some endpoints have a limit of their own, which other spellings do not lead around.
    spelt = (_EXACT.get((each, path)) for path in taken for each in (method, meant))
    return next((route for route in spelt if route is not None), family)
