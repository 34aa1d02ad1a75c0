"""Attack proxies, each in front of an upstream; exit status 1 if one answered what its upstream would not.

What is found is told with all that led to it: who asked what, when, and what was answered directly at which
times. The seed decides what is drawn, not how fast processes run.
"""

import argparse
import asyncio
import sys
import tempfile
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
    parser.add_argument("--mode", default="auto", help="access.sharing (default: auto)")
    parser.add_argument(
        "--upstream",
        action="append",
        choices=UPSTREAMS,
        help="several at the same time (default: gateway and open-source)",
    )
    parser.add_argument("--rate", type=float, default=75, help="requests a second of each (default: 75)")
    parser.add_argument(
        "--tokens", type=int, default=6, help="that callers of the workspace have (default: 6)"
    )
    options = parser.parse_args()
    upstreams = options.upstream or ["gateway", "open-source"]
    if options.mode == "proven" and "finer" in upstreams:
        parser.error(
            "where versions have permissions of their own, a proof about the model proves too little"
        )
    runs = asyncio.run(_all(upstreams, options))
    for going in runs:
        print("\n".join([*report(going), *going.judge.findings]))
    sys.exit(any(going.judge.findings or going.judge.wrong for going in runs))


async def _all(upstreams: list[str], options: argparse.Namespace) -> list[Run]:
    with tempfile.TemporaryDirectory(prefix="mlflow-proxy-differential-") as directory:
        homes = [Path(directory, name) for name in upstreams]
        for home in homes:
            home.mkdir()
        return await asyncio.gather(*(_one(home, options) for home in homes))


async def _one(home: Path, options: argparse.Namespace) -> Run:
    name, seconds, chance = home.name, options.minutes * 60, Random(options.seed)
    if name in {"open-source", "finer"}:
        # Only "proven" lets credentials share there. It is slow, and takes a few requests at once.
        plan = Plan(
            seconds,
            options.seed,
            options.mode,
            name=name,
            rate=options.rate,
            pause=0.2,
            at_once=8,
            shared=options.mode == "proven",
        )
        async with open_source(home, chance, finer=name == "finer") as server:
            return await run(plan, server)
    shared = options.mode != "credential"
    plan = Plan(seconds, options.seed, options.mode, name=name, rate=options.rate, shared=shared)
    async with Gateway(chance, options.tokens, spoils=name == "gateway") as upstream:
        return await run(plan, upstream)


if __name__ == "__main__":
    main()
