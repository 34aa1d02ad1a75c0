"""Measure a storm on a fleet of proxies that share a Redis, whole and with parts of it failing.

It prints Markdown and asserts nothing. Run it as `python -m tests.bench.fleet`.
"""

import argparse
import asyncio
import os
import platform
import re
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from aiohttp import web

from mlflow_proxy import __version__
from mlflow_proxy.demo.journal import Arrival
from mlflow_proxy.demo.light_client import WORKERS, Caller, Download, storm
from mlflow_proxy.demo.models import Model, storm_model
from mlflow_proxy.demo.plain_http import PlainClient
from mlflow_proxy.demo.workspace import REGISTRY, EmulatedWorkspace, WorkspaceOptions
from tests.bench import fleet_costs
from tests.bench.__main__ import DIRECTORIES, FILES, FLOOR, LIMIT
from tests.bench.fleet_setup import SECRET, Fleet, fleet_of
from tests.bench.measure import LOADERS, loaders
from tests.bench.network import network
from tests.bench.processors import of_machine, of_processes
from tests.bench.redis_statistics import Commands, commands
from tests.bench.storage import StorageProcess
from tests.bench.table import print_table

FAULTS = ("redis", "partition", "kill")
FAULT_AFTER = 60
"""Calls after which something fails."""
REDIS_GONE = 3.0
"""Seconds until a killed Redis is back."""
BURST = 1.04
"""Seconds from the first call in which an idle budget is spent at once, so that shares say nothing."""


class Used(NamedTuple):
    """Processor seconds; `others` have nothing to do with the bench."""

    proxies: float
    clients: float
    workspace: float
    redis: float
    others: float


@dataclass(frozen=True)
class Storm:
    """One storm; times in seconds from its beginning, calls by the number of the proxy."""

    seconds: float
    floor: float
    last_call: float
    calls: int
    distinct: int
    refused: int
    busiest_second: int
    failed: int
    lost: int
    failure: str
    by_proxy: Sequence[int]
    backlogged: Sequence[int]
    redis: Commands
    used: Used
    fault_at: float
    busiest_at: float
    busiest_by_proxy: Sequence[int]


class Workspace(EmulatedWorkspace):
    """Knows which address each call came from."""

    def __init__(self, model: Model, host: str) -> None:
        options = WorkspaceOptions(limit=LIMIT, host=host)
        super().__init__([model], options, storage_type=StorageProcess)
        self.callers: list[str] = []

    def _arrival(self, request: web.Request) -> Arrival:
        self.callers.append(request.remote or "")
        return super()._arrival(request)

    def registry_calls(self, fleet: Fleet) -> list[tuple[float, int]]:
        """Return when each call arrived and from which proxy; none where addresses do not tell."""
        numbers = {fleet.network.proxy(number): number for number in range(len(fleet.urls))}
        if len(numbers) < len(fleet.urls):
            return []
        calls = zip(self.arrivals, self.callers, strict=True)
        return [(each.time, numbers[caller]) for each, caller in calls if each.group == REGISTRY]


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fleet", description=__doc__)
    parser.add_argument("--proxies", type=int, default=8, help="default: 8")
    parser.add_argument("--clients", type=int, default=25, help="light clients of each proxy (default: 25)")
    parser.add_argument("--clients-without", type=int, default=5, help="... without a secret (default: 5)")
    parser.add_argument("--repetitions", type=int, default=3, help="of each storm (default: 3)")
    parser.add_argument("--only", choices=("secret", "none"), help="with a secret, or without one, only")
    parser.add_argument("--fault", choices=FAULTS, help=f"what fails after {FAULT_AFTER} calls")
    parser.add_argument("--overhead", action="store_true", help="what Redis costs, instead of storms")
    options = parser.parse_args()
    try:
        asyncio.run(_until_told_to_stop(options))
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)


async def _until_told_to_stop(options: argparse.Namespace) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    print(
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python "
        f"{platform.python_version()}, mlflow-proxy {__version__}; workspace, Redis, proxies and clients "
        f"share the machine. Load before: {os.getloadavg()[0]:.1f}.\n"
    )
    if options.overhead:
        await fleet_costs.print_costs(options.repetitions)
    else:
        await _print_storms(options)


async def _print_storms(options: argparse.Namespace) -> None:
    print(
        f"{options.proxies} proxies; light clients download {FILES} files in {DIRECTORIES} directories at "
        f"once; {LIMIT} calls a second, 30 ms latency; floor of one download {FLOOR:.2f} s, which each proxy "
        f"needs for itself if there is no secret. "
        f"Medians of {options.repetitions}, ranges in brackets.\n"
    )
    variants = {"secret": (SECRET, options.clients), "none": ("", options.clients_without)}
    rows = []
    with loaders() as pool:
        for name, (secret, clients) in variants.items():
            if options.only not in {None, name}:
                continue
            storms = []
            for _ in range(options.repetitions):
                result = await measure(pool, options.proxies, clients, secret, options.fault)
                storms.append(result)
                print(f"  secret: {name}, fault: {options.fault}: {result}", file=sys.stderr, flush=True)
            rows.append((name, options.proxies * clients, storms))
    _print(options.fault or "none", rows)


# -- one storm -------------------------------------------------------------------------------------


async def measure(
    pool: ProcessPoolExecutor, proxies: int, clients: int, secret: str, fault: str | None
) -> Storm:
    """Storm a fresh workspace through a fresh fleet, `clients` for each proxy."""
    model = storm_model(files=FILES, directories=DIRECTORIES)
    floor = FLOOR if secret else FLOOR * proxies
    async with (
        network(proxies) as net,
        Workspace(model, net.workspace) as workspace,
        fleet_of(proxies, net, workspace.url, secret) as fleet,
    ):
        before, used = await commands(fleet.redis.url), _Meter(fleet)
        load = asyncio.create_task(_load(pool, fleet.urls, clients, model))
        fault_at, killed = await _fail(fault, fleet, workspace) if fault else (0.0, None)
        downloads, clients_cpu = await load
        redis = (await commands(fleet.redis.url)).since(before)
        return _result(workspace, fleet, downloads, killed, redis, used.read(clients_cpu), floor, fault_at)


class _Meter:
    """Measures what is used from when it is made."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._began = self._now()

    def read(self, clients: float) -> Used:
        proxies, workspace, redis, machine = (
            now - began for now, began in zip(self._now(), self._began, strict=True)
        )
        return Used(proxies, clients, workspace, redis, machine - proxies - clients - workspace - redis)

    def _now(self) -> tuple[float, float, float, float]:
        proxies = of_processes(process.pid for process in self._fleet.processes)
        redis = of_processes([self._fleet.redis.pid])
        return proxies, time.process_time(), redis, of_machine()


async def _load(
    pool: ProcessPoolExecutor, urls: Sequence[str], clients: int, model: Model
) -> tuple[list[list[Download]], float]:
    """Let `clients` download by each URL; returns what they saw, in the URLs' order, and what it took."""
    loop = asyncio.get_running_loop()
    parts = [urls[number::LOADERS] for number in range(LOADERS)]
    results = await asyncio.gather(
        *(loop.run_in_executor(pool, load_part, part, clients, model) for part in parts)
    )
    downloads = [results[number % LOADERS][0][number // LOADERS] for number in range(len(urls))]
    return downloads, sum(used for _, used in results)


def load_part(urls: Sequence[str], clients: int, model: Model) -> tuple[list[list[Download]], float]:
    """Let clients download at once, in this process; returns what they saw and the processor seconds."""

    async def storms() -> list[list[Download]]:
        return await asyncio.gather(
            *(storm(url, [Caller()] * clients, model, workers=WORKERS) for url in urls)
        )

    before = time.process_time()
    return asyncio.run(storms()), time.process_time() - before


# -- what fails ------------------------------------------------------------------------------------


async def _fail(fault: str, fleet: Fleet, workspace: Workspace) -> tuple[float, int | None]:
    """Let something fail in the middle of the storm; returns when, and which proxy died of it."""
    await workspace.until(lambda arrivals: len(arrivals) >= FAULT_AFTER)
    moment = time.monotonic()
    if fault == "redis":
        await fleet.redis.kill()
        await asyncio.sleep(REDIS_GONE)
        await fleet.redis.start()
        return moment, None
    if fault == "partition":
        await fleet.network.cut_off(0)
        return moment, None
    leads = await asyncio.gather(*map(_flights_led, fleet.urls))
    leader = leads.index(max(leads))
    fleet.processes[leader].kill()
    print(f"  killed proxy {leader} of those that lead {leads}", file=sys.stderr, flush=True)
    return moment, leader


async def _flights_led(url: str) -> float:
    async with PlainClient() as http:
        text = (await http.get(f"{url}/-/metrics", {})).body.decode()

    def total(pattern: str) -> float:
        return sum(map(float, re.findall(rf"^mlflow_proxy_{pattern} (\S+)$", text, re.MULTILINE)))

    return total(r'fleet_answers_total\{how="led"\}') - total(r'upstream_calls_total\{group="registry",.*\}')


# -- what came of it -------------------------------------------------------------------------------


def _result(
    workspace: Workspace,
    fleet: Fleet,
    downloads: Sequence[Sequence[Download]],
    killed: int | None,
    redis: Commands,
    used: Used,
    floor: float,
    fault_at: float,
) -> Storm:
    arrivals = workspace.registry_arrivals
    living = [each for number, part in enumerate(downloads) if number != killed for each in part]
    dead = downloads[killed] if killed is not None else []
    began = min(download.began for part in downloads for download in part)
    failures = [download.failures[0] for download in living if download.failures]
    calls = workspace.registry_calls(fleet)
    numbers = range(len(fleet.urls))
    by_proxy = Counter(number for _, number in calls)
    lasts = [max((time for time, caller in calls if caller == number), default=began) for number in numbers]
    busiest = _busiest_second([time for time, _ in calls])
    in_it = Counter(number for time, number in calls if busiest <= time < busiest + 1)
    all_busy = Counter(number for time, number in calls if calls[0][0] + BURST <= time <= min(lasts))
    return Storm(
        seconds=max(download.ended for download in living) - began,
        floor=floor,
        last_call=arrivals[-1].time - began,
        calls=len(arrivals),
        distinct=arrivals.distinct(),
        refused=arrivals.statuses()[429],
        busiest_second=arrivals.max_in_window(),
        failed=len(failures),
        lost=sum(bool(download.failures) for download in dead),
        failure=failures[0] if failures else "",
        by_proxy=[by_proxy[number] for number in numbers],
        backlogged=[all_busy[number] for number in numbers],
        redis=redis,
        used=used,
        fault_at=fault_at - began if fault_at else 0.0,
        busiest_at=busiest - began,
        busiest_by_proxy=[in_it[number] for number in numbers],
    )


def _busiest_second(times: Sequence[float]) -> float:
    """Return where the second begins in which most calls arrived."""
    return max(times, key=lambda begin: sum(begin <= time < begin + 1 for time in times), default=0.0)


def _print(fault: str, rows: Sequence[tuple[str, int, Sequence[Storm]]]) -> None:
    head = "secret|fault|clients|time|× floor|last call|calls|distinct|429s|most in a second|failed clients"
    table = [
        (
            name,
            fault,
            str(clients),
            _median(storms, lambda storm: storm.seconds, " s"),
            f"{statistics.median(each.seconds / each.floor for each in storms):.2f}",
            _median(storms, lambda storm: storm.last_call, " s"),
            _median(storms, lambda storm: storm.calls),
            _median(storms, lambda storm: storm.distinct),
            _median(storms, lambda storm: storm.refused),
            str(max(storm.busiest_second for storm in storms)),
            str(max(storm.failed for storm in storms)),
            str(max(storm.lost for storm in storms)),
            _median(storms, lambda storm: storm.redis.operations() / storm.calls),
            _shares(storms, lambda storm: storm.by_proxy),
            # With a secret hardly any proxy ever has calls waiting; one that is dead has none.
            _shares(storms, lambda storm: storm.backlogged) if name == "none" and fault != "kill" else "-",
        )
        for name, clients, storms in rows
    ]
    more = "... of a killed proxy|Redis operations per call|share of calls|... while all have calls waiting"
    print_table([*head.split("|"), *more.split("|")], table)
    _print_used(rows)
    print("A share is the least and the greatest of any proxy in any storm, 1 being equal.\n")
    for name, _, storms in rows:
        print(f"Redis, secret {name}, the last storm: {storms[-1].redis}.\n")
        for each in storms:
            if each.busiest_second > LIMIT:
                print(
                    f"{each.busiest_second} in the second from {each.busiest_at:.2f} s, by proxy "
                    f"{list(each.busiest_by_proxy)}; the fault was at {each.fault_at:.2f} s.\n"
                )
        for failure in {each.failure for each in storms if each.failure}:
            print(f"Failed, secret {name}: {failure}\n")


def _print_used(rows: Sequence[tuple[str, int, Sequence[Storm]]]) -> None:
    print("Processor seconds during the storm (medians):\n")
    table = [
        (
            name,
            str(clients),
            *(f"{statistics.median(used):.1f}" for used in zip(*(each.used for each in storms), strict=True)),
        )
        for name, clients, storms in rows
    ]
    print_table(["secret", "clients", *(name.replace("_", " ") for name in Used._fields)], table)


def _median(storms: Sequence[Storm], value: Callable[[Storm], float], unit: str = "") -> str:
    values = sorted(map(value, storms))
    middle, *ends = (f"{each:.4g}" for each in (statistics.median(values), values[0], values[-1]))
    return f"{middle}{unit}" if ends[0] == ends[1] else f"{middle}{unit} ({'-'.join(ends)})"


def _shares(storms: Sequence[Storm], calls: Callable[[Storm], Sequence[int]]) -> str:
    shares = [
        each / (sum(calls(storm)) / len(calls(storm)))
        for storm in storms
        if sum(calls(storm))
        for each in calls(storm)
    ]
    return f"{min(shares):.2f}-{max(shares):.2f}" if shares else "not known"


if __name__ == "__main__":
    main()
