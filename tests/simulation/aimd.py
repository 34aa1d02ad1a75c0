"""The control law that was not chosen, to compare with: additive increase, multiplicative decrease."""


class Aimd:
    """Rate control after Chiu and Jain (1989); rises by `increase` calls a second each second."""

    def __init__(self, limit: float, floor: float, increase: float = 1.0, decrease: float = 0.9) -> None:
        self._limit = limit
        self._floor = floor
        self._increase = increase
        self._decrease = decrease
        self._base = limit
        self._event: float | None = None

    def rate(self, now: float) -> float:
        """Return the calls a second that may leave now."""
        since = 0.0 if self._event is None else now - self._event
        return min(self._limit, max(self._floor, self._base + self._increase * since))

    def sustained(self, now: float) -> float:
        """Return the calls a second to expect over the next while."""
        return self.rate(now)

    def refused(self, passing: float, now: float) -> None:
        """Take note of a congestion event, as `Cubic` does."""
        rate = self.rate(now)
        self._base = self._decrease * min(rate, max(passing, rate / 2))
        self._event = now
