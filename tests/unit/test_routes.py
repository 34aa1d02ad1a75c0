"""The route table holds every endpoint that is known, under each of its spellings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.mlflow_api.routes import (
    API_PREFIXES,
    ROUTES,
    UNKNOWN,
    Freshness,
    Group,
    Invalidates,
    match,
)

PREFIXES = ["/api/2.0/mlflow/", "/api/2.0/preview/mlflow/", "/ajax-api/2.0/mlflow/"]

READS = [
    ("GET", "registered-models/get", Freshness.MUTABLE),
    ("GET", "registered-models/list", Freshness.MUTABLE),
    ("GET", "registered-models/search", Freshness.MUTABLE),
    ("GET", "registered-models/alias", Freshness.MUTABLE),
    ("GET", "registered-models/get-latest-versions", Freshness.MUTABLE),
    ("POST", "registered-models/get-latest-versions", Freshness.MUTABLE),
    ("GET", "model-versions/get", Freshness.MUTABLE),
    ("GET", "model-versions/search", Freshness.MUTABLE),
    ("GET", "model-versions/get-download-uri", Freshness.MUTABLE),
    ("GET", "model-versions/list-artifacts", Freshness.LISTING),
    ("GET", "model-versions/get-signed-download-uri", Freshness.SIGNED_URL),
]
WRITES = [
    ("POST", "registered-models/create", Invalidates.METADATA),
    ("POST", "registered-models/rename", Invalidates.MODEL),
    ("PATCH", "registered-models/update", Invalidates.METADATA),
    ("DELETE", "registered-models/delete", Invalidates.MODEL),
    ("POST", "registered-models/set-tag", Invalidates.METADATA),
    ("DELETE", "registered-models/delete-tag", Invalidates.METADATA),
    ("POST", "registered-models/alias", Invalidates.METADATA),
    ("DELETE", "registered-models/alias", Invalidates.METADATA),
    ("POST", "model-versions/create", Invalidates.METADATA),
    ("PATCH", "model-versions/update", Invalidates.METADATA),
    ("DELETE", "model-versions/delete", Invalidates.MODEL),
    ("POST", "model-versions/transition-stage", Invalidates.METADATA),
    ("POST", "model-versions/set-tag", Invalidates.METADATA),
    ("DELETE", "model-versions/delete-tag", Invalidates.METADATA),
]
TRACKING = [
    ("POST", "runs/search", Group.RUNS_SEARCH),
    ("POST", "runs/log-batch", Group.LOG_BATCH),
    ("POST", "experiments/create", Group.EXPERIMENTS),
    ("POST", "experiments/update", Group.EXPERIMENTS),
    ("POST", "experiments/delete", Group.EXPERIMENTS),
    ("POST", "experiments/restore", Group.EXPERIMENTS),
    ("GET", "experiments/list", Group.EXPERIMENTS),
    ("GET", "experiments/get-by-name", Group.TRACKING),
    ("POST", "runs/create", Group.TRACKING),
    ("GET", "runs/get", Group.TRACKING),
    ("GET", "metrics/get-history", Group.TRACKING),
    ("GET", "artifacts/list", Group.TRACKING),
]


def test_the_three_prefixes() -> None:
    assert sorted(API_PREFIXES) == sorted(PREFIXES)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(("method", "path", "freshness"), READS)
def test_registry_reads(prefix: str, method: str, path: str, freshness: Freshness) -> None:
    route = match(method, prefix + path)
    assert (route.name, route.group, route.freshness, route.invalidates) == (
        path,
        Group.REGISTRY,
        freshness,
        Invalidates.NOTHING,
    )


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(("method", "path", "invalidates"), WRITES)
def test_registry_writes(prefix: str, method: str, path: str, invalidates: Invalidates) -> None:
    route = match(method, prefix + path)
    assert (route.name, route.group, route.freshness, route.invalidates) == (
        path,
        Group.REGISTRY,
        Freshness.NEVER,
        invalidates,
    )


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(("method", "path", "group"), TRACKING)
def test_tracking(prefix: str, method: str, path: str, group: Group) -> None:
    route = match(method, prefix + path)
    assert (route.group, route.freshness, route.invalidates) == (
        group,
        Freshness.NEVER,
        Invalidates.NOTHING,
    )


@pytest.mark.parametrize(
    "path", ["/.well-known/databricks-config", "/oidc/.well-known/oauth-authorization-server"]
)
def test_discovery(path: str) -> None:
    route = match("GET", path)
    assert (route.group, route.freshness) == (Group.NONE, Freshness.DISCOVERY)
    assert match("POST", path) is UNKNOWN


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("family", ["registered-models/", "model-versions/"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"])
def test_an_unheard_of_registry_endpoint_spends_and_its_writes_drop_everything(
    prefix: str, family: str, method: str
) -> None:
    route = match(method, f"{prefix}{family}of-tomorrow/x")
    writes = method in {"POST", "PUT", "PATCH", "DELETE"}
    assert (route.name, route.group, route.freshness) == (f"{family}*", Group.REGISTRY, Freshness.NEVER)
    assert route.invalidates is (Invalidates.REGISTRY if writes else Invalidates.NOTHING)


@pytest.mark.parametrize(
    "path", ["databricks/model-versions/transition-stage", "transition-requests/approve"]
)
def test_databricks_own_writes_drop_everything(path: str) -> None:
    assert match("POST", PREFIXES[0] + path).invalidates is Invalidates.REGISTRY
    assert match("GET", PREFIXES[0] + path) is UNKNOWN


known = st.sampled_from([*((method, path) for method, path, _ in READS), *((m, p) for m, p, _ in WRITES)])


@given(st.sampled_from(PREFIXES), known, st.data())
def test_an_encoded_spelling_spends_and_invalidates_but_does_not_share(
    prefix: str, endpoint: tuple[str, str], data: st.DataObject
) -> None:
    method, path = endpoint
    full = prefix + path
    places = data.draw(st.sets(st.integers(1, len(full) - 1), min_size=1))
    raw = "".join(f"%{ord(letter):02x}" if at in places else letter for at, letter in enumerate(full))
    route = match(method, raw)
    assert (route.group, route.freshness) == (Group.REGISTRY, Freshness.NEVER)
    if match(method, full).invalidates is not Invalidates.NOTHING:
        assert route.invalidates is Invalidates.REGISTRY


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/api/2.0/mlflow/registered-models"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts"),
        ("GET", "/api/2.0/dbfs/list"),
        ("GET", "/api/3.0/mlflow/server-info"),
        ("POST", "/api/2.1/unity-catalog/models"),
        ("GET", "/x/api/2.0/mlflow/registered-models/get"),
        ("BREW", "/api/2.0/mlflow/registered-models/get"),
    ],
)
def test_everything_else_is_unknown(method: str, path: str) -> None:
    assert match(method, path) is UNKNOWN


def test_a_trailing_slash_spends_but_does_not_share() -> None:
    route = match("GET", "/api/2.0/mlflow/registered-models/get/")
    assert (route.group, route.freshness) == (Group.REGISTRY, Freshness.NEVER)


@pytest.mark.parametrize(
    "path",
    [
        "//api/2.0/mlflow/registered-models/update",
        "/api//2.0/mlflow///registered-models/update",
        "/api/./2.0/x/../mlflow/registered-models/update",
    ],
)
def test_a_path_that_only_comes_down_to_a_write_drops_everything(path: str) -> None:
    route = match("PATCH", path)
    assert (route.group, route.invalidates) == (Group.REGISTRY, Invalidates.REGISTRY)


def test_rows_make_sense() -> None:
    spellings = [(method, route.path) for route in ROUTES for method in route.methods]
    assert len(spellings) == len(set(spellings)), "two rows for one endpoint"
    for route in ROUTES:
        reads = route.freshness is not Freshness.NEVER
        assert not (reads and route.invalidates is not Invalidates.NOTHING), route
        assert not (reads and route.path.endswith("*")), route
