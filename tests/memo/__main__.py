"""Let things happen to a proxy with the memo and one without, for minutes; exit status 1 if they differ."""

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from pathlib import Path

import structlog

from tests.memo.differential import Sharing, run

MODES: tuple[Sharing, ...] = ("credential", "proven", "service")


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.memo", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long (default: 10)")
    parser.add_argument("--seed", type=int, default=100, help="of the first run (default: 100)")
    parser.add_argument("--steps", type=int, default=2000, help="happenings in one run (default: 2000)")
    options = parser.parse_args()
    ends = time.monotonic() + options.minutes * 60
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("error"))
    steps = hits = 0
    for seed in itertools.count(options.seed):
        for sharing in MODES:
            with tempfile.TemporaryDirectory(prefix="mlflow-proxy-memo-") as directory:
                result = asyncio.run(run(sharing, seed, options.steps, Path(directory)))
            steps, hits = steps + result.steps, hits + result.hits
            if result.found:
                print("\n".join(result.found))
                sys.exit(1)
        print(f"up to seed {seed}: {steps} steps, {hits} answers of the memo, no difference", flush=True)
        if time.monotonic() > ends:
            return


if __name__ == "__main__":
    main()
