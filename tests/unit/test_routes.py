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
    overrides_method,
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
        ("BREW", "/api/2.0/mlflow/x"),
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
        "/api/2.0/mlflow/registered-models/update/",
        "/api/2.0/mlflow/registered-models/update/.",
        "/api/2.0/mlflow/registered-models%2Fupdate",
        "/api/2.0/mlflow/registered-models%252Fupdate",
        "/api/2.0/mlflow/registered-models%25252Fupdate",
        "/api/2.0/mlflow/registered%252525252dmodels/../registered-models/update",
        "/api/2.0/mlflow/registered-models;x=1/update",
        "/api/2.0/mlflow/registered-models%3bx=1/update",
        "/api/2.0/mlflow/registered-models/update;jsessionid=1",
        "/api;v=1/2.0/mlflow/registered-models/update",
        "/api/2.0/mlflow\\registered-models\\update",
        "/api/2.0/mlflow%5cregistered-models%5cupdate",
        "/API/2.0/MLflow/Registered-Models/Update",
        "/api/2.0/mlflow/x/%2e%2e/registered-models/update",
        "/api/2.0/mlflow/x/..%2fregistered-models/update",
        "/api/2.0/mlflow/x/..;y/registered-models/update",
        "/api/2.0/mlflow/registered-models/x/../update",
        "/api/2.0/mlflow/registered-models/%2e%2e/%2e%2e/x",
        "/api/2.0/mlflow/registered-models%00/update",
        "/api/2.0/mlflow/registered-models%20/update",
        "/api/2.0/mlflow/registered-models\x00/update",
        "/api/2.0/mlflow/registered-models/%ff",
        "/api/2.0/mlflow/registered-models/\udcff",
        "/api/2.0/mlflow%c0%afregistered-models/update",
        "/api/2.0/mlflow/registered%u002dmodels/update",
        "/api/2.0/mlflow/registered-models／update",
        "/api/2.0/mlflow/%EF%BD%92egistered-models/update",
        "/api/2.0/mlflow/registered-models/update%3fname=m",
        "/api/2.0/mlflow/experiments/..%2fregistered-models/update",
    ],
)
def test_a_path_that_some_server_takes_for_a_write_drops_everything(path: str) -> None:
    route = match("PATCH", path)
    assert (route.group, route.invalidates) == (Group.REGISTRY, Invalidates.REGISTRY)
    read = match("GET", path)
    assert (read.group, read.freshness) == (Group.REGISTRY, Freshness.NEVER)


@pytest.mark.parametrize("method", ["BREW", "patch", "Delete", "MKCOL", "LINK"])
def test_a_method_nobody_knows_may_write(method: str) -> None:
    route = match(method, "/api/2.0/mlflow/registered-models/get")
    assert (route.group, route.invalidates) == (Group.REGISTRY, Invalidates.REGISTRY)


@pytest.mark.parametrize("path", ["runs%2fsearch", "runs/search/", "Runs/Search", "runs;x/search"])
def test_another_spelling_leads_around_no_limit(path: str) -> None:
    assert match("POST", PREFIXES[0] + path).group is Group.RUNS_SEARCH
    assert match("POST", PREFIXES[0] + "runs/search", overridden=True).group is Group.RUNS_SEARCH


@pytest.mark.parametrize(
    ("names", "query", "doubtful"),
    [
        (["X-HTTP-Method-Override"], "", True),
        (["Accept", "x-http-method"], "", True),
        (["X-METHOD-OVERRIDE"], "", True),
        (["X_HTTP_Method_Override"], "", True),
        ([], "name=m&_method=DELETE", True),
        ([], "name=m;_Method=DELETE", True),
        ([], "%5fmethod", True),
        ([], "filter=tags.training_method%3D1&x=_method=", False),
        (["X-Method", "Accept"], "method=DELETE", False),
    ],
)
def test_fields_by_which_a_method_may_be_another(names: list[str], query: str, doubtful: bool) -> None:
    assert overrides_method(names, query) is doubtful


@pytest.mark.parametrize(("method", "path", "freshness"), READS)
def test_a_read_that_may_be_a_write_is_one(method: str, path: str, freshness: Freshness) -> None:
    route = match(method, PREFIXES[0] + path, overridden=True)
    assert (route.group, route.freshness, route.invalidates) == (
        Group.REGISTRY, Freshness.NEVER, Invalidates.REGISTRY,
    )  # fmt: skip
    assert match("GET", "/.well-known/databricks-config", overridden=True) is UNKNOWN


def test_a_path_that_is_encoded_without_end_is_read_in_time() -> None:
    assert match("GET", "/" + "%" + "25" * 16_000 + "2e") is UNKNOWN


@pytest.mark.parametrize("path", ["/api/2.0/mlflow-artifacts/artifacts/1/a%20b/runs/x;y/registered-models/z"])
def test_files_are_no_calls(path: str) -> None:
    assert match("PUT", path) is UNKNOWN


def test_rows_make_sense() -> None:
    spellings = [(method, route.path) for route in ROUTES for method in route.methods]
    assert len(spellings) == len(set(spellings)), "two rows for one endpoint"
    for route in ROUTES:
        reads = route.freshness is not Freshness.NEVER
        assert not (reads and route.invalidates is not Invalidates.NOTHING), route
        assert not (reads and route.path.endswith("*")), route
