"""How long big listings of door A hold up everything else: the longest wait of a health check meanwhile.

    python -m tests.bench.listings --files 50000 --clients 10

It measures; it asserts nothing. To compare two states of the code, run it in a worktree of each, by turns.
"""

import argparse
import asyncio
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Event

from mlflow_proxy.demo.models import Model, ModelVersion
from mlflow_proxy.demo.plain_http import PlainClient
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from tests.bench import setups
from tests.bench.table import print_table

LISTING = "/api/2.0/mlflow-artifacts/artifacts?path=mlflow-proxy/big/1/data"
PAUSE = 0.002
"""Seconds between two health checks."""
QUIET = 1.0
"""Seconds for which health is checked with nothing else to do."""

_done: list[Event] = []
"""In the processes of the pool: set once all listings have arrived."""


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.listings", description=__doc__)
    parser.add_argument("--files", type=int, default=50_000, help="in the directory (default: 50000)")
    parser.add_argument("--clients", type=int, default=10, help="that list it at once (default: 10)")
    parser.add_argument("--page", type=int, default=1000, help="files on a page (default: 1000)")
    parser.add_argument("--rounds", type=int, default=5, help="with stored pages (default: 5)")
    asyncio.run(_run(parser.parse_args()))


async def _run(options: argparse.Namespace) -> None:
    files = {f"data/part-{number:06}.parquet": b"" for number in range(options.files)}
    model = Model("big", {"1": ModelVersion(files)})
    spawn = multiprocessing.get_context("spawn")
    done = spawn.Event()
    with ProcessPoolExecutor(2, mp_context=spawn, initializer=_know, initargs=(done,)) as pool:
        async with (
            EmulatedWorkspace(
                [model], WorkspaceOptions(limit=10**9, latency=0, page_size=options.page)
            ) as workspace,
            setups.proxy(workspace.url, "--budget.registry-limit", "0") as url,
        ):
            rows = [
                (what, *await _measure(pool, done, url, clients))
                for what, clients in (
                    ("nothing", 0),
                    ("pages fetched", options.clients),
                    *[("pages stored", options.clients)] * options.rounds,
                )
            ]
    print(f"{options.files} files, {options.page} on a page, {options.clients} clients at once:\n")
    print_table(["meanwhile", "all served", "median wait", "longest wait", "checks"], rows)


async def _measure(pool: ProcessPoolExecutor, done: Event, url: str, clients: int) -> tuple[str, ...]:
    done.clear()
    loop = asyncio.get_running_loop()
    checking = loop.run_in_executor(pool, _check_health, url)
    seconds = await loop.run_in_executor(pool, _list, url, clients)
    done.set()
    waits = await checking
    return (
        f"{seconds:.2f} s",
        f"{statistics.median(waits) * 1000:.1f} ms",
        f"{max(waits) * 1000:.0f} ms",
        str(len(waits)),
    )


def _know(done: Event) -> None:
    _done.append(done)


def _check_health(url: str) -> list[float]:
    """Return the seconds that each health check took."""

    async def check() -> list[float]:
        waits = []
        async with PlainClient() as http:
            while not _done[0].is_set():
                asked = time.perf_counter()
                await http.get(f"{url}/-/healthz", {})
                waits.append(time.perf_counter() - asked)
                await asyncio.sleep(PAUSE)
        return waits

    return asyncio.run(check())


def _list(url: str, clients: int) -> float:
    """List the directory by so many clients at once; returns the seconds until the last has it."""

    async def all_of_them() -> float:
        async with PlainClient() as http:
            # Health is being checked by then, and there are connections.
            await asyncio.gather(*(http.get(f"{url}/-/healthz", {}) for _ in range(clients)))
            await asyncio.sleep(QUIET)
            began = time.perf_counter()
            token = {"Authorization": "Bearer bench"}
            answers = await asyncio.gather(*(http.get(url + LISTING, token) for _ in range(clients)))
            if any(answer.status != 200 for answer in answers):
                raise RuntimeError(f"not listed: {answers[0].body[:200]!r}")
            return time.perf_counter() - began

    return asyncio.run(all_of_them())


if __name__ == "__main__":
    main()
