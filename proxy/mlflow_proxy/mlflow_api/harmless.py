"""Writes that are known to leave registered models, their versions and all permissions on them alone.

Every other write drops whatever it might have changed: an answer or a proof that outlives what it rests on
is worse than one that is fetched again. So a row needs a reason, and what only may be harmless has no row.
What matters is what the call itself changes. Code that it starts (a job, a command, a model that is served)
makes calls of its own, which are judged by themselves.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mlflow_proxy.mlflow_api.api_prefixes import ANY_API
from mlflow_proxy.mlflow_api.lenient_paths import has_steps, readings, settles


@dataclass(frozen=True, slots=True)
class Family:
    """Some paths, with all that is below them, and why a write there makes no stored answer wrong.

    ``paths`` are below an API prefix of any version, or absolute when they begin with a slash.
    """

    paths: tuple[str, ...]
    reason: str


HARMLESS: tuple[Family, ...] = (
    # MLflow, on Databricks and elsewhere
    Family(
        ("mlflow/runs", "mlflow/metrics"),
        "A model version keeps the id of its run, and nothing of what is in it.",
    ),
    Family(
        ("mlflow/experiments",),
        "Experiments hold runs; permissions on them, set at their creation too, are not on models.",
    ),
    Family(
        ("mlflow/artifacts", "mlflow/upload-artifact", "mlflow-artifacts"),
        "Files of runs. What is stored of a model version's files is of the registry's own copy.",
    ),
    Family(
        ("mlflow/logged-models",),
        "What a run has logged; registering it is a call to model-versions.",
    ),
    Family(
        ("mlflow/traces", "otel", "/v1/traces"),
        "Spans, their assessments and tags; a link to a prompt is kept with the trace.",
    ),
    Family(("mlflow/datasets",), "Evaluation data, attached to experiments."),
    Family(
        ("mlflow/unity-catalog", "unity-catalog"),
        "Another registry, with names, versions and grants of its own, of which nothing is stored.",
    ),
    Family(
        ("mlflow/gateway-proxy", "/gateway", "/ai-gateway"),
        "Questions to a language model; what configures a gateway is elsewhere.",
    ),
    Family(("mlflow/ui-telemetry", "mlflow/client-telemetry"), "Counts for the maker."),
    Family(("/graphql",), "MLflow's schema has searches, which its pages send as POST, and an echo."),
    # The rest of a Databricks workspace, as jobs use it
    Family(
        ("/oidc/v1/token",),
        "Makes a token that no client has used yet, and ends none (RFC 6749 section 4.4).",
    ),
    Family(
        ("jobs/create", "jobs/reset", "jobs/update", "jobs/delete", "jobs/run-now", "jobs/runs", "pipelines"),
        "Jobs and pipelines, their runs, and permissions on them.",
    ),
    Family(
        ("clusters", "contexts", "commands", "libraries", "instance-pools", "policies/clusters"),
        "Machines, what is installed there, and code that is sent to them.",
    ),
    Family(("/driver-proxy-api",), "Code that a job has started on its own machine."),
    Family(
        ("sql/statements", "sql/sessions", "sql/warehouses", "/sql/1.0", "/sql/protocolv1"),
        "SQL knows Unity Catalog only: no statement reaches the workspace's registry or who may read it.",
    ),
    Family(("dbfs", "fs", "sandbox-files"), "Files, and URLs for them."),
    Family(
        ("workspace/import", "workspace/delete", "workspace/mkdirs", "workspace-files", "repos"),
        "Notebooks, files and folders; permissions on them are set elsewhere.",
    ),
    Family(
        ("serving-endpoints", "/serving-endpoints"),
        "Names the versions that are served and answers questions by them; none is changed.",
    ),
    Family(("vector-search", "ai-search"), "Indexes over tables, and searches in them."),
    Family(("/telemetry-ext", "/telemetry-unauth"), "Counts that the vendor's drivers send."),
)


def _below(paths: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(paths)))


_PATHS = [path for family in HARMLESS for path in family.paths]
_HARMLESS = re.compile(
    rf"(?:{ANY_API}(?:{_below(path for path in _PATHS if path[0] != '/')})"
    rf"|(?:{_below(path for path in _PATHS if path[0] == '/')}))(?:/.*)?",
    re.DOTALL,
)


def is_harmless(raw_path: str) -> bool:
    """Whether a write to a path leaves models and permissions alone, however a server may read the path."""
    if not _HARMLESS.fullmatch(raw_path.casefold()):
        return False  # as it is written, which is the first of its readings and the cheapest
    if not settles(raw_path) or has_steps(raw_path):
        return False
    return all(map(_HARMLESS.fullmatch, readings(raw_path)))
