"""What arrived at an emulated server: the evidence that tests and the demo's table are made of."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from multidict import CIMultiDictProxy


@dataclass(eq=False)
class Arrival:
    """One request.

    `time` is in seconds of the server's monotonic clock; `target` is the raw request target; `body` is kept
    for API calls only. `status` is None until it is answered, and stays so when the client left
    (`cancelled`) or the connection was reset.
    """

    time: float
    group: str
    method: str
    endpoint: str
    target: str
    token: str | None
    headers: CIMultiDictProxy[str]
    body: bytes = b""
    status: int | None = None
    cancelled: bool = False


class Arrivals(list[Arrival]):
    """Requests in the order of their arrival."""

    def in_group(self, group: str) -> "Arrivals":
        """Return those that count in the rate-limit `group`."""
        return Arrivals(arrival for arrival in self if arrival.group == group)

    def to(self, endpoint: str) -> "Arrivals":
        """Return those to `endpoint`, such as "model-versions/get"."""
        return Arrivals(arrival for arrival in self if arrival.endpoint == endpoint)

    def distinct(self) -> int:
        """Count the different calls: method, raw target and body."""
        return len({(arrival.method, arrival.target, arrival.body) for arrival in self})

    def statuses(self) -> Counter[int | None]:
        """Count by the status answered."""
        return Counter(arrival.status for arrival in self)

    def max_in_window(self, seconds: float = 1.0) -> int:
        """Return the largest number that arrived in any half-open interval of `seconds`."""
        return most_within((arrival.time for arrival in self), seconds)


def most_within(times: Iterable[float], seconds: float = 1.0) -> int:
    """Return the largest number of moments, given in order, in any half-open interval of `seconds`."""
    largest = 0
    window: deque[float] = deque()
    for time in times:
        window.append(time)
        while time - window[0] >= seconds:
            window.popleft()
        largest = max(largest, len(window))
    return largest


class Journal:
    """Records requests and wakes the tasks that wait for them."""

    def __init__(self) -> None:
        self.arrivals = Arrivals()
        self._changed = asyncio.Event()

    def record(self, arrival: Arrival) -> None:
        """Add a request that has just arrived."""
        self.arrivals.append(arrival)
        self.notify()

    def notify(self) -> None:
        """Wake the waiting tasks: a request arrived, was answered, or was cancelled."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def until(self, condition: Callable[[Arrivals], bool]) -> None:
        """Wait until `condition` holds of the arrivals; the caller brings the time-out."""
        while not condition(self.arrivals):
            await self._changed.wait()
