"""When a call that waits could leave, as far as can be foreseen.

Pure; ``now`` in the event loop's seconds comes in.
"""

from collections.abc import Collection
from typing import Generic, TypeVar

from mlflow_proxy.budget.fair_queue import Priority
from mlflow_proxy.budget.interface import Budget
from mlflow_proxy.budget.lines import Lines, Waiting
from mlflow_proxy.budget.singled_out import SingledOut
from mlflow_proxy.budget.sliding_window import SlidingWindow

T = TypeVar("T", bound=Waiting)


class Forecast(Generic[T]):
    """Predicts waits from what a queue holds; ``background`` is the share of its background calls."""

    def __init__(
        self, lines: Lines[T], budget: Budget, background: SlidingWindow, singled_out: SingledOut
    ) -> None:
        self._lines = lines
        self._budget = budget
        self._background = background
        self._singled_out = singled_out

    def wait(self, call: T, now: float, *, returned: bool) -> float:
        """Return the seconds until a call could leave, by the shortest of its lines.

        ``returned`` is whether the workspace refused the call when it left before.
        """
        line = self._lines.line(call.priority)
        held_back = max(0.0, self._singled_out.until(call.client) - now)
        if returned:
            ahead = line.returned + (line.clients if self._singled_out.gives_way(call.client) else 0)
            return max(held_back, self._turns(ahead, call.priority, now))
        client = self._lines.shortest(call)
        held = self._lines.held_back(client)
        wait = max(held_back, self._turns(line.ahead(client) + held, call.priority, now))
        if now + wait <= call.deadline():
            return wait
        # Only a call that would be sent away is worth the time that counting exactly takes.
        return max(held_back, self._turns(line.exactly_ahead(client) + held, call.priority, now))

    def worth_coming_back(self, call: T | None, wait: float, now: float) -> float:
        """Return the seconds after which a call that is sent away may come again with better luck.

        ``wait`` is its predicted wait, which holds as it is without a ``call``.
        """
        if call is None:
            before: Collection[T] = ()
        else:
            before = self._lines.line(call.priority).of_client(self._lines.shortest(call))
        return max(self._budget.wait(0, now), _without_the_impatient(wait, before, now))

    def _turns(self, ahead: int, priority: Priority, now: float) -> float:
        if priority is Priority.INTERACTIVE:
            return self._budget.wait(ahead, now)
        share = self._background.wait(ahead, now)
        interactive = len(self._lines.line(Priority.INTERACTIVE))
        return max(share, self._budget.wait(ahead + interactive, now))


def _without_the_impatient(wait: float, before: Collection[Waiting], now: float) -> float:
    """Correct a predicted wait for those calls of the client that will have left before their turn.

    Turns are taken to be evenly spaced. Takes time in proportion to the calls that wait before.
    """
    turn = wait / (len(before) + 1)
    staying = 0
    for place in before:
        staying += now + turn * (staying + 1) <= place.deadline()
    return turn * (staying + 1)
