"""How each block of commands in the documents is run: one table. A block without a row fails the tests.

A row names the document and what the block begins with; the longest beginning counts. Blocks that begin alike
in one document share a row.
"""

from dataclasses import dataclass

TOKEN = "dapi-of-the-documents"
MODEL = "my-model"
"""Registered at the emulated workspace, by the name that the documents use."""


@dataclass(frozen=True)
class Serves:
    """It ends in a proxy that goes on: a call reaches the workspace through it, and SIGTERM ends it with 0.

    Attributes:
        shows: what its own endpoints say meanwhile, by path.
        scheme: of its URL.
        installs: whether it installs the proxy that it starts.

    """

    shows: tuple[tuple[str, str], ...] = ()
    scheme: str = "http"
    installs: bool = False


@dataclass(frozen=True)
class Points:
    """It sets the variables of clients: a real one downloads a model through a proxy."""


@dataclass(frozen=True)
class Ends:
    """It ends with status 0 beside a proxy that runs, once for each text that its output has to contain."""

    says: tuple[str, ...] = ("",)


@dataclass(frozen=True)
class Listens:
    """It ends in a Redis that goes on, and answers."""


@dataclass(frozen=True)
class Rehearsed:
    """It would take minutes or more: its targets, modules and options exist."""


How = Serves | Points | Ends | Listens | Rehearsed


@dataclass(frozen=True)
class Row:
    """A block, by its document and its beginning, and how it is run."""

    file: str
    begins: str
    how: How


WORKSPACE = "https://my-workspace.cloud.databricks.com"
STATUS = "/-/status.json"
READY = "/-/readyz"
METRICS = "/-/metrics"

ROWS = (
    Row("README.md", f"pip install . && mlflow-proxy serve --upstream {WORKSPACE}", Serves(installs=True)),
    Row(
        "README.md",
        "export MLFLOW_TRACKING_URI=http://127.0.0.1:8080 MLFLOW_TRACKING_TOKEN=...",
        Points(),
    ),
    Row(
        "README.md",
        "make demo",
        Rehearsed(),
    ),
    Row("README.md", "export MLFLOW_TRACKING_URI=http://127.0.0.1:8080", Points()),
    Row("README.md", "export MLFLOW_TRACKING_URI=databricks", Points()),
    Row("README.md", "cp deploy/.env.example deploy/.env", Ends()),
    Row(
        "README.md",
        'curl -s -D - -o /dev/null -H "Authorization: Bearer $MLFLOW_TRACKING_TOKEN" \\',
        Ends(("mlflow-proxy; fwd=miss; stored", "mlflow-proxy; hit; ttl=")),
    ),
    Row("README.md", "curl -s http://127.0.0.1:8080/-/metrics", Ends(("mlflow_proxy_circuit_open 0.0",))),
    Row("docs/operations.md", "mlflow-proxy serve --config config.example.toml", Serves()),
    Row(
        "docs/operations.md",
        "mlflow-proxy serve --upstream https://mlflow.example.com --preset open-source",
        Serves(((STATUS, '"sharing": {"mode": "credential"'),)),
    ),
    Row(
        "docs/operations.md",
        f"mlflow-proxy serve --upstream {WORKSPACE} --host 0.0.0.0",
        Serves(scheme="https"),
    ),
    Row(
        "docs/operations.md",
        "token=$(openssl rand -hex 32)",
        Serves(((READY, '"credential"'),)),
    ),
    Row("docs/operations.md", "pip install '.[service]'", Ends()),
    Row("docs/operations.md", "curl -s http://127.0.0.1:8080/-/readyz", Ends(('"upstream_kind"',))),
    Row("docs/operations.md", "mlflow-proxy purge my-model", Ends()),
    Row(
        "docs/operations.md",
        f"mlflow-proxy serve --upstream {WORKSPACE} --redis redis://HOST:6379/0 --workers 2",
        Serves(((METRICS, "mlflow_proxy_workers 2.0"),)),
    ),
    Row(
        "docs/sharing.md",
        f"mlflow-proxy serve --upstream {WORKSPACE} --access.sharing proven",
        Serves(((STATUS, '"sharing": {"mode": "proven"'),)),
    ),
    Row("docs/sharing.md", f"mlflow-proxy serve --upstream {WORKSPACE} \\\n    --access.neutral", Serves()),
    Row(
        "docs/sharing.md",
        f"mlflow-proxy serve --upstream {WORKSPACE} --allowed-hosts mlflow-proxy.internal",
        Serves(),
    ),
    Row(
        "docs/fleet.md",
        "export MLFLOW_PROXY_FLEET__SECRET=",
        Serves(((METRICS, "mlflow_proxy_fleet_cache_shared 1.0"), (READY, '"redis"'))),
    ),
    Row(
        "docs/fleet.md",
        'redis-server --save "" --appendonly no --maxmemory 256mb --maxmemory-policy volatile-lru',
        Listens(),
    ),
    Row("docs/fleet.md", "mlflow-proxy serve --upstream http://SHARED-PROXY:8080", Serves()),
    Row("docs/benchmarks.md", "make bench", Rehearsed()),
    Row(
        "docs/benchmarks.md",
        "make bench ARGS=",
        Rehearsed(),
    ),
    Row("docs/benchmarks.md", ".venv/bin/python -m tests.bench.hits", Rehearsed()),
    Row("docs/benchmarks.md", ".venv/bin/python -m tests.bench.fleet --only secret --clients 1", Rehearsed()),
    Row("docs/benchmarks.md", ".venv/bin/python -m tests.bench.fleet --overhead", Rehearsed()),
    Row("docs/benchmarks.md", ".venv/bin/python -m tests.bench.budget", Rehearsed()),
    Row("docs/benchmarks.md", ".venv/bin/python -m tests.bench.outside --light", Rehearsed()),
    Row("docs/benchmarks.md", "make demo ARGS='--clients 1'", Rehearsed()),
    Row("docs/benchmarks.md", ".venv/bin/python -m tests.chaos --minutes 10", Rehearsed()),
    Row("docs/benchmarks.md", ".venv/bin/python -m tests.soak --calls 24000", Rehearsed()),
    Row("docs/benchmarks.md", ".venv/bin/python -m tests.fuzz --minutes 30", Rehearsed()),
    Row("CONTRIBUTING.md", ".venv/bin/python -m tests.fuzz --minutes 10", Rehearsed()),
    Row("deploy/databricks-cluster.md", "pip wheel --no-deps --wheel-dir dist .", Ends()),
    Row("deploy/databricks-cluster.md", "databricks secrets create-scope mlflow", Ends()),
    Row("deploy/databricks-cluster.md", "MLFLOW_TRACKING_URI=http://127.0.0.1:8080", Points()),
    Row("deploy/databricks-cluster.md", "MLFLOW_TRACKING_URI=databricks", Points()),
)

SETTINGS_ONLY = ("MLFLOW_PROXY_",)
"""Blocks of variables that begin so set the proxy's own: that they exist is tested with all other names."""

TEXT_ONLY = frozenset({"text", "json", "toml", "python"})
"""Languages of blocks that are not commands."""

STAND_INS = r"""
# For programs that a test machine does not have, or that reach other machines: what they are given exists.
docker() { [[ "$1 $2" == "compose --file" ]] && test -f "$3" && [[ " up down ps logs " == *" $4 "* ]]; }
databricks() {
    case "$1 $2" in
        "fs cp") test -f "$3" && [[ $4 == dbfs:/Volumes/* ]] ;;
        "secrets create-scope" | "secrets put-secret") test -n "$3" ;;
        *) echo "databricks $*: not known to the tests" >&2; return 1 ;;
    esac
}
"""
