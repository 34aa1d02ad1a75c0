"""Attack a proxy in front of each upstream; exit status 1 if it ever answered what the upstream would not.

What is found is told with all that led to it: who asked what, when, and what was answered directly at which
times. The seed decides what is drawn, not how fast processes run.
"""

import argparse
import asyncio
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from random import Random

from tests.differential.gateway import Gateway
from tests.differential.open_source import open_source
from tests.differential.run import Plan, Run, report, run

UPSTREAMS = ("gateway", "plain", "open-source", "finer")
"""The emulated workspace behind a gateway that makes answers up, and one that does not; the open-source
server with permissions on models, and with others on their versions too."""


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long (default: 10)")
    parser.add_argument("--seed", type=int, default=1, help="of all that is made up (default: 1)")
    parser.add_argument("--mode", default="proven", help="access.sharing (default: proven)")
    parser.add_argument("--upstream", choices=UPSTREAMS, default="gateway")
    parser.add_argument("--rate", type=float, default=100, help="requests a second (default: 100)")
    parser.add_argument("--tokens", type=int, default=6, help="that callers have (default: 6)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mlflow-proxy-differential-") as directory:
        going = asyncio.run(_run(options, Path(directory)))
    print("\n".join(report(going)))
    print("\n".join(going.judge.findings))
    sys.exit(1 if going.judge.findings or going.judge.wrong else 0)


async def _run(options: argparse.Namespace, directory: Path) -> Run:
    plan = Plan(
        options.minutes * 60,
        options.seed,
        options.mode,
        rate=options.rate,
        shared=options.mode != "credential",
    )
    chance = Random(options.seed)
    if options.upstream in {"open-source", "finer"}:
        plan = replace(plan, shared=options.mode == "proven", at_once=8, pause=0.2)
        async with open_source(directory, chance, finer=options.upstream == "finer") as server:
            return await run(plan, server)
    spoils = options.upstream == "gateway"
    async with Gateway(chance, options.tokens, spoils=spoils) as upstream:
        return await run(plan, upstream)


if __name__ == "__main__":
    main()
