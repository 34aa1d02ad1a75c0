"""Measure a storm of clients while others, who do not use the proxy, take a part of the limit.

It prints Markdown and asserts nothing. Run it as `python -m tests.bench.outside`.
"""

import argparse
import asyncio
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mlflow_proxy import __version__
from mlflow_proxy.demo.command import OUTSIDER, outside_traffic, refusals_by_proxy
from mlflow_proxy.demo.journal import Arrival, Arrivals
from mlflow_proxy.demo.light_client import WORKERS, Caller
from mlflow_proxy.demo.models import storm_model
from mlflow_proxy.demo.storm import door_variables, real_clients
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from tests.bench import setups
from tests.bench.measure import load, loaders
from tests.bench.storage import StorageProcess
from tests.environments import CLIENTS

LIMIT = 40
FILES, DIRECTORIES = 204, 22
CALLS = FILES + DIRECTORIES


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.outside", description=__doc__)
    parser.add_argument("--clients", type=int, default=20, help="mlflow 3 clients (default: 20)")
    parser.add_argument("--light", action="store_true", help="light clients: real ones take whole cores")
    parser.add_argument(
        "--outside-qps", type=float, default=20, help="calls a second of others (default: 20)"
    )
    parser.add_argument("--repetitions", type=int, default=2, help="of the storm (default: 2)")
    options = parser.parse_args()
    left = LIMIT - options.outside_qps
    kind = "light clients" if options.light else "real clients of mlflow 3"
    print(
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, mlflow-proxy {__version__}; workspace, others, proxy and "
        f"clients share the machine.\n"
        f"{options.clients} {kind} (door B) download {FILES} files in {DIRECTORIES} "
        f"directories at once; {LIMIT} calls a second, 30 ms latency, of which others take "
        f"{options.outside_qps:g}, evenly spaced; floor {CALLS}/{left:g} = {CALLS / left:.2f} s. "
        f"Interpreters start before.\n"
    )
    head = (
        "time|× floor|calls|distinct|429s of the workspace|others' calls|429s of others|"
        "429s at clients|failed clients|load before|load after"
    )
    print(f"| {head.replace('|', ' | ')} |\n|{' --- |' * (head.count('|') + 1)}", flush=True)
    storm = _light if options.light else _real
    for _ in range(options.repetitions):
        row = asyncio.run(storm(options.clients, options.outside_qps, CALLS / left))
        print(f"| {' | '.join(row)} |", flush=True)


async def _light(count: int, qps: float, floor: float) -> list[str]:
    model = storm_model(files=FILES, directories=DIRECTORIES)
    options = WorkspaceOptions(limit=LIMIT)
    with loaders() as pool:
        async with (
            EmulatedWorkspace([model], options, storage_type=StorageProcess) as workspace,
            setups.proxy(workspace.url) as url,
            outside_traffic(workspace.url, qps),
        ):
            await asyncio.sleep(2)  # until the others are under way
            workspace.reset()
            before = os.getloadavg()[0]
            downloads, _ = await asyncio.get_running_loop().run_in_executor(
                pool, load, url, [Caller()] * count, model, WORKERS, False
            )
            seconds = max(each.ended for each in downloads) - min(each.began for each in downloads)
            arrivals = list(workspace.registry_arrivals)
            failures = [failure for download in downloads for failure in download.failures]
            seen = await refusals_by_proxy(url)
    return _row(seconds, floor, arrivals, failures, seen, before)


async def _real(count: int, qps: float, floor: float) -> list[str]:
    model = storm_model(files=FILES, directories=DIRECTORIES)
    with _low_priority(CLIENTS["3"]) as python:
        async with (
            EmulatedWorkspace([model], WorkspaceOptions(limit=LIMIT)) as workspace,
            setups.proxy(workspace.url) as url,
            real_clients(
                python, f"models:/{model.name}/1", [door_variables("b", url, "job")] * count
            ) as clients,
            outside_traffic(workspace.url, qps),
        ):
            await asyncio.sleep(2)  # until the others are under way
            workspace.reset()
            before = os.getloadavg()[0]
            began = time.monotonic()
            await asyncio.gather(*(client.download() for client in clients))
            seconds = time.monotonic() - began
            arrivals = list(workspace.registry_arrivals)
            for client in clients:
                client.compare(model.versions["1"].files)
            failures = [client.failure for client in clients if client.failure]
            seen = await refusals_by_proxy(url)
    return _row(seconds, floor, arrivals, failures, seen, before)


def _row(
    seconds: float, floor: float, arrivals: list[Arrival], failures: Sequence[str], seen: int, before: float
) -> list[str]:
    after = os.getloadavg()[0]
    ours = Arrivals(arrival for arrival in arrivals if arrival.token != OUTSIDER)
    others = Arrivals(arrival for arrival in arrivals if arrival.token == OUTSIDER)
    for failure in failures:
        print(failure, file=sys.stderr, flush=True)
    return [
        f"{seconds:.2f} s",
        f"{seconds / floor:.2f}",
        str(len(ours)),
        str(ours.distinct()),
        str(ours.statuses()[429]),
        str(len(others)),
        str(others.statuses()[429]),
        str(seen),
        str(len(failures)),
        f"{before:.1f}",
        f"{after:.1f}",
    ]


@contextmanager
def _low_priority(python: Path) -> Iterator[Path]:
    """Yield an interpreter that works when the workspace and the proxy do not, as if elsewhere."""
    with tempfile.TemporaryDirectory(prefix="mlflow-proxy-bench-") as directory:
        script = Path(directory) / "python"
        script.write_text(f'#!/bin/sh\nexec nice -n 10 "{python}" "$@"\n')
        script.chmod(0o755)
        yield script


if __name__ == "__main__":
    main()
