"""What the budget makes of a workspace that others call too, in simulation: tables for docs/benchmarks.md.

What belongs here: the grid of scenarios. Figures are of the real pacer and queue in virtual time, so they are
the same on every machine.
"""

from collections.abc import Callable, Iterator
from functools import partial

from mlflow_proxy.budget.congestion import Congestion, Cubic
from mlflow_proxy.demo.limiters import BatchReported, FixedWindow, Limiter, SlidingWindow, TokenBucket
from tests.bench.table import print_table
from tests.simulation.aimd import Aimd
from tests.simulation.world import LIMIT, Record, Scenario, Steps, fairness, simulate

SECONDS = 240.0
STEPS: Steps = ((60, 10), (120, 30), (180, 5))

LIMITERS: dict[str, Callable[[], Limiter]] = {
    "sliding": lambda: SlidingWindow(LIMIT),
    "fixed": lambda: FixedWindow(LIMIT),
    "token-bucket": lambda: TokenBucket(LIMIT, LIMIT),
    "bucket of 20": lambda: TokenBucket(LIMIT, LIMIT // 2),
    "batch-reported": lambda: BatchReported(LIMIT, LIMIT),
}

LAWS: dict[str, Callable[[float, float], Congestion]] = {
    "CUBIC": Cubic,
    "AIMD 1/s": partial(Aimd, increase=1.0),
    "AIMD 2.5/s": partial(Aimd, increase=2.5),
}

OTHERS: dict[str, Scenario] = {
    "none": Scenario(SECONDS),
    "0, 10, 30, 5": Scenario(SECONDS, outside=STEPS),
    "0, 10, 30, 5 at random": Scenario(SECONDS, outside=STEPS, poisson=True),
    "0, 10, 30, 5, Retry-After": Scenario(SECONDS, outside=STEPS, retry_after=True),
}


def print_simulation() -> None:
    """Simulate the grid and print its tables."""
    print(
        "Simulated: one client with 100 calls always waiting, 4 minutes; others call at 0, 10, 30 and 5 a "
        "second for a minute each, evenly (with 25 ms of jitter) or at random; network 15 ms each way and up "
        "to 25 ms of jitter. Use is of what others leave of 40, the least of the four minutes, each without "
        "its first 10 s.\n"
    )
    head = "law|others|limiter|use|429s|others' 429s|wait 50 %|90 %|99 %"
    print_table(head.split("|"), list(_rows()))
    print("Simulated: calls of clients with 1 to 200 always waiting, one minute, no others:\n")
    crowd = {f"{count} calls": count for count in (1, 5, 20, 50, 100, 200)}
    record = simulate(Scenario(60, clients=crowd))
    print_table(["Jain's index without the first", *crowd], [_shares(record, crowd)])


def _rows() -> Iterator[tuple[str, ...]]:
    for law, congestion in LAWS.items():
        for others, scenario in OTHERS.items():
            for name, limiter in LIMITERS.items():
                if law != "CUBIC" and (name != "sliding" or others == "none"):
                    continue
                record = simulate(
                    Scenario(**{**vars(scenario), "limiter": limiter, "congestion": congestion})
                )
                waits = (f"{wait:.2f} s" for wait in record.waits())
                refused = (f"{record.refused() * 100:.2f} %", f"{record.refused(ours=False) * 100:.1f} %")
                yield (law, others, name, f"{_use(record) * 100:.0f} %", *refused, *waits)


def _use(record: Record) -> float:
    """Return the least use of what is left, of the four minutes."""
    return min(record.utilisation(since + 10, since + 60) for since in (0, 60, 120, 180))


def _shares(record: Record, clients: dict[str, int]) -> tuple[str, ...]:
    shares = [sum(each.client == client for each in record.arrivals) for client in clients]
    backlogged = shares[1:]  # a single call at a time cannot use a whole share
    return (f"{fairness(backlogged):.3f}", *map(str, shares))


if __name__ == "__main__":
    print_simulation()
