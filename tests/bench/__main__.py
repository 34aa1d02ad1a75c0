"""Run the bench and print Markdown for docs/benchmarks.md. It measures; it asserts nothing."""

import argparse
import asyncio
import os
import platform
import statistics
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from mlflow_proxy import __version__
from mlflow_proxy.demo.light_client import WORKERS, callers
from mlflow_proxy.demo.limiters import LIMITERS
from mlflow_proxy.demo.models import storm_model
from mlflow_proxy.demo.tokens import proofs
from mlflow_proxy.demo.workspace import WorkspaceOptions
from tests.bench import setups
from tests.bench.budget import print_simulation
from tests.bench.measure import Setup, Storm, loaders, measure_storm
from tests.bench.table import print_table
from tests.nginx import program

LIMIT = 40
FILES, DIRECTORIES = 204, 22
DISTINCT = FILES + DIRECTORIES
FLOOR = DISTINCT / LIMIT

PROXY, NGINX, BALANCED, NOTHING = "mlflow-proxy", "nginx", "nginx as load balancer, mlflow-proxy", "nothing"
PARTS = {"proxy": PROXY, "nginx": NGINX, "balanced": BALANCED, "nothing": NOTHING}


@dataclass(frozen=True)
class Plan:
    """A storm to be measured: what is between clients and workspace, who the clients are, how often."""

    between: str
    setup: Setup
    limiter: str
    clients: int
    tokens: int
    repetitions: int

    @property
    def floor(self) -> float:
        """The seconds that the calls take of which none can be saved."""
        return (DISTINCT + proofs(self.tokens)) / LIMIT


@asynccontextmanager
async def _nothing(upstream: str) -> AsyncIterator[str]:
    yield upstream


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="once each, nginx under one limiter")
    parser.add_argument("--clients", type=int, default=50, help="light clients at once (default: 50)")
    parser.add_argument("--clients-without", type=int, help="where nothing is shared (default: 5, quick: 2)")
    parser.add_argument(
        "--clients-balanced",
        type=int,
        nargs="+",
        help="behind a load balancer, a token each (default: 20 200, quick: 20)",
    )
    parser.add_argument("--sharing", help="the proxy's access.sharing (default: its own)")
    parser.add_argument("--only", choices=PARTS, nargs="+", help="these storms, and nothing else")
    parser.add_argument("--limiters", choices=LIMITERS, nargs="+", default=list(LIMITERS))
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
    options.clients_balanced = options.clients_balanced or ([20] if options.quick else [20, 200])
    options.repetitions = options.repetitions or (1 if options.quick else 3)
    asyncio.run(_run(options))
    if not options.only:
        print_simulation()


async def _run(options: argparse.Namespace) -> None:
    print(
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, mlflow-proxy {__version__}; workspace, clients "
        f"and what is between them share the machine.\n"
        f"{options.clients} light clients download {FILES} files in {DIRECTORIES} directories at once, "
        f"each with {options.workers} workers; {LIMIT} calls a second, 30 ms latency; "
        f"floor {DISTINCT}/{LIMIT} = {FLOOR:.2f} s, with several tokens ({DISTINCT} + a proof of "
        f"each)/{LIMIT}. Medians of {options.repetitions}.\n"
    )
    if program() is None:
        print("nginx is not installed: left out.\n")
    with loaders() as pool:
        rows = [(plan, await _repeat(pool, plan, options)) for plan in _plans(options)]
        _print_storms(rows)


def _plans(options: argparse.Namespace) -> list[Plan]:
    """Return what is to be measured, in order: one token and a token for each client side by side."""
    sharing = ("--access.sharing", options.sharing) if options.sharing else ()
    clients, often = options.clients, options.repetitions
    limiters: Sequence[str] = options.limiters

    def proxy(upstream: str) -> AbstractAsyncContextManager[str]:
        return setups.proxy(upstream, *sharing)

    def balanced(upstream: str) -> AbstractAsyncContextManager[str]:
        return setups.balanced_proxy(upstream, *sharing)

    nginx = partial(setups.nginx, limit=LIMIT)
    # Each client costs the whole model there, so that one storm takes minutes.
    apart = options.clients_without if options.quick else clients
    plans = [
        Plan(PROXY, proxy, limiter, clients, tokens, often) for limiter in limiters for tokens in (1, clients)
    ]
    plans += [
        Plan(NGINX, nginx, limiter, clients, 1, often)
        for limiter in (limiters[:1] if options.quick else limiters)
    ]
    plans.append(Plan(NGINX, nginx, limiters[0], apart, apart, 1))
    plans += [
        Plan(BALANCED, balanced, limiters[0], count, count, often) for count in options.clients_balanced
    ]
    plans.append(Plan(NOTHING, _nothing, limiters[0], options.clients_without, 1, 1))
    wanted = {PARTS[part] for part in options.only or PARTS} - (
        {NGINX, BALANCED} if program() is None else set()
    )
    return [plan for plan in plans if plan.between in wanted]


async def _repeat(pool: ProcessPoolExecutor, plan: Plan, options: argparse.Namespace) -> list[Storm]:
    results = []
    for _ in range(plan.repetitions):
        result = await measure_storm(
            pool,
            plan.setup,
            callers(plan.clients, plan.tokens, addresses=plan.between == BALANCED),
            storm_model(files=FILES, directories=DIRECTORIES),
            WorkspaceOptions(limiter=plan.limiter, limit=LIMIT),
            workers=options.workers,
            discovery=options.discovery,
        )
        results.append(result)
        told = f"{plan.between}: {plan.clients} clients, tokens: {plan.tokens}, {plan.limiter}"
        print(f"  {told}: {result.seconds:.2f} s, {result.calls} calls", file=sys.stderr, flush=True)
    return results


Row = tuple[Plan, Sequence[Storm]]


def _print_storms(rows: Sequence[Row]) -> None:
    table: list[tuple[str, ...]] = []
    for plan, storms in rows:
        seconds = statistics.median(storm.seconds for storm in storms)
        table.append(
            (
                *_named(plan),
                f"{seconds:.2f} s",
                f"{seconds / plan.floor:.2f}",
                _median(storms, lambda storm: storm.calls),
                _median(storms, lambda storm: storm.distinct),
                _median(storms, lambda storm: storm.refused),
                _median(storms, lambda storm: storm.seen),
                str(max(storm.busiest_second for storm in storms)),
                str(max(storm.failed for storm in storms)),
            )
        )
    head = (
        "in between|limiter|clients|tokens|time|× floor|calls|distinct|429s of the workspace|429s at clients"
    )
    print_table([*head.split("|"), "most in a second", "failed clients"], table)
    for plan, storms in rows:
        failure = next((storm.failure for storm in storms if storm.failure), "")
        if failure:
            print(f"{plan.between}, {plan.limiter}: such as {failure}\n")
    print(
        "Where the time goes (medians, seconds from the start; processor seconds, the start of the process "
        "in between included):\n"
    )
    table = []
    for plan, storms in rows:
        columns: tuple[Callable[[Storm], float], ...] = (
            lambda storm: storm.walked,
            lambda storm: storm.last_call,
            lambda storm: storm.seconds,
            lambda storm: storm.between_cpu,
            lambda storm: storm.load_cpu,
            lambda storm: storm.workspace_cpu,
        )
        values = (f"{statistics.median(map(column, storms)):.2f}" for column in columns)
        table.append((*_named(plan), *values))
    head = "in between|limiter|clients|tokens|directories walked|last call paced|last byte|CPU in between"
    print_table([*head.split("|"), "CPU clients", "CPU workspace"], table)


def _named(plan: Plan) -> tuple[str, ...]:
    return plan.between, plan.limiter, str(plan.clients), str(plan.tokens)


def _median(storms: Sequence[Storm], value: Callable[[Storm], int]) -> str:
    """Return the median, with the range where there is one."""
    values = sorted(map(value, storms))
    middle = f"{statistics.median(values):g}"
    return middle if values[0] == values[-1] else f"{middle} ({values[0]}-{values[-1]})"


if __name__ == "__main__":
    main()
