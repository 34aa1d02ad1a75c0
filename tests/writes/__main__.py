"""Write and read at random; exit status 1 if a read got what an earlier write had made wrong."""

import argparse
import asyncio
import sys

from tests.writes.run import report, run


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.writes", description=__doc__)
    parser.add_argument("--writes", type=int, default=1200, help="how many (default: 1200)")
    parser.add_argument("--reads", type=int, default=6000, help="how many at least (default: 6000)")
    parser.add_argument("--seed", type=int, default=1, help="of all that is made up (default: 1)")
    options = parser.parse_args()
    seen = asyncio.run(run(options.writes, options.reads, options.seed))
    print("\n".join(report(seen)))
    sys.exit(1 if seen.stale else 0)


if __name__ == "__main__":
    main()
