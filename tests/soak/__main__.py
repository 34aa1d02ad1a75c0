"""Let a proxy answer many thousands of calls and print its memory and descriptors. It asserts nothing."""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import aiohttp

from tests.bench.table import print_table
from tests.soak import load

_STEPS = 10
_HEAD = "calls|RSS, MB|descriptors|entries|cache, MB|flights|in flight"


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--calls", type=int, default=50_000, help="in all (default: 50000)")
    parser.add_argument(
        "--sharing",
        choices=("credential", "proven", "service"),
        default="credential",
        help="access.sharing (default: credential)",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mlflow-proxy-soak-") as directory:
        asyncio.run(_run(options.calls, options.sharing, Path(directory)))


async def _run(calls: int, sharing: str, directory: Path) -> None:
    access = load.service(directory) if sharing == "service" else {"sharing": sharing}
    options = [f"--access.{name.replace('_', '-')}={value}" for name, value in access.items()]
    async with load.workspace() as workspace:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mlflow_proxy", "serve", "--upstream", workspace.url, "--port", "0"),
            *("--log-format", "json", "--log-level", "info", *options),
            *("--budget.registry-limit", "1000000", "--budget.tracking-limit", "1000000"),
            *("--cache.max-bytes", "1MiB"),
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        url = ""
        while not url:
            url = json.loads(await process.stderr.readline()).get("url", "")
        errors: list[bytes] = []
        reading = asyncio.create_task(_read(process.stderr, errors))
        try:
            chance, rows, seen = random.Random(1), [], Counter[str]()
            began = time.monotonic()
            for step in range(_STEPS):
                seen += await load.calls(url, calls // _STEPS, chance, sharing)
                workspace.reset()
                rows.append(await _row(url, process.pid, calls // _STEPS * (step + 1)))
            print(f"{calls} calls, each with a credential of its own, in {time.monotonic() - began:.0f} s\n")
            print_table(_HEAD.split("|"), rows)
            print(f"answers: {dict(seen)}; errors in the log: {len(errors)}")
        finally:
            process.terminate()
            await process.wait()
            await reading


async def _row(url: str, pid: int, calls: int) -> tuple[str, ...]:
    await asyncio.sleep(1)  # connections to a client that has gone end
    async with aiohttp.ClientSession() as session, session.get(url + "/-/status.json") as response:
        status = await response.json()
    memory, descriptors = _held(pid)
    cache = status["cache"]
    return (
        *(str(calls), f"{memory:.1f}", str(descriptors), str(cache["entries"])),
        *(f"{cache['bytes'] / 1e6:.1f}", str(status["flights"]), str(status["requests"])),
    )


def _held(pid: int) -> tuple[float, int]:
    """Return the resident memory of a process in MB, and how many descriptors it has open."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir(f"/proc/{pid}/fd"))


async def _read(log: asyncio.StreamReader, errors: list[bytes]) -> None:
    async for line in log:
        if b'"level": "error"' in line:
            errors.append(line)


if __name__ == "__main__":
    main()
