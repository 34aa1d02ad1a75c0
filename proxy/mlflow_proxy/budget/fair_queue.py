"""Which call is next in line. Pure: an ordered collection without budgets, clocks or asyncio."""

from collections import OrderedDict, deque
from collections.abc import Collection, Hashable, Iterator
from enum import IntEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class Priority(IntEnum):
    """Classes of calls: a call of a lower number goes before all of a higher one."""

    INTERACTIVE = 0
    """A client waits for the answer."""
    BACKGROUND = 1
    """Work that no client waits for, such as prefetching."""

    @property
    def label(self) -> str:
        """Its name in metrics and status."""
        return self.name.lower()


class FairQueue(Generic[T]):
    """One class of calls: round robin across clients, first in first out for each.

    This is deficit round robin (Shreedhar and Varghese 1995) where every call costs the same, so that a
    quantum of one call leaves no deficit to carry over. A client that comes joins at the end of the
    round. Calls that were refused by the workspace come before all clients' first ones, in order of return.

    A call that several clients wait for has a place in the line of each; the first place whose turn comes is
    the call's, and the others are gone at that moment.

    Items are hashable, in the queue at most once and in each line at most once. Every operation takes
    constant time for each place, but for ``ahead`` (in the number of clients) and ``exactly_ahead``.
    """

    def __init__(self) -> None:
        self._returned: OrderedDict[T, None] = OrderedDict()
        self._clients: OrderedDict[Hashable, OrderedDict[T, None]] = OrderedDict()
        self._places: dict[T, set[Hashable]] = {}
        """In whose lines each call has its places; in none if it was returned."""
        self._shared = 0
        """Places beyond the first of each call."""

    def __len__(self) -> int:
        """Return how many calls wait, each once."""
        return len(self._places)

    def places(self, item: T) -> Collection[Hashable]:
        """Return the clients in whose lines a call has a place: none if it was returned or does not wait."""
        return self._places.get(item, frozenset())

    def of_client(self, client: Hashable) -> Collection[T]:
        """Return the calls that have a place in a client's line, in order, returned ones apart."""
        return self._clients.get(client, {})

    @property
    def clients(self) -> int:
        """How many clients have calls waiting, returned ones apart."""
        return len(self._clients)

    @property
    def returned(self) -> int:
        """How many calls wait that were refused by the workspace."""
        return len(self._returned)

    def __iter__(self) -> Iterator[T]:
        """Yield every call once, in no order that means anything."""
        return iter(self._places)

    def push(self, item: T, client: Hashable) -> None:
        """Give a call the last place in a client's line, beside those it has in other clients'.

        It must have none in this one, and not have been returned.
        """
        self._clients.setdefault(client, OrderedDict())[item] = None
        places = self._places.setdefault(item, set())
        places.add(client)
        self._shared += len(places) > 1

    def push_first(self, item: T, client: Hashable) -> None:
        """Put back a call that had its turn into the first place of its client's line.

        So had the client, which is the last of the round then.
        """
        self.push(item, client)
        self._clients[client].move_to_end(item, last=False)
        self._clients.move_to_end(client)

    def push_returned(self, item: T) -> None:
        """Put back a call that had its turn and was refused by the workspace: before all first calls."""
        self._returned[item] = None
        self._places[item] = set()

    def peek(self) -> T:
        """Return the call whose turn it is. Raises IndexError when no call waits."""
        if not self._places:
            raise IndexError("no call waits")
        return next(iter(self._returned or next(iter(self._clients.values()))))

    def pop(self) -> T:
        """Take out the call whose turn it is. Raises IndexError when no call waits."""
        item = self.peek()
        if not self._returned:
            self._clients.move_to_end(next(iter(self._clients)))
        self.remove(item)
        return item

    def remove(self, item: T) -> None:
        """Take out a call that no client wants any more. Raises KeyError if it does not wait."""
        places = self._places.pop(item)
        self._shared -= max(0, len(places) - 1)
        for client in places:
            self._take(item, client)
        self._returned.pop(item, None)

    def withdraw(self, item: T, client: Hashable) -> None:
        """Take a call's place out of a client's line, and the call with its last. Raises KeyError."""
        places = self._places[item]
        places.remove(client)
        self._take(item, client)
        if places:
            self._shared -= 1
        else:
            del self._places[item]

    def ahead(self, client: Hashable) -> int:
        """Return how many calls would leave before one more of this client at most, if no others came.

        Exactly so many if each call has one place.
        """
        own = len(self.of_client(client))
        before = len(self._returned) + own
        turns = own + 1
        for other, calls in self._clients.items():
            if other == client:
                turns = own  # those behind it in the round have one turn less before its last
            else:
                before += min(len(calls), turns)
        return min(before, len(self))

    def exactly_ahead(self, client: Hashable) -> int:
        """Return how many calls would leave before one more of this client, if no others came.

        Goes through the rounds until then: takes time in proportion to the places of all if any call has
        several.
        """
        if not self._shared:
            return self.ahead(client)
        left = set(self._returned)
        lines = deque((name, iter(calls)) for name, calls in self._clients.items())
        if client not in self._clients:
            lines.append((client, iter(())))
        while True:
            name, calls = lines.popleft()
            for call in calls:
                if call not in left:
                    left.add(call)
                    lines.append((name, calls))
                    break
            else:
                if name == client:
                    return len(left)

    def _take(self, item: T, client: Hashable) -> None:
        calls = self._clients[client]
        del calls[item]
        if not calls:
            del self._clients[client]
