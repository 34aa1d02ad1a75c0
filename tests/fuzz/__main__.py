"""Fuzz a proxy of each mode for some minutes; exit status 1 if anything was found.

Findings are printed such that they can be added to tests/fuzz/cases.py.
"""

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from contextlib import aclosing
from pathlib import Path

from tests.fuzz.cases import RELAXED
from tests.fuzz.run import Found, report, rounds

_EVERY = 60.0
"""Seconds between two lines."""


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long (default: 10)")
    parser.add_argument("--seed", type=int, default=1, help="of all that is made up (default: 1)")
    parser.add_argument("--relax", action="append", default=[], metavar="CHECK", help="do without a check")
    parser.add_argument("--strict", action="store_true", help="relax nothing, not even what cases.py names")
    options = parser.parse_args()
    relaxed = frozenset(options.relax) | (frozenset() if options.strict else RELAXED)
    found = asyncio.run(_run(options.minutes * 60, options.seed, relaxed))
    print("\n".join(report(found)))
    sys.exit(1 if found.times else 0)


async def _run(seconds: float, seed: int, relaxed: frozenset[str]) -> Found:
    began = told = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mlflow-proxy-fuzz-") as directory:
        async with aclosing(rounds(seed, relaxed, Path(directory))) as going_on:
            async for found in going_on:
                now = time.monotonic()
                if now - told >= _EVERY or now - began >= seconds:
                    told = now
                    print(_line(found, now - began), flush=True)
                if now - began >= seconds:
                    return found
    raise AssertionError("it goes on for ever")


def _line(found: Found, seconds: float) -> str:
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (
        f"{seconds / 60:5.1f} min: {found.plan.sent} inputs on the wire, {found.pure_cases} pure cases, "
        f"{sum(found.times.values())} findings of {len(found.times)} kinds, at most {memory:.0f} MB"
    )


if __name__ == "__main__":
    main()
