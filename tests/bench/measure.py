"""What is measured of one storm.

What belongs here: running the load in processes of its own, and the arithmetic on what came back.
"""

import asyncio
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

from mlflow_proxy.demo.light_client import Caller, Download, storm
from mlflow_proxy.demo.models import Model
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from tests.bench.storage import StorageProcess

LOADERS = 2

Setup = Callable[[str], AbstractAsyncContextManager[str]]
"""Puts something in front of the workspace with the URL given and yields the URL for the clients."""


@dataclass(frozen=True)
class Storm:
    """One storm; times in seconds from its beginning."""

    seconds: float
    walked: float
    last_call: float
    calls: int
    distinct: int
    refused: int
    seen: int
    busiest_second: int
    failed: int
    failure: str
    load_cpu: float
    workspace_cpu: float
    between_cpu: float


def loaders() -> ProcessPoolExecutor:
    """Return the processes that the clients run in."""
    # Spawned, since a fork would take the running event loop with it. Of low priority, since real clients
    # take no processor from the workspace: one that notes arrivals late sees calls closer together.
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(LOADERS, mp_context=spawn, initializer=_yield_to_others)


async def measure_storm(
    pool: ProcessPoolExecutor,
    setup: Setup,
    callers: Sequence[Caller],
    model: Model,
    options: WorkspaceOptions,
    *,
    workers: int,
    discovery: bool,
) -> Storm:
    """Storm a fresh workspace, which knows no other tokens, through a fresh `setup`."""
    options = replace(options, tokens=frozenset(caller.token for caller in callers))
    loop = asyncio.get_running_loop()
    # The loaders import and connect nothing yet, but they exist.
    await asyncio.gather(*(loop.run_in_executor(pool, _warm_up) for _ in range(LOADERS)))
    children = _children_cpu()
    async with EmulatedWorkspace([model], options, storage_type=StorageProcess) as workspace:
        async with setup(workspace.url) as url:
            own = time.process_time()
            shares = [callers[number::LOADERS] for number in range(LOADERS)]
            loads = await asyncio.gather(
                *(
                    loop.run_in_executor(pool, load, url, share, model, workers, discovery)
                    for share in shares
                    if share
                )
            )
            own = time.process_time() - own
        between = _children_cpu() - children
        arrivals = workspace.registry_arrivals
    downloads = [download for downloads, _ in loads for download in downloads]
    began = min(download.began for download in downloads)
    failures = [download.failures[0] for download in downloads if download.failures]
    return Storm(
        seconds=max(download.ended for download in downloads) - began,
        walked=statistics.median(download.walked for download in downloads) - began,
        last_call=arrivals[-1].time - began,
        calls=len(arrivals),
        distinct=arrivals.distinct(),
        refused=arrivals.statuses()[429],
        seen=sum(download.refusals for download in downloads),
        busiest_second=arrivals.max_in_window(),
        failed=len(failures),
        failure=failures[0] if failures else "",
        load_cpu=sum(cpu for _, cpu in loads),
        workspace_cpu=own,
        between_cpu=between,
    )


def _yield_to_others() -> None:
    os.nice(10)


def _warm_up() -> None:
    # Long enough for the pool to need its other process as well.
    time.sleep(0.2)


def load(
    url: str, callers: Sequence[Caller], model: Model, workers: int, discovery: bool
) -> tuple[list[Download], float]:
    """Let clients download at once, in this process; return what they saw and the processor seconds."""
    before = time.process_time()
    downloads = asyncio.run(storm(url, callers, model, workers=workers, discovery=discovery))
    return downloads, time.process_time() - before


def _children_cpu() -> float:
    # The loaders count only once they have ended, so these are proxies and nginx, their start included.
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
