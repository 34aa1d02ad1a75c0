"""The calls that wait for one budget: a line for each client and class, and those that are held back.

Pure: which call is where. The queue decides when one leaves, and for how long a client is held back.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from mlflow_proxy.budget.fair_queue import FairQueue, Priority
from mlflow_proxy.party import Party

Deadline = Callable[[], float]
"""The event loop's time at which a call stops being wanted. It may move while the call waits, since
other clients can join the wait."""


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """A call that waits: made in the name of ``client``, for all of ``party``."""

    deadline: Deadline
    client: Hashable
    party: Party
    priority: Priority

    @property
    def names(self) -> Collection[Hashable]:
        """The clients in whose lines it may have a place."""
        return self.party.clients or (self.client,)


T = TypeVar("T", bound=Waiting)


class Lines(Generic[T]):
    """The lines of one budget, interactive calls before background ones.

    A call has a place in the line of each client of its party, except in lines that hold ``per_client`` calls
    already. Calls of a client that the workspace refuses alone are held back, apart from all lines.
    """

    def __init__(self, per_client: int) -> None:
        self._per_client = per_client
        self._classes: dict[Priority, FairQueue[T]] = {priority: FairQueue() for priority in Priority}
        self._held: dict[Hashable, OrderedDict[T, None]] = {}
        """Calls of each client that is held back, in order."""

    def __len__(self) -> int:
        """Return how many calls wait, each once."""
        return sum(map(len, self._classes.values())) + sum(map(len, self._held.values()))

    def __iter__(self) -> Iterator[T]:
        """Yield every call once, those held back last."""
        for line in self._classes.values():
            yield from line
        for held in self._held.values():
            yield from held

    @property
    def clients(self) -> int:
        """How many clients wait, counted in each class and among those held back."""
        return sum(line.clients for line in self._classes.values()) + len(self._held)

    @property
    def held(self) -> Collection[Hashable]:
        """The clients that are held back."""
        return self._held.keys()

    def line(self, priority: Priority) -> FairQueue[T]:
        """Return the calls of a class, without those that are held back."""
        return self._classes[priority]

    def waiting(self, priority: Priority) -> int:
        """Return how many calls of a class wait."""
        held = sum(call.priority is priority for calls in self._held.values() for call in calls)
        return len(self._classes[priority]) + held

    def others_could_leave(self, client: Hashable) -> bool:
        """Whether a call of another client waits without being held back."""
        return any(call.client != client for line in self._classes.values() for call in line)

    # -- coming and going --------------------------------------------------------------------------

    def enter(self, call: T, lines: Collection[Hashable]) -> None:
        """Give a call the last place in the lines of these clients."""
        for client in lines:
            self._classes[call.priority].push(call, client)

    def enter_again(self, call: T, *, held_back: bool) -> None:
        """Take back a call that the workspace refused: before all others, or as the first of its client's.

        ``held_back`` is whether its client gives way to others.
        """
        if held_back:
            self._hold(call)
            self._held[call.client].move_to_end(call, last=False)
        else:
            self._classes[call.priority].push_returned(call)

    def next(self) -> T | None:
        """Return the call whose turn it is, which stays; None when all that wait are held back."""
        for line in self._classes.values():
            if line:
                return line.peek()
        return None

    def pop(self, call: T) -> None:
        """Take out the call whose turn it is: its client's next turn comes a round later."""
        self._classes[call.priority].pop()

    def hold_back(self, call: T) -> None:
        """Take a call out of all lines until its client is released."""
        self._classes[call.priority].remove(call)
        self._hold(call)

    def release(self, client: Hashable) -> None:
        """Give the calls of a client that was held back the first places of its line.

        In the lines of others that wait for them they come last: they have been refused.
        """
        for call in reversed(self._held.pop(client)):
            line = self._classes[call.priority]
            line.push_first(call, client)
            for guest in call.party.clients - {client}:
                line.push(call, guest)

    def take_out(self, call: T) -> None:
        """Remove a call, held back or not. Raises KeyError if it does not wait."""
        held = self._held.get(call.client)
        if held is None or call not in held:
            self._classes[call.priority].remove(call)
            return
        del held[call]
        if not held:
            del self._held[call.client]

    def follow(self, call: T, client: Hashable) -> None:
        """Give a call a place for a client that joined its party, or take the place of one that left."""
        line, party = self._classes[call.priority], call.party.clients
        places = line.places(call)
        if not places:
            return  # it has left, comes before all lines, or is held back
        if client in party:
            if self.has_room(call.priority, client):
                line.push(call, client)
        elif client in places and party:
            if len(places) == 1:
                # Those that are left found their lines full.
                line.push(call, next(iter(party)))
            line.withdraw(call, client)

    def has_room(self, priority: Priority, client: Hashable) -> bool:
        """Whether a client's line of a class holds less than it may."""
        waiting = len(self._classes[priority].of_client(client)) + self.held_back(client)
        return waiting < self._per_client

    def held_back(self, client: Hashable) -> int:
        """Return how many calls of a client are held back."""
        return len(self._held.get(client, ()))

    def shortest(self, call: T) -> Hashable:
        """Return the client with the shortest of the lines that a call may have a place in."""
        line = self._classes[call.priority]
        return min(call.names, key=lambda client: len(line.of_client(client)))

    def _hold(self, call: T) -> None:
        self._held.setdefault(call.client, OrderedDict())[call] = None
