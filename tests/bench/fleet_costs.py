"""What sharing costs: what a call waits longer, what Redis is asked, and how many members it could carry.

What belongs here: the measurements without a storm, and the arithmetic on them.
"""

import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import redis

from mlflow_proxy.budget.script import KEYS, SCRIPT, News
from mlflow_proxy.budget.shared import HEARTBEAT, SharedPacer
from mlflow_proxy.demo.plain_http import PlainClient
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.fleet.connection import Connection
from mlflow_proxy.fleet.presence import ATTEND, BLOCK
from mlflow_proxy.fleet.session import SCRIPT as CACHE_SCRIPT
from mlflow_proxy.settings import BudgetSettings
from tests.bench.__main__ import LIMIT
from tests.bench.fleet_setup import SECRET, Fleet, fleet_of
from tests.bench.measure import LOADERS, loaders
from tests.bench.network import Network
from tests.bench.processors import of_processes
from tests.bench.redis_statistics import commands
from tests.bench.setups import proxy_process
from tests.bench.table import print_table
from tests.fleet.redis_server import RedisServer
from tests.fleet.test_budget import WINDOW, crowd

QPS, PACED = 20, 15.0
MEMBERS = (1, 8, 30)
CROWDED = 5.0
SATURATED = 4.0
MANY = 1000
GROUPS = len(BudgetSettings().limits)
LISTENERS = 50
ANSWER = b"x" * 1200
"""About what a sealed answer of the storm takes."""


async def print_costs(repetitions: int) -> None:
    """Measure everything and print it."""
    with loaders() as pool:
        await _print_latencies(pool, repetitions)
        await _print_questions(repetitions)
        await _print_capacity(pool, repetitions)


@asynccontextmanager
async def _redis() -> AsyncIterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="mlflow-proxy-bench-") as directory:
        server = RedisServer(Path(directory))
        try:
            await server.start()
            yield server
        finally:
            await server.kill()


# -- what a call waits longer ----------------------------------------------------------------------


async def _print_latencies(pool: ProcessPoolExecutor, repetitions: int) -> None:
    names = ("no Redis", "Redis, no secret", "Redis and a secret")
    times: list[list[list[float]]] = []
    async with (
        EmulatedWorkspace(options=WorkspaceOptions(limit=10**9, latency=0)) as workspace,
        _three_ways(workspace.url) as (urls, fleets),
    ):
        before = [await commands(fleet.redis.url) for fleet in fleets]
        for repetition in range(repetitions):
            run = asyncio.get_running_loop().run_in_executor(pool, _paced, urls, repetition)
            times.append(await run)
            print(f"  paced, {[f'{statistics.median(each):.4f}' for each in times[-1]]}", file=sys.stderr)
        asked = [
            (await commands(fleet.redis.url)).since(was).operations()
            for fleet, was in zip(fleets, before, strict=True)
        ]
        calls = len(workspace.registry_arrivals) / len(urls)
    print(
        f"Reads of the registry that nobody asked before, {QPS} a second through each of three proxies in "
        f"turn; the workspace takes no time and the budget is idle. Medians of {repetitions}:\n"
    )
    medians, p99s = (_of_each(times, measure) for measure in (statistics.median, _p99))
    rows = [
        (
            name,
            *(f"{value * 1000:.2f} ms" for value in (median, median - medians[0], p99, p99 - p99s[0])),
            ops,
        )
        for name, median, p99, ops in zip(
            names, medians, p99s, ("0", *(f"{each / calls:.2f}" for each in asked)), strict=True
        )
    ]
    print_table(["budget", "median", "more", "p99", "more", "Redis operations per call"], rows)


@asynccontextmanager
async def _three_ways(upstream: str) -> AsyncIterator[tuple[list[str], list[Fleet]]]:
    async with AsyncExitStack() as stack:
        alone, _ = await stack.enter_async_context(proxy_process(upstream))
        fleets = [
            await stack.enter_async_context(fleet_of(1, Network(), upstream, secret))
            for secret in ("", SECRET)
        ]
        yield [alone, *(fleet.urls[0] for fleet in fleets)], fleets


def _paced(urls: Sequence[str], repetition: int) -> list[list[float]]:
    return asyncio.run(_ask_all(urls, repetition))


async def _ask_all(urls: Sequence[str], repetition: int) -> list[list[float]]:
    began = time.monotonic()

    async def ask(url: str, offset: float) -> list[float]:
        times = []
        async with PlainClient() as http:
            for number in range(int(PACED * QPS)):
                await asyncio.sleep(began + offset + number / QPS - time.monotonic())
                target = f"{url}/api/2.0/mlflow/registered-models/get?name=n{repetition}-{number}"
                asked = time.perf_counter()
                await http.get(target, {"Authorization": "Bearer light"})
                times.append(time.perf_counter() - asked)
        return times[QPS:]  # the first second opens connections

    offsets = (1 / QPS * number / len(urls) for number in range(len(urls)))
    return await asyncio.gather(*map(ask, urls, offsets))


def _of_each(times: Sequence[Sequence[list[float]]], measure: Callable[[list[float]], float]) -> list[float]:
    return [statistics.median(map(measure, runs)) for runs in zip(*times, strict=True)]


def _p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


# -- what Redis is asked ---------------------------------------------------------------------------


async def _print_questions(repetitions: int) -> None:
    rows = []
    for members in MEMBERS:
        busy = [await _questions(members, busy=True) for _ in range(repetitions)]
        calm = [await _questions(members, busy=False) for _ in range(repetitions)]
        rows.append((str(members), *_questions_row(busy), *_questions_row(calm)))
    print(
        f"Redis operations of the budget alone, members in one process, {CROWDED:g} s; calm is {QPS} calls a "
        f"second of all members together, one after the other. Medians of {repetitions}:\n"
    )
    head = "members|busy: per call|per member and second|most calls in a second"
    print_table([*head.split("|"), *head.replace("busy", "calm").split("|")[1:]], rows)


class _Questions(NamedTuple):
    per_call: float
    per_member: float
    busiest: int


async def _questions(members: int, *, busy: bool) -> _Questions:
    async with _redis() as server, crowd(server.url, members, busy=busy) as everyone:
        for member in everyone.members:
            if not busy:
                await member.call()
        await everyone.until(2 * LIMIT) if busy else await asyncio.sleep(1)
        before, had, began = await commands(server.url), len(everyone.sent), time.monotonic()
        turns = itertools.cycle(everyone.members)
        while time.monotonic() < began + CROWDED:
            if not busy:
                await next(turns).call()
            await asyncio.sleep(1 / QPS)
        asked = (await commands(server.url)).since(before).operations()
        seconds, calls = time.monotonic() - began, len(everyone.sent) - had
        return _Questions(asked / calls, asked / members / seconds, everyone.busiest_second())


def _questions_row(runs: Sequence[_Questions]) -> tuple[str, ...]:
    per_call, per_member = (
        statistics.median(values) for values in ([run[index] for run in runs] for index in (0, 1))
    )
    return f"{per_call:.1f}", f"{per_member:.1f}", str(max(run.busiest for run in runs))


# -- how many members it could carry ---------------------------------------------------------------

Command = tuple[str | bytes | int, ...]


class _Cost(NamedTuple):
    """Of one operation: microseconds in the script, and of Redis' process in all."""

    per_second: float
    script: float
    process: float


async def _print_capacity(pool: ProcessPoolExecutor, repetitions: int) -> None:
    costs: dict[str, _Cost] = {}
    for name in OPERATIONS:
        runs = [await _saturate(pool, name) for _ in range(repetitions)]
        costs[name] = _Cost(*map(statistics.median, zip(*runs, strict=True)))
    runs = [await _wake_listeners(pool) for _ in range(repetitions)]
    costs["hear of an answer (XREAD)"] = _Cost(*map(statistics.median, zip(*runs, strict=True)))
    print(
        f"What one Redis does, {LOADERS} clients without pipelining, {MANY} members with calls waiting; seen "
        f"is what this machine reached meanwhile, possible what one processor for Redis alone would:\n"
    )
    rows = [
        (
            name,
            f"{each.script:.0f}",
            f"{each.process:.0f}",
            f"{each.per_second:.0f}",
            f"{1e6 / each.process:.0f}",
        )
        for name, each in costs.items()
    ]
    print_table(["operation", "us in the script", "us in all", "seen/s", "possible/s"], rows)
    _print_members(costs)


def _print_members(costs: dict[str, _Cost]) -> None:
    budget, life, hit, busy, land, attend, hear = (each.process for each in costs.values())
    answers = LIMIT / WINDOW
    alive = GROUPS * life / HEARTBEAT + attend / ATTEND + hear / BLOCK
    waiting = alive + (budget - life) / HEARTBEAT
    storm = alive + answers * (busy + hit + hear)
    print(
        f"A member is heard in {GROUPS} budgets every {HEARTBEAT} s, attends every {ATTEND:g} s and listens "
        f"{BLOCK:g} s at a time. One with calls waiting asks for places as often. While all want the same "
        f"model each member also asks for each of the {answers:.1f} answers a second, is told to wait, hears "
        f"and takes it; bringing them costs {answers * land:.0f} us a second in all.\n"
    )
    rows = [
        (name, f"{each:.0f}", f"{each * MANY / 1e4:.0f} %", f"{1e6 / each:.0f}")
        for name, each in (
            ("idle", alive),
            ("calls of their own waiting", waiting),
            ("all on one model, none has it", storm),
        )
    ]
    print_table(["members", "us each a second", f"{MANY} members: of a processor", "members at most"], rows)


async def _saturate(pool: ProcessPoolExecutor, operation: str) -> _Cost:
    async with _redis() as server:
        loop = asyncio.get_running_loop()
        # The script is loaded and the members are known before it counts.
        await loop.run_in_executor(pool, _ask_again, server.url, operation, 0.5)
        before, used, began = await commands(server.url), of_processes([server.pid]), time.monotonic()
        works = (
            loop.run_in_executor(pool, _ask_again, server.url, operation, SATURATED) for _ in range(LOADERS)
        )
        await asyncio.gather(*works)
        seconds, used = time.monotonic() - began, of_processes([server.pid]) - used
        did = (await commands(server.url)).since(before)
    count = did.calls["evalsha"]
    return _Cost(count / seconds, did.microseconds["evalsha"] / count, used * 1e6 / count)


def _ask_again(url: str, operation: str, seconds: float) -> None:
    with redis.Redis.from_url(url, protocol=2) as client:
        script, questions = OPERATIONS[operation]
        digest = client.script_load(script)
        until = time.monotonic() + seconds
        for question in questions():
            client.execute_command("EVALSHA", digest, *question)
            if time.monotonic() > until:
                return


class _NoCalls:
    """Nothing that waits for a place."""

    def __len__(self) -> int:
        return 0

    def serve(self) -> None:
        """Let none of them leave."""


def _for_places(wanted: int) -> Iterator[Command]:
    async def never(request: str) -> bytes:
        raise NotImplementedError

    members = [SharedPacer(LIMIT, WINDOW, 1.0, never, f"member-{n}", _NoCalls()) for n in range(MANY)]
    for member in members:
        member._apart = False  # or it would get no places
    requests = [member._request(News(), wanted, 0.0) for member in members]
    for request in itertools.cycle(requests):
        yield (len(KEYS), *(f"{{b}}:{key}" for key in KEYS), request)


def _cache(operation: str, keys: Sequence[str], *arguments: str | bytes) -> Command:
    common = [f"{{c}}:{key}" for key in ("generations", "log", "secrets")]
    return (len(common) + len(keys), *common, *keys, operation, "member", *arguments)


def _places(number: int) -> list[str]:
    return [f"{{c}}:{kind}:{number}" for kind in ("entry", "lease", "result")]


def _take(number: int, flight: str) -> Command:
    return _cache("take", _places(number), "model", flight, "", "", "60000")


def _land(number: int, flight: str) -> Command:
    # Of no generation that Redis knows, so that it lies there as a result for those who wait.
    arguments = ("unknown", "files", "60000", ANSWER, "5000")
    return _cache("land", _places(number), "model", flight, f"name{number}", *arguments)


def _for_stored_answers() -> Iterator[Command]:
    # As they lie there for those who waited: a result, which is found after the lookup of the entry.
    for number in range(226):
        yield _take(number, "first")
        yield _land(number, "other")
    while True:
        for number in range(226):
            yield _cache("take", _places(number), "model", "second", "awaited", "", "60000")


def _for_answers_under_way() -> Iterator[Command]:
    for number in range(226):
        yield _take(number, "first")
    for number in itertools.cycle(range(226)):
        yield _take(number, "second")


def _to_bring() -> Iterator[Command]:
    for number in itertools.cycle(range(226)):
        yield _land(number, "other")


def _to_attend() -> Iterator[Command]:
    leases = [f"{{c}}:lease:{number}" for number in range(5)]
    while True:
        yield _cache("attend", leases, "fingerprint", "0-0", "0", "3000", "60000", *[""] * len(leases))


Questions = Callable[[], Iterator[Command]]
OPERATIONS: dict[str, tuple[str, Questions]] = {
    "ask for places, in vain": (SCRIPT, partial(_for_places, 5)),
    "say that one is there": (SCRIPT, partial(_for_places, 0)),
    "take an answer": (CACHE_SCRIPT, _for_stored_answers),
    "take, under way": (CACHE_SCRIPT, _for_answers_under_way),
    "bring an answer": (CACHE_SCRIPT, _to_bring),
    "attend, waiting for 5": (CACHE_SCRIPT, _to_attend),
}


async def _wake_listeners(pool: ProcessPoolExecutor) -> _Cost:
    """Let many listen to the log, and something be said there as often as answers come."""
    async with _redis() as server:
        loop = asyncio.get_running_loop()
        listening = loop.run_in_executor(pool, _listen, server.url, SATURATED + 2)
        await asyncio.sleep(1.5)
        before, used, began = await commands(server.url), of_processes([server.pid]), time.monotonic()
        await loop.run_in_executor(pool, _say, server.url, SATURATED)
        seconds, used = time.monotonic() - began, of_processes([server.pid]) - used
        did = (await commands(server.url)).since(before)
        await listening
    heard = did.calls["xread"]
    own = did.microseconds["xadd"] / 1e6
    return _Cost(heard / seconds, did.microseconds["xread"] / heard, (used - own) * 1e6 / heard)


def _listen(url: str, seconds: float) -> None:
    asyncio.run(_listen_all(url, seconds))


async def _listen_all(url: str, seconds: float) -> None:
    until = time.monotonic() + seconds

    async def listen() -> None:
        connection, after = Connection(url), "0-0"
        while time.monotonic() < until:
            entries = await connection.read_stream("log", after, BLOCK)
            after = entries[-1][0] if entries else after
        await connection.close()

    await asyncio.gather(*(listen() for _ in range(LISTENERS)))


def _say(url: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    with redis.Redis.from_url(url, protocol=2) as client:
        while time.monotonic() < until:
            client.xadd("log", {"kind": "landed", "text": "n" * 32, "more": "f" * 40, "number": 1})
            time.sleep(WINDOW / LIMIT)
