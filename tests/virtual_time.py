"""An event loop in which time passes only when there is nothing else to do, and then at once.

Runs are exact and repeatable: as long as all durations are multiples of ``TICK``, so are all moments.
"""

import asyncio
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from hypothesis import strategies as st

TICK = 1 / 1024
"""Seconds. A power of two, so that sums of ticks are exact."""

T = TypeVar("T")


def ticks(least: int, most: int) -> st.SearchStrategy[float]:
    """Durations in whole ticks."""
    return st.integers(least, most).map(lambda count: count * TICK)


def now() -> float:
    """Seconds since the loop that is running was made."""
    return asyncio.get_running_loop().time()


class _Selector(selectors.SelectSelector):
    """Lets virtual time pass where the loop would sleep."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everyone waits and nothing will ever happen")
        self.now += max(timeout, 0)
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Its ``time()`` begins at 0 and jumps to the next timer when nothing is ready to run."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)
        self.problems: list[Mapping[str, Any]] = []
        """What asyncio would have logged: errors that nobody looked at, tasks that were lost."""
        self.set_exception_handler(lambda loop, context: self.problems.append(context))

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._virtual.now


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` in virtual time; fails if anything went wrong out of its sight."""
    loop = VirtualTimeLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        result = runner.run(main)
        left = asyncio.all_tasks(loop)
    assert not left, f"left running: {left}"
    assert not loop.problems, loop.problems
    return result
