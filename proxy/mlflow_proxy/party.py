"""The clients that wait for one answer, and the latest of their deadlines.

Pure. Listeners are notified when a client joins or leaves.
"""

from collections.abc import Callable, Hashable, Iterator, KeysView
from contextlib import contextmanager


class Party:
    """The clients that wait for one answer. A client is named once, however often it waits.

    ``deadline`` is the event loop's time at which the last of them loses patience.
    """

    def __init__(self, *clients: Hashable, deadline: float = float("inf")) -> None:
        self.deadline = deadline
        self._waits: dict[Hashable, int] = dict.fromkeys(clients, 1)
        self._watchers: list[Callable[[Hashable], None]] = []

    @property
    def clients(self) -> KeysView[Hashable]:
        """Their names, in the order in which they came."""
        return self._waits.keys()

    def until(self) -> float:
        """Return the deadline as it is now: it moves when more patient clients join."""
        return self.deadline

    def joined(self, guests: "Party") -> "_Joined":
        """Let each client of another party wait for this answer too, as long as it is in both.

        Returns a context manager.
        """
        return _Joined(self, guests)

    @contextmanager
    def watched(self, changed: Callable[[Hashable], None]) -> Iterator[None]:
        """Call ``changed`` with the name of each client that joins or leaves."""
        self.watch(changed)
        try:
            yield
        finally:
            self.unwatch(changed)

    def watch(self, changed: Callable[[Hashable], None]) -> None:
        """Call ``changed`` with the name of each client that joins or leaves, until ``unwatch``."""
        self._watchers.append(changed)

    def unwatch(self, changed: Callable[[Hashable], None]) -> None:
        """Call it no more."""
        self._watchers.remove(changed)

    def come(self, client: Hashable) -> None:
        """Let a client wait, or wait once more."""
        waits = self._waits[client] = self._waits.get(client, 0) + 1
        if waits == 1:
            self._tell(client)

    def go(self, client: Hashable) -> None:
        """Let a client wait once less."""
        self._waits[client] -= 1
        if not self._waits[client]:
            del self._waits[client]
            self._tell(client)

    def _tell(self, client: Hashable) -> None:
        for changed in tuple(self._watchers):
            changed(client)


class _Joined:
    """The context of ``Party.joined``. A class, since most requests of a storm enter it."""

    __slots__ = ("_guests", "_host")

    def __init__(self, host: Party, guests: Party) -> None:
        self._host = host
        self._guests = guests

    def __enter__(self) -> None:
        host, guests = self._host, self._guests
        host.deadline = max(host.deadline, guests.deadline)
        guests.watch(self._changed)
        for client in tuple(guests.clients):
            host.come(client)

    def __exit__(self, *_: object) -> None:
        for client in tuple(self._guests.clients):
            self._host.go(client)
        self._guests.unwatch(self._changed)

    def _changed(self, client: Hashable) -> None:
        if client in self._guests.clients:
            self._host.come(client)
        else:
            self._host.go(client)
