"""The route table holds every endpoint that is known, under each of its spellings."""

import posixpath
import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.mlflow_api.api_prefixes import API_PREFIXES
from mlflow_proxy.mlflow_api.harmless import HARMLESS, is_harmless
from mlflow_proxy.mlflow_api.routes import (
    ROUTES,
    UNKNOWN,
    UNKNOWN_WRITE,
    Freshness,
    Group,
    Invalidates,
    match,
    overrides_method,
)

PREFIXES = [
    "/api/2.0/mlflow/",
    "/api/2.0/preview/mlflow/",
    "/ajax-api/2.0/mlflow/",
    "/ajax-api/2.0/preview/mlflow/",
]
OTHER_VERSIONS = [
    f"{root}{version}/{preview}mlflow/"
    for root in ("/api/", "/ajax-api/")
    for version in ("2.1", "3.0", "4.0", "5.0", "12.34")
    for preview in ("", "preview/")
]
ALL_PREFIXES = [*PREFIXES, *OTHER_VERSIONS]

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


def test_the_prefixes_under_which_answers_are_shared() -> None:
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


@pytest.mark.parametrize("prefix", OTHER_VERSIONS)
@pytest.mark.parametrize(("method", "path", "freshness"), READS)
def test_registry_reads_of_other_versions_spend_and_are_not_shared(
    prefix: str, method: str, path: str, freshness: Freshness
) -> None:
    route = match(method, prefix + path)
    assert (route.name, route.group, route.freshness, route.invalidates) == (
        path,
        Group.REGISTRY,
        Freshness.NEVER,
        Invalidates.NOTHING,
    )


@pytest.mark.parametrize("prefix", ALL_PREFIXES)
@pytest.mark.parametrize(("method", "path", "invalidates"), WRITES)
def test_registry_writes(prefix: str, method: str, path: str, invalidates: Invalidates) -> None:
    route = match(method, prefix + path)
    assert (route.name, route.group, route.freshness, route.invalidates) == (
        path,
        Group.REGISTRY,
        Freshness.NEVER,
        invalidates,
    )


@pytest.mark.parametrize("prefix", ALL_PREFIXES)
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
    assert match("POST", path) is UNKNOWN_WRITE


@pytest.mark.parametrize("prefix", ALL_PREFIXES)
@pytest.mark.parametrize("family", ["registered-models/", "model-versions/"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"])
def test_an_unheard_of_registry_endpoint_spends_and_its_writes_drop_everything(
    prefix: str, family: str, method: str
) -> None:
    route = match(method, f"{prefix}{family}of-tomorrow/x")
    writes = method in {"POST", "PUT", "PATCH", "DELETE"}
    assert (route.name, route.group, route.freshness) == (f"{family}*", Group.REGISTRY, Freshness.NEVER)
    assert route.invalidates is (Invalidates.REGISTRY if writes else Invalidates.NOTHING)


# -- writes of unknown reach ----------------------------------------------------------------------

writing = st.sampled_from(["POST", "PUT", "PATCH", "DELETE"])


def effect(method: str, path: str) -> tuple[Group, Invalidates]:
    route = match(method, path)
    return route.group, route.invalidates


segments = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_:.", min_size=1, max_size=12).filter(
    lambda text: text.strip(".") != ""
)
endpoints = st.one_of(
    st.sampled_from([path for _, path, _ in [*READS, *WRITES, *TRACKING]]),
    st.sampled_from([path.removeprefix("mlflow/") for each in HARMLESS for path in each.paths]),
    st.lists(segments, min_size=1, max_size=4).map("/".join),
)


@given(st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "LINK"]), endpoints)
def test_one_path_is_the_same_under_every_prefix(method: str, path: str) -> None:
    assert len({effect(method, prefix + path) for prefix in ALL_PREFIXES}) == 1
    roots = [prefix.removesuffix("mlflow/") for prefix in ALL_PREFIXES]
    assert len({effect(method, root + path) for root in roots}) == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/api/2.0/mlflow/users/delete"),
        ("POST", "/api/2.0/mlflow/users/create"),
        ("POST", "/api/2.0/mlflow/users/create-ui"),
        ("PATCH", "/api/2.0/mlflow/users/update-password"),
        ("PATCH", "/ajax-api/2.0/mlflow/users/update-admin"),
        ("POST", "/api/3.0/mlflow/users/permissions/revoke"),
        ("POST", "/api/3.0/mlflow/roles/permissions/remove"),
        ("DELETE", "/ajax-api/3.0/mlflow/roles/unassign"),
        ("POST", "/ajax-api/3.0/mlflow/demo/generate"),
        ("DELETE", "/api/3.0/mlflow/workspaces/W"),
        ("POST", "/ajax-api/3.0/mlflow/assistant/message"),
        ("POST", "/ajax-api/3.0/jobs/"),
        ("POST", "/api/3.0/mlflow/prompt-optimization/jobs"),
        ("POST", "/api/3.0/mlflow/review-queues/get-or-create-user"),
        ("POST", "/api/2.0/mlflow/webhooks"),
        ("POST", "/api/2.0/mlflow/databricks/model-versions/transition-stage"),
        ("POST", "/api/2.0/mlflow/transition-requests/approve"),
        ("PUT", "/api/2.0/permissions/registered-models/1"),
        ("PATCH", "/api/2.0/preview/permissions/registered-models/1"),
        ("PATCH", "/ajax-api/2.0/preview/permissions/registered-models/1"),
        ("PATCH", "/api/2.0/preview/scim/v2/Groups/1"),
        ("DELETE", "/api/2.0/preview/scim/v2/Users/1"),
        ("PUT", "/api/2.0/preview/accounts/access-control/rule-sets"),
        ("POST", "/api/2.0/accounts/1/workspaces/2/permissionassignments/principals/3"),
        ("POST", "/api/2.0/token/delete"),
        ("DELETE", "/api/2.0/token-management/tokens/1"),
        ("POST", "/api/2.0/groups/remove-member"),
        ("PATCH", "/api/2.0/workspace-conf"),
        ("PUT", "/api/2.0/ip-access-lists/1"),
        ("POST", "/signup"),
        ("POST", "/oauth2/sign_out"),
        ("POST", "/oidc/v1/revoke"),
        ("POST", "/prefix/api/2.0/mlflow/registered-models/rename"),
        ("POST", "/"),
        ("BREW", "/api/2.0/mlflow/x"),
    ],
)
def test_a_write_of_unknown_reach_drops_everything(method: str, path: str) -> None:
    assert match(method, path) is UNKNOWN_WRITE
    assert match("GET", path) is UNKNOWN
    assert match("GET", path, overridden=True) is UNKNOWN_WRITE


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/api/2.0/mlflow-artifacts/artifacts/1/a%20b/runs/x;y/registered-models/z"),
        ("POST", "/api/2.0/mlflow-artifacts/mpu/create/1/a"),
        ("POST", "/api/2.0/mlflow/traces"),
        ("POST", "/api/4.0/mlflow/traces/catalog.schema/search"),
        ("PATCH", "/api/3.0/mlflow/traces/tr-1/assessments/a-1"),
        ("PATCH", "/api/2.0/mlflow/logged-models/m-1"),
        ("POST", "/api/2.0/otel/v1/traces"),
        ("POST", "/v1/traces"),
        ("POST", "/graphql"),
        ("POST", "/gateway/chat/mlflow/invocations"),
        ("POST", "/api/2.0/mlflow/unity-catalog/model-versions/generate-temporary-credentials"),
        ("POST", "/api/2.1/unity-catalog/models"),
        ("POST", "/oidc/v1/token"),
        ("POST", "/api/2.2/jobs/run-now"),
        ("POST", "/api/2.1/jobs/runs/submit"),
        ("POST", "/api/1.2/commands/execute"),
        ("POST", "/api/2.1/clusters/start"),
        ("POST", "/api/2.0/sql/statements/"),
        ("POST", "/sql/1.0/warehouses/abc"),
        ("POST", "/api/2.0/dbfs/add-block"),
        ("PUT", "/api/2.0/fs/files/Volumes/c/s/v/a%2525b"),
        ("POST", "/api/2.0/fs/create-download-url"),
        ("POST", "/api/2.0/workspace-files/import-file/Users/a%40b.c/n.py"),
        ("POST", "/serving-endpoints/e/invocations"),
        ("POST", "/api/2.0/vector-search/indexes/c.s.i/query"),
    ],
)
def test_what_jobs_write_all_the_time_drops_nothing(method: str, path: str) -> None:
    assert match(method, path) is UNKNOWN


@pytest.mark.parametrize(
    "path",
    [
        "/api/2.0/mlflow/runs/../users/delete",
        "/api/2.0/mlflow/runs/%2e%2e/users/delete",
        "/api/2.0/mlflow/runs/x/..%2f..%2fusers/delete",
        "/api/2.0/mlflow/runs/..;x/users/delete",
        "/api/2.0/mlflow/runs/..%5cusers%5cdelete",
        "/api/2.0/mlflow/runs%2f..%2fusers/delete",
        "/api/2.0/mlflow/runs%2flog-metric",
        "/api/2.0/mlflow/runs\\",
        "/api/2.0/mlflow/runs/a\\b/../../users/delete",
        "/api/2.0/mlflow/runs/x/..;a\\b/../users/delete",
        "/api/2.0/mlflow/runs/a\uff0fb/../../users/delete",
        "/api/2.0/mlflow/runs/./x",
        "/api/2.0/mlflow/runs" + "/%252e%252e" * 2 + "/permissions/x",
        "/v1/traces/../../api/2.0/token/delete",
        "/gateway/%2e%2e/api/2.0/token/delete",
        "/api/2.0/fs/files/..%c0%af..%c0%afpermissions/x",
        "/api/2.0/dbfs/%" + "25" * 6 + "2e%2e/x",
        "/api/2.0/dbfsx",
        "/api/2.0/jobs",
        "/api/2.0/workspace-conf",
        "/api/x/mlflow/runs/log-metric",
        "/api/2.0/preview/preview/mlflow/runs/log-metric",
        "/x/v1/traces",
    ],
)
def test_a_path_must_be_harmless_by_every_reading(path: str) -> None:
    assert not is_harmless(path)
    assert match("POST", path).invalidates is Invalidates.REGISTRY
    assert match("GET", path).invalidates is Invalidates.NOTHING


FRAGMENTS = (
    *("/", "//", "/./", "/../", "/%2e%2e/", "%2f", "\\", "%5c", ";x", "%3b", "%00", "%25", "%252e%252e"),
    *("api", "ajax-api", "2.0", "3.0", "preview", "mlflow", "runs", "users", "permissions", "v1", "traces"),
    *("registered-models", "Registered-Models", "delete", "x", "\u212a", "%u002f", "%c0%af"),
)


def below_harmless(path: str) -> bool:
    """Say in words of the test's own where a path leads."""
    families = [each for row in HARMLESS for each in row.paths]
    api = re.fullmatch(r"/(?:ajax-)?api/\d+\.\d+/(?:preview/)?(.*)", path, re.DOTALL)
    named = path if api is None else api[1]
    return any(f"{named}/".startswith(f"{each}/") for each in families if (each[0] != "/") is bool(api))


@given(
    st.sampled_from(["/api/2.0/mlflow/runs", "/v1/traces", "/api/2.0/dbfs", "/api/3.0/mlflow/users", "/"]),
    st.lists(st.sampled_from(FRAGMENTS), max_size=10).map("".join),
    writing,
)
def test_what_is_not_noticed_is_harmless_wherever_it_is_read(start: str, rest: str, method: str) -> None:
    route = match(method, start + rest)
    if route.invalidates is not Invalidates.NOTHING or route.freshness is not Freshness.NEVER:
        return
    read = start + rest
    while (decoded := unquote(read)) != read:
        read = decoded
    for parameters in ("", r";[^/\\]*"):
        for slashes in ("/", r"[/\\]+"):
            taken = re.sub(slashes, "/", re.sub(parameters, "", read))
            assert below_harmless(posixpath.normpath(taken).casefold()), taken


@given(segments, writing, st.sampled_from(["", "mlflow/"]), st.sampled_from(["delete", "x/y", ""]))
def test_a_family_of_tomorrow_drops_everything(family: str, method: str, below: str, rest: str) -> None:
    path = f"/api/2.0/{below}{family}/{rest}"
    if below_harmless(path) or f"{below}{family}" in {"mlflow/registered-models", "mlflow/model-versions"}:
        return
    assert match(method, path) is UNKNOWN_WRITE


def test_harmless_families_are_spelt_as_they_are_read() -> None:
    paths = [path for family in HARMLESS for path in family.paths]
    assert len(paths) == len(set(paths))
    for path in paths:
        assert path == path.lower().rstrip("/")
        assert is_harmless(path if path[0] == "/" else f"/api/2.0/{path}")
    assert all(family.reason.endswith(".") for family in HARMLESS)
    risky = ("registered-models", "model-versions", "permission", "user", "group", "scim", "token", "role")
    assert [path for path in paths if any(word in path for word in risky)] == ["/oidc/v1/token"]


def test_rows_that_drop_nothing_are_harmless() -> None:
    for route in ROUTES:
        writes = {"POST", "PUT", "PATCH", "DELETE"} & set(route.methods)
        if writes and route.freshness is Freshness.NEVER and route.invalidates is Invalidates.NOTHING:
            assert is_harmless(PREFIXES[0] + route.path.removesuffix("*")), route


# -- other spellings --------------------------------------------------------------------------------

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
        ("GET", "/x/api/2.0/mlflow/registered-models/get"),
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
        "/api/2.0/mlflow/runs/a\\b/../../registered-models/update",
        "/api/2.0/mlflow/runs/a%5cb/%2e%2e/%2e%2e/registered-models/update",
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
    assert match("GET", "/.well-known/databricks-config", overridden=True) is UNKNOWN_WRITE


def test_a_path_that_is_encoded_without_end_is_read_in_time() -> None:
    assert match("GET", "/" + "%" + "25" * 16_000 + "2e") is UNKNOWN


def test_rows_make_sense() -> None:
    spellings = [(method, route.path) for route in ROUTES for method in route.methods]
    assert len(spellings) == len(set(spellings)), "two rows for one endpoint"
    for route in ROUTES:
        reads = route.freshness is not Freshness.NEVER
        assert not (reads and route.invalidates is not Invalidates.NOTHING), route
        assert not (reads and route.path.endswith("*")), route


def test_what_may_be_kept_has_a_shape() -> None:
    for route in ROUTES:
        assert (route.shape is None) is (route.freshness is Freshness.NEVER)
