"""The clocks of a machine that sleeps, and whose wall clock is set."""

import time
from dataclasses import dataclass

from mlflow_proxy.clock import Clock


class Machine:
    """A real monotonic clock, which stands still in sleep, and a wall clock, which may be set to anything."""

    def __init__(self) -> None:
        self._slept = self._off = 0.0
        self.clock = Clock(time.monotonic, lambda: self.elsewhere() + self._off)

    def elsewhere(self) -> float:
        """Return Unix time by those who do not sleep, and whose clocks are right."""
        return time.time() + self._slept

    def sleep(self, seconds: float) -> None:
        """Let time pass that the monotonic clock does not see."""
        self._slept += seconds

    def set(self, seconds: float) -> None:
        """Set the wall clock forward, or back if negative."""
        self._off += seconds


@dataclass
class Hands:
    """Two clocks that go when told to."""

    monotonic: float = 5e3
    wall: float = 1.7e9

    def clock(self) -> Clock:
        return Clock(lambda: self.monotonic, lambda: self.wall)

    def go(self, monotonic: float, wall: float) -> None:
        self.monotonic += monotonic
        self.wall += wall
