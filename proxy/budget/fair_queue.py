"""Who is next in line. Pure: an ordered collection that knows nothing of budgets, clocks or asyncio."""

from collections import OrderedDict, deque
from collections.abc import Collection, Iterator
from enum import IntEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class Priority(IntEnum):
    """Classes of calls; a lower one waits for nobody of a higher one."""

    INTERACTIVE = 0
    """Somebody waits for the answer."""
    BACKGROUND = 1
    """Work that nobody waits for, such as prefetching."""

    @property
    def label(self) -> str:
        """Its name in metrics and status."""
        return self.name.lower()


class FairQueue(Generic[T]):
    """One class of calls: round robin across clients, first in first out for each.

    This is deficit round robin (Shreedhar and Varghese 1995) where every call costs the same, so that a
    quantum of one call leaves no deficit to carry over. A client that comes joins at the end of the
    round. Calls that were refused by the workspace come before everyone's first ones, in order of return.

    Items are hashable and in the queue at most once. Every operation takes constant time, but for ``ahead``
    (in the number of clients) and for the removal of a call that was returned.
    """

    def __init__(self) -> None:
        self._returned: deque[T] = deque()
        self._clients: OrderedDict[str, OrderedDict[T, None]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def of_client(self, client: str) -> Collection[T]:
        """Return the calls of a client that wait, in order, returned ones apart."""
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
        """Yield every call, in no order that means anything."""
        yield from self._returned
        for calls in self._clients.values():
            yield from calls

    def push(self, item: T, client: str) -> None:
        """Put a call last among its client's."""
        self._clients.setdefault(client, OrderedDict())[item] = None
        self._length += 1

    def push_returned(self, item: T) -> None:
        """Put back a call that had its turn and was refused by the workspace: before all first calls."""
        self._returned.append(item)
        self._length += 1

    def pop(self) -> T:
        """Take out the call whose turn it is. Raises IndexError when nobody waits."""
        if not self._length:
            raise IndexError("nobody waits")
        self._length -= 1
        if self._returned:
            return self._returned.popleft()
        client, calls = next(iter(self._clients.items()))
        item, _ = calls.popitem(last=False)
        if calls:
            self._clients.move_to_end(client)
        else:
            del self._clients[client]
        return item

    def remove(self, item: T, client: str) -> None:
        """Take out a call that nobody wants any more. Raises KeyError if it does not wait."""
        calls = self._clients.get(client)
        if calls is not None and item in calls:
            del calls[item]
            if not calls:
                del self._clients[client]
        elif item in self._returned:
            self._returned.remove(item)
        else:
            raise KeyError(item)
        self._length -= 1

    def ahead(self, client: str) -> int:
        """Return how many calls would leave before one more of this client, if no others came."""
        own = len(self.of_client(client))
        before = len(self._returned) + own
        turns = own + 1
        for other, calls in self._clients.items():
            if other == client:
                turns = own  # those behind it in the round have one turn less before its last
            else:
                before += min(len(calls), turns)
        return before
