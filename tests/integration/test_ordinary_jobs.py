"""What ordinary life adds to requests must not switch sharing off: each job has a token of its own.

Beside that: a load balancer's forwarding fields and sticky cookie (a real nginx), the fields of a tracing
library (real ones, in real clients), and those by which MLflow says which Databricks job it is in.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from mlflow_proxy.demo.journal import Arrivals
from mlflow_proxy.demo.light_client import callers, storm
from mlflow_proxy.demo.models import storm_model
from mlflow_proxy.demo.plain_http import PlainClient
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.settings import AccessSettings
from tests.integration.support import MODEL, MUCH, proxied, until_shared
from tests.integration.test_clients import Door, contents, download, files_in, job
from tests.nginx import load_balancer

FILES, DIRECTORIES = 5, 2
JOBS = 3
DEFAULT = AccessSettings()


def emulated(tokens: Sequence[str]) -> EmulatedWorkspace:
    model = storm_model(files=FILES, directories=DIRECTORIES, file_size=100)
    return EmulatedWorkspace([model], WorkspaceOptions(limit=MUCH, latency=0, tokens=frozenset(tokens)))


@asynccontextmanager
async def sharing(workspace: EmulatedWorkspace) -> AsyncIterator[str]:
    """Serve a proxy that knows what its upstream is; yields its URL."""
    async with proxied(workspace.url, access=DEFAULT) as url:
        await until_shared(url)
        yield url


def asked(workspace: EmulatedWorkspace) -> tuple[int, int]:
    """Return how many calls asked for what is shared, and how many proved that a caller may read it.

    Raises AssertionError if something shared was asked for twice.
    """
    arrivals = workspace.registry_arrivals
    shared = Arrivals(arrival for arrival in arrivals if arrival.endpoint != MODEL)
    assert len(shared) == shared.distinct()
    return len(shared), len(arrivals.to(MODEL))


# -- behind a load balancer ------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 6])
async def test_behind_a_load_balancer_the_model_costs_what_it_costs_one(tokens: int) -> None:
    jobs = callers(6, tokens, addresses=True)
    async with (
        emulated([caller.token for caller in jobs]) as workspace,
        sharing(workspace) as behind,
        load_balancer(behind) as url,
    ):
        downloads = await storm(url, jobs, workspace.models["storm"])
        assert [failure for each in downloads for failure in each.failures] == []
        # A proof for each token, at each address: who may come from one may not from another.
        assert asked(workspace) == (FILES + DIRECTORIES, 6)


async def test_what_the_load_balancer_adds() -> None:
    async with emulated(["job"]) as workspace, sharing(workspace) as behind, load_balancer(behind) as url:
        async with PlainClient() as http:
            for _ in range(2):
                await http.get(f"{url}/api/2.0/passed/through", {"X-Forwarded-For": "10.1.0.1"})
        first, second = workspace.arrivals.to("/api/2.0/passed/through")
        for name in ("Via", "Forwarded", "X-Real-IP", "X-Forwarded-Proto", "X-Forwarded-Host"):
            assert first.headers[name] == second.headers[name]
        for name in ("X-Request-Id", "X-Amzn-Trace-Id", "traceparent"):
            assert first.headers[name] != second.headers[name]
        assert first.headers["X-Forwarded-For"] == "10.1.0.1, 127.0.0.1"
        assert "Cookie" not in first.headers
        assert second.headers["Cookie"].startswith(f"AWSALB={first.headers['X-Request-Id']}; AWSALBCORS=")


# -- real clients ----------------------------------------------------------------------------------


async def downloaded(
    version: str,
    door: Door,
    url: str,
    home: Path,
    environments: Mapping[str, Mapping[str, str]],
    script: str = "download.py",
) -> None:
    """Let a job with each of the tokens download at once, in the environment given with it."""
    async with AsyncExitStack() as stack:
        processes = {}
        for token, more in environments.items():
            own = home / token
            own.mkdir(parents=True)
            started = job(version, door, url, own, token, dict(more), script)
            processes[own / "model"] = await stack.enter_async_context(started)
        errors = await asyncio.gather(
            *(download(process, {str(to): "models:/storm/1"}) for to, process in processes.items())
        )
    assert errors == [{}] * len(processes)
    files = storm_model(files=FILES, directories=DIRECTORIES, file_size=100).versions["1"].files
    for to in processes:
        assert files_in(to) == contents(dict(files))


TRACED = {
    "opentelemetry": ("traceparent", "b3", "X-B3-TraceId", "X-B3-SpanId", "X-B3-Sampled"),
    "sentry": ("sentry-trace", "baggage"),
}
"""Tracing libraries, and the fields that each of them adds."""


@pytest.mark.parametrize(
    ("library", "door"), [("opentelemetry", "A"), ("opentelemetry", "B"), ("sentry", "B")]
)
async def test_traced_jobs_share(tmp_path: Path, library: str, door: Door) -> None:
    tracing = {"TRACING": library, "OTEL_PROPAGATORS": "tracecontext,baggage,b3,b3multi"}
    jobs = {f"job-{number}": tracing for number in range(JOBS)}
    script = "traced_download.py"
    async with emulated(list(jobs)) as workspace, sharing(workspace) as url:
        await downloaded("3", "B", workspace.url, tmp_path / "direct", {"job-0": tracing}, script)
        direct = workspace.registry_arrivals
        for name in TRACED[library]:
            assert all(name in arrival.headers for arrival in direct), name
        assert len({arrival.headers[TRACED[library][0]] for arrival in direct}) == len(direct)
        workspace.reset()
        await downloaded("3", door, url, tmp_path, jobs, script)
        located = door == "A"  # where the model is, which clients ask by this door alone
        assert asked(workspace) == (FILES + DIRECTORIES + located, JOBS)


def on_job_cluster(version: str, number: int) -> dict[str, str]:
    """Return the environment of one job on Databricks: every identifier is its own."""
    context = {
        "isInNotebook": True,
        "notebookId": f"{number}",
        "isInJob": True,
        "jobId": f"{number}",
        "idInJob": f"run-{number}",
        "jobTaskType": "NOTEBOOK",
        "isInCluster": True,
        "clusterId": f"cluster-{number}",
        "commandRunId": f"command-{number}",
        "workloadId": f"workload-{number}",
        "workloadClass": "JOB",
    }
    return {
        "REPL_CONTEXT": json.dumps(context),
        "PYTHONPATH": str(Path(__file__).with_name("job_cluster")),
        "DATABRICKS_RUNTIME_VERSION": "16.4",
        # By the SDK, 2.22 sends none of it.
        **({"MLFLOW_ENABLE_DB_SDK": "false"} if version == "2.22" else {}),
    }


_JOB = ("notebook_id", "job_id", "job_run_id", "job_type", "cluster_id", "workload_id", "workload_class")
JOB_FIELDS = {"3": _JOB, "2.22": (*_JOB, "command_run_id")}
"""What clients on a job cluster add, by their version (mlflow's `databricks_request_header_provider`)."""


@pytest.mark.parametrize(("version", "door"), [("3", "A"), ("3", "B"), ("2.22", "B")])
async def test_jobs_on_databricks_share(tmp_path: Path, version: str, door: Door) -> None:
    jobs = {f"job-{number}": on_job_cluster(version, number) for number in range(JOBS)}
    async with emulated(list(jobs)) as workspace, sharing(workspace) as url:
        await downloaded(version, "B", workspace.url, tmp_path / "direct", {"job-0": jobs["job-0"]})
        for name in JOB_FIELDS[version]:
            assert all(name in arrival.headers for arrival in workspace.registry_arrivals), name
        workspace.reset()
        await downloaded(version, door, url, tmp_path, jobs)
        located = door == "A"  # where the model is, which clients ask by this door alone
        assert asked(workspace) == (FILES + DIRECTORIES + located, JOBS)
