"""The clients that wait for one answer, and the latest of their deadlines.

Pure. Listeners are notified when a client joins or leaves.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, KeysView
from contextlib import contextmanager


class Party:
    """The clients that wait for one answer. A client is named once, however often it waits.

    ``deadline`` is the event loop's time at which the last of them loses patience.
    """

    def __init__(self, *clients: Hashable, deadline: float = float("inf")) -> None:
        self.deadline = deadline
        self._waits = Counter(clients)
        self._watchers: list[Callable[[Hashable], None]] = []

    @property
    def clients(self) -> KeysView[Hashable]:
        """Their names, in the order in which they came."""
        return self._waits.keys()

    def until(self) -> float:
        """Return the deadline as it is now: it moves when more patient clients join."""
        return self.deadline

    @contextmanager
    def joined(self, guests: "Party") -> Iterator[None]:
        """Let each client of another party wait for this answer too, for as long as it is in both."""

        def changed(client: Hashable) -> None:
            if client in guests.clients:
                self._come(client)
            else:
                self._go(client)

        self.deadline = max(self.deadline, guests.deadline)
        guests._watchers.append(changed)
        try:
            for client in tuple(guests.clients):
                self._come(client)
            try:
                yield
            finally:
                for client in tuple(guests.clients):
                    self._go(client)
        finally:
            guests._watchers.remove(changed)

    @contextmanager
    def watched(self, changed: Callable[[Hashable], None]) -> Iterator[None]:
        """Call ``changed`` with the name of each client that joins or leaves."""
        self._watchers.append(changed)
        try:
            yield
        finally:
            self._watchers.remove(changed)

    def _come(self, client: Hashable) -> None:
        self._waits[client] += 1
        if self._waits[client] == 1:
            self._tell(client)

    def _go(self, client: Hashable) -> None:
        self._waits[client] -= 1
        if not self._waits[client]:
            del self._waits[client]
            self._tell(client)

    def _tell(self, client: Hashable) -> None:
        for changed in tuple(self._watchers):
            changed(client)
