"""Writes over connections that the workspace is closing, and what it costs to look: checkouts side by side.

`git worktree add DIR REVISION; python -m tests.bench.kept_connections --against DIR` prints for both how many
writes fail right after another client's 500, and at the end of a server's patience with idle connections, and
what a call over a kept connection takes. It measures; it asserts nothing.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.bench.processors import of_processes
from tests.bench.setups import proxy_process
from tests.bench.table import print_table
from tests.certificates import Authority
from tests.environments import SERVER
from tests.integration.support import API, OK, Inbound, RawClient, Upstream, answering
from tests.ports import free_port

FAILING, WRITE, PASSED = f"{API}experiments/delete", f"{API}experiments/create", "/api/2.0/unknown"
PATIENCE = 2.0
"""Seconds after which the impatient server closes an idle connection: the shortest that is usual."""
AT_ONCE = 25
"""Clients that write together, each over a connection of its own, as all of them are closed."""
ROUNDS, CALLS = 20, 300
UNPACED = ("--budget.experiments-limit", "1000000", "--connections.forwarded-fields", "never")


@asynccontextmanager
async def _uvicorn(authority: Authority | None) -> AsyncIterator[str]:
    port, options = free_port(), []
    if authority is not None:
        pair = authority.issue("workspace")
        options = ["--ssl-certfile", str(pair.certificate), "--ssl-keyfile", str(pair.key)]
    process = await asyncio.create_subprocess_exec(
        SERVER,
        *("-m", "uvicorn", "tests.bench.failing_app:app", "--port", str(port), "--log-level", "error"),
        *options,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        while process.returncode is None:
            try:
                await (await RawClient.connect(f"http://127.0.0.1:{port}")).close()
                break
            except OSError:
                await asyncio.sleep(0.1)
        yield f"{'https' if authority else 'http'}://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def _impatient(authority: Authority | None) -> AsyncIterator[str]:
    """Yield the URL of a server that closes a connection after some silence."""
    # That a call comes just then is what is measured; over TLS the event loop would print it.
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    closing: dict[asyncio.StreamWriter, asyncio.TimerHandle] = {}

    async def respond(inbound: Inbound) -> None:
        if inbound.writer in closing:
            closing.pop(inbound.writer).cancel()
        await inbound.body()
        await inbound.send(OK)
        closing[inbound.writer] = asyncio.get_running_loop().call_later(PATIENCE, inbound.writer.close)

    tls = authority.issue("impatient").context() if authority else None
    async with Upstream(respond, tls=tls) as upstream:
        yield upstream.url


@asynccontextmanager
async def _proxy(upstream: str, checkout: str, authority: Authority | None) -> AsyncIterator[tuple[str, int]]:
    """Run the proxy of a checkout; yields its URL and its process."""
    trusting = ("--connections.ca-file", str(authority.file)) if authority else ()
    before = ("env", f"--chdir={checkout}", f"PYTHONPATH={checkout}")
    async with proxy_process(upstream, *UNPACED, *trusting, before=before) as (url, process):
        yield url, process.pid


async def _call(client: RawClient, method: str, target: str) -> int:
    """Make a call over a connection that is kept; returns its status."""
    body = "{}" if method == "POST" else ""
    fields = f"Host: localhost\r\nContent-Length: {len(body)}"
    await client.send(f"{method} {target} HTTP/1.1\r\n{fields}\r\n\r\n{body}".encode())
    head = (await client.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    await client.reader.readexactly(int(head.partition("content-length:")[2].partition("\r\n")[0]))
    return int(head.split(" ")[1])


async def _after_a_500(url: str, writes: int) -> Counter[int]:
    async with await RawClient.connect(url) as one, await RawClient.connect(url) as other:
        statuses: Counter[int] = Counter()
        for _ in range(writes):
            await _call(one, "POST", FAILING)
            statuses[await _call(other, "POST", WRITE)] += 1
    return statuses


async def _at_the_end_of_patience(url: str, writes: int) -> Counter[int]:
    statuses: Counter[int] = Counter()
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(await RawClient.connect(url)) for _ in range(AT_ONCE)]
        for number in range(writes // AT_ONCE):
            statuses.update(await asyncio.gather(*(_call(client, "POST", WRITE) for client in clients)))
            await asyncio.sleep(PATIENCE - number % 20 * 0.004)
    return statuses


async def _print_failures(checkouts: list[str], writes: int, authority: Authority) -> None:
    rows = []
    for name, server, tls, measured in (
        ("uvicorn, after another client's 500", _uvicorn(None), None, _after_a_500),
        ("the same over TLS", _uvicorn(authority), authority, _after_a_500),
        ("at the end of a server's patience", _impatient(None), None, _at_the_end_of_patience),
        ("the same over TLS", _impatient(authority), authority, _at_the_end_of_patience),
    ):
        async with server as upstream:
            row = [name]
            for checkout in checkouts:
                async with _proxy(upstream, checkout, tls) as (url, _):
                    statuses = await measured(url, writes)
                row.append(f"{writes - statuses[200]} of {writes}")
            rows.append(row)
    print_table(["writes that fail", *checkouts], rows)


async def _print_costs(checkouts: list[str], authority: Authority) -> None:
    """Time calls over kept connections, in turns; the ratios are of turns that follow each other."""
    rows = []
    for secured in (None, authority):
        tls = secured.issue("server").context() if secured else None
        async with Upstream(answering(OK), tls=tls) as upstream, AsyncExitStack() as stack:
            proxies = [
                await stack.enter_async_context(_proxy(upstream.url, each, secured)) for each in checkouts
            ]
            clients = [await stack.enter_async_context(await RawClient.connect(url)) for url, _ in proxies]
            for name, method, target in (("a write", "POST", WRITE), ("a GET that passes", "GET", PASSED)):
                walls: list[list[float]] = [[] for _ in checkouts]
                busy: list[list[float]] = [[] for _ in checkouts]
                for _ in range(ROUNDS):
                    for index, (client, (_, process)) in enumerate(zip(clients, proxies, strict=True)):
                        used = of_processes([process])
                        walls[index].append(await _median(client, method, target))
                        busy[index].append(of_processes([process]) - used)
                    upstream.seen.clear()
                rows.append(
                    [
                        name + (", TLS" if secured else ""),
                        *(f"{statistics.median(each) * 1e6:.0f} us" for each in walls),
                        _ratio(walls),
                        _ratio(busy),
                    ]
                )
    print_table(["median", *checkouts, "ratio", "ratio of processor time"], rows)


async def _median(client: RawClient, method: str, target: str) -> float:
    took = []
    for _ in range(CALLS):
        began = time.perf_counter()
        await _call(client, method, target)
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def _ratio(turns: list[list[float]]) -> str:
    """Return the median of the ratios of the first to each other, turn by turn."""
    ratios = [
        statistics.median(one / other for one, other in zip(turns[0], others, strict=True))
        for others in turns[1:]
    ]
    return " ".join(f"{ratio:.2f}" for ratio in ratios)


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.kept_connections", description=__doc__)
    parser.add_argument("--writes", type=int, default=1000, help="tries of each kind (default: 1000)")
    parser.add_argument(
        "--against", type=Path, nargs="*", default=[], help="other checkouts, with their .venv"
    )
    options = parser.parse_args()
    checkouts = [os.getcwd(), *(str(each.resolve()) for each in options.against)]
    with tempfile.TemporaryDirectory(prefix="mlflow-proxy-bench-") as directory:
        authority = Authority(Path(directory))
        asyncio.run(_print_failures(checkouts, options.writes, authority))
        asyncio.run(_print_costs(checkouts, authority))


if __name__ == "__main__":
    main()
