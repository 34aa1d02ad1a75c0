"""Run the chaos for some minutes and print what came of it; exit status 1 if anything was wrong."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.chaos.modes import MODES
from tests.chaos.run import Plan, report, run


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long (default: 10)")
    parser.add_argument("--seed", type=int, default=1, help="of what goes wrong when (default: 1)")
    parser.add_argument("--no-mlflow", action="store_true", help="light clients only")
    parser.add_argument(
        "--sharing", choices=MODES, default="credential", help="access.sharing (default: credential)"
    )
    options = parser.parse_args()
    plan = Plan(options.minutes * 60, seed=options.seed, sharing=options.sharing)
    if options.no_mlflow:
        plan.mlflow = ()
    with tempfile.TemporaryDirectory(prefix="mlflow-proxy-chaos-") as directory:
        result = asyncio.run(run(plan, Path(directory)))
    print("\n".join(report(*result)))
    sys.exit(1 if result[0].wrong or result[0].leaks else 0)


if __name__ == "__main__":
    main()
