"""Run the bench and print Markdown for the README. It measures; it asserts nothing."""

import argparse
import asyncio
import os
import platform
import statistics
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

from proxy import __version__
from proxy.demo.light_client import WORKERS
from proxy.demo.limiters import LIMITERS
from proxy.demo.models import storm_model
from proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from tests.bench import setups
from tests.bench.budget import print_simulation
from tests.bench.measure import Hits, Setup, Storm, loaders, measure_hits, measure_storm
from tests.bench.table import print_table

LIMIT = 40
FILES, DIRECTORIES = 204, 22
FLOOR = (FILES + DIRECTORIES) / LIMIT


@asynccontextmanager
async def _nothing(upstream: str) -> AsyncIterator[str]:
    yield upstream


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="once each, nginx under one limiter")
    parser.add_argument("--clients", type=int, default=50, help="light clients at once (default: 50)")
    parser.add_argument("--clients-without", type=int, help="without a proxy (default: 5, quick: 2)")
    parser.add_argument("--repetitions", type=int, help="of each storm (default: 3, quick: 1)")
    parser.add_argument(
        "--workers",
        type=int,
        default=WORKERS,
        help=f"files a client fetches at once (default: {WORKERS})",
    )
    parser.add_argument(
        "--discovery",
        action="store_true",
        help="ask for the discovery document before each call, as the SDK does",
    )
    options = parser.parse_args()
    options.clients_without = options.clients_without or (2 if options.quick else 5)
    options.repetitions = options.repetitions or (1 if options.quick else 3)
    asyncio.run(_run(options))
    print_simulation()


async def _run(options: argparse.Namespace) -> None:
    print(
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, mlflow-proxy {__version__}; workspace, clients "
        f"and what is between them share the machine.\n"
        f"{options.clients} light clients download {FILES} files in {DIRECTORIES} directories at once, "
        f"each with {options.workers} workers; {LIMIT} calls a second, 30 ms latency; "
        f"floor {FILES + DIRECTORIES}/{LIMIT} = {FLOOR:.2f} s. Medians of {options.repetitions}.\n"
    )
    storms: list[tuple[str, str, int, Setup]] = [
        ("mlflow-proxy", limiter, options.clients, setups.proxy) for limiter in LIMITERS
    ]
    if setups.nginx_program() is None:
        print("nginx is not installed: left out.\n")
    else:
        storms += [
            ("nginx", limiter, options.clients, partial(setups.nginx, limit=LIMIT))
            for limiter in (LIMITERS[:1] if options.quick else LIMITERS)
        ]
    storms.append(("nothing", "sliding", options.clients_without, _nothing))
    with loaders() as pool:
        rows = []
        for between, limiter, clients, setup in storms:
            repetitions = 1 if between == "nothing" else options.repetitions
            rows.append(
                (
                    between,
                    limiter,
                    clients,
                    await _repeat(pool, setup, clients, limiter, repetitions, options),
                )
            )
        _print_storms(rows)
        await _compare_hits(pool, 200 if options.quick else 1000)


async def _repeat(
    pool: ProcessPoolExecutor,
    setup: Setup,
    clients: int,
    limiter: str,
    repetitions: int,
    options: argparse.Namespace,
) -> list[Storm]:
    results = []
    for _ in range(repetitions):
        result = await measure_storm(
            pool,
            setup,
            clients,
            storm_model(files=FILES, directories=DIRECTORIES),
            WorkspaceOptions(limiter=limiter, limit=LIMIT),
            workers=options.workers,
            discovery=options.discovery,
        )
        results.append(result)
        print(f"  {clients} clients, {limiter}: {result.seconds:.2f} s", file=sys.stderr, flush=True)
    return results


Row = tuple[str, str, int, Sequence[Storm]]


def _print_storms(rows: Sequence[Row]) -> None:
    table: list[tuple[str, ...]] = []
    for between, limiter, clients, storms in rows:
        seconds = statistics.median(storm.seconds for storm in storms)
        table.append(
            (
                between,
                limiter,
                str(clients),
                f"{seconds:.2f} s",
                f"{seconds / FLOOR:.2f}",
                _median(storms, lambda storm: storm.calls),
                _median(storms, lambda storm: storm.distinct),
                _median(storms, lambda storm: storm.refused),
                _median(storms, lambda storm: storm.seen),
                str(max(storm.busiest_second for storm in storms)),
                str(max(storm.failed for storm in storms)),
            )
        )
    head = "in between|limiter|clients|time|× floor|calls|distinct|429s of the workspace|429s at clients"
    print_table([*head.split("|"), "most in a second", "failed clients"], table)
    for between, limiter, _, storms in rows:
        failure = next((storm.failure for storm in storms if storm.failure), "")
        if failure:
            print(f"{between}, {limiter}: such as {failure}\n")
    print(
        "Where the time goes (medians, seconds from the start; processor seconds, the start of the process "
        "in between included):\n"
    )
    table = []
    for between, limiter, clients, storms in rows:
        columns: tuple[Callable[[Storm], float], ...] = (
            lambda storm: storm.walked,
            lambda storm: storm.last_call,
            lambda storm: storm.seconds,
            lambda storm: storm.between_cpu,
            lambda storm: storm.load_cpu,
            lambda storm: storm.workspace_cpu,
        )
        values = (f"{statistics.median(map(column, storms)):.2f}" for column in columns)
        table.append((between, limiter, str(clients), *values))
    head = (
        "in between|limiter|clients|directories walked|last call paced|last byte|CPU in between|CPU clients"
    )
    print_table([*head.split("|"), "CPU workspace"], table)


async def _compare_hits(pool: ProcessPoolExecutor, requests: int) -> None:
    model = storm_model(files=FILES, directories=DIRECTORIES)
    table: list[tuple[str, ...]] = []
    async with (
        EmulatedWorkspace([model], WorkspaceOptions(limit=10**9, latency=0)) as workspace,
        setups.proxy(workspace.url) as url,
    ):
        for connections in (1, 32):
            count = max(1, requests * 4 // connections)
            direct, hit = [
                await measure_hits(pool, target, model, count, connections) for target in (workspace.url, url)
            ]
            table.append(_hits_row(connections, direct, hit))
    print("A cache hit through the proxy beside the same answer from the emulated workspace itself:\n")
    head = "connections|median direct|median hit|ratio|p99 direct|p99 hit|ratio|direct/s|hits/s|ratio"
    print_table(head.split("|"), table)


def _hits_row(connections: int, direct: Hits, hit: Hits) -> tuple[str, ...]:
    return (
        str(connections),
        f"{direct.median * 1000:.2f} ms",
        f"{hit.median * 1000:.2f} ms",
        f"{hit.median / direct.median:.2f}",
        f"{direct.p99 * 1000:.2f} ms",
        f"{hit.p99 * 1000:.2f} ms",
        f"{hit.p99 / direct.p99:.2f}",
        f"{direct.per_second:.0f}",
        f"{hit.per_second:.0f}",
        f"{hit.per_second / direct.per_second:.2f}",
    )


def _median(storms: Sequence[Storm], value: Callable[[Storm], int]) -> str:
    """Return the median, with the range where there is one."""
    values = sorted(map(value, storms))
    middle = f"{statistics.median(values):g}"
    return middle if values[0] == values[-1] else f"{middle} ({values[0]}-{values[-1]})"


if __name__ == "__main__":
    main()
