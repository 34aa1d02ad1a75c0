"""What the demo shows: the progress of a storm while it lasts, and the table at its end.

What belongs here: words and widths. On a terminal the progress is drawn in place; into a pipe or a log it is
a plain line every few seconds.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mlflow_proxy.demo.journal import Arrivals
from mlflow_proxy.demo.storm import RealClient

_DRAW_EVERY = 0.25
_PRINT_EVERY = 5.0


@dataclass(frozen=True)
class Outcome:
    """How one storm ended: what the workspace saw, and what became of the clients."""

    title: str
    seconds: float
    calls: int
    distinct: int
    refused: int
    seen: int
    busiest_second: int
    failures: Sequence[str]


class Progress:
    """The progress of one storm: `arrivals` tells what reached the registry since it began."""

    def __init__(
        self, title: str, clients: Sequence[RealClient], files: int, arrivals: Callable[[], Arrivals]
    ) -> None:
        self._title = title
        self._clients = clients
        self._files = files
        self._arrivals = arrivals
        self._began = time.monotonic()

    @asynccontextmanager
    async def shown(self, console: Console) -> AsyncIterator[None]:
        """Show it while the context lasts."""
        task = asyncio.create_task(self._draw(console) if console.is_terminal else self._print(console))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _draw(self, console: Console) -> None:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while True:
                live.update(self._table(), refresh=True)
                await asyncio.sleep(_DRAW_EVERY)

    async def _print(self, console: Console) -> None:
        while True:
            await asyncio.sleep(_PRINT_EVERY)
            arrived = " ".join(str(min(client.arrived(), self._files)) for client in self._clients)
            console.print(
                Text(f"{self._summary()}; files of {self._files} per client: {arrived}"), soft_wrap=True
            )

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 1))
        for number, client in enumerate(self._clients, start=1):
            arrived = min(client.arrived(), self._files)
            state = f"{arrived}/{self._files}"
            if client.seconds is not None:
                state += (
                    f" failed after {client.seconds:.1f} s"
                    if client.failure
                    else f" in {client.seconds:.1f} s"
                )
            table.add_row(f"client {number}", ProgressBar(self._files, arrived, width=40), state)
        outer = Table.grid()
        outer.add_row(table)
        outer.add_row(self._summary())
        return outer

    def _summary(self) -> str:
        arrivals = self._arrivals()
        now = time.monotonic()
        recent = sum(1 for arrival in arrivals if arrival.time > now - 1)
        refused = arrivals.statuses()[429]
        return (
            f"{self._title}: {now - self._began:5.1f} s, {len(arrivals)} calls to the workspace "
            f"({recent} in the last second), {refused} refused with 429"
        )


@dataclass(frozen=True)
class Scale:
    """What the storms are measured by: `limit` is in calls a second, `distinct` and `proofs` in calls."""

    clients: int
    tokens: int
    distinct: int
    proofs: int
    limit: int

    @property
    def floor(self) -> float:
        """The seconds that the calls take of which none can be saved."""
        return (self.distinct + self.proofs) / self.limit


def result_table(outcomes: Sequence[Outcome], scale: Scale) -> Table:
    """Return the table of all storms, one column for each."""
    clients = f"{scale.clients} clients with {counted(scale.tokens, 'token')}"
    table = Table(title=f"{clients} download one model at once", title_justify="left")
    table.add_column("")
    for outcome in outcomes:
        table.add_column(outcome.title, justify="right")
    needed = "distinct calls" + (f" and {scale.proofs} proofs" if scale.proofs else "")
    rows: list[tuple[str, Callable[[Outcome], str]]] = [
        ("time", lambda outcome: f"{outcome.seconds:.1f} s"),
        (f"  floor: {needed} / limit", lambda _: f"{scale.floor:.2f} s"),
        ("calls to the workspace", lambda outcome: str(outcome.calls)),
        (
            "  distinct calls" + (", proofs as one" if scale.proofs else ""),
            lambda outcome: str(outcome.distinct),
        ),
        ("  most in any second", lambda outcome: str(outcome.busiest_second)),
        ("429s from the workspace", lambda outcome: str(outcome.refused)),
        ("429s seen by clients", lambda outcome: str(outcome.seen)),
        ("failed clients", lambda outcome: f"{len(outcome.failures)} of {scale.clients}"),
    ]
    for label, value in rows:
        table.add_row(label, *map(value, outcomes))
    return table


def counted(number: int, thing: str) -> str:
    """Return the number with the thing's name, in the plural where it is not one."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
