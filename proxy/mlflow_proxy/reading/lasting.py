"""An LRU cache that tells until when each of its values holds. Pure."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from cachetools import LRUCache

from mlflow_proxy.term import Term

K = TypeVar("K")
V = TypeVar("V")


class Lasting(LRUCache[K, V]):
    """Values that hold until a time of their own, or until they leave the cache, whichever is sooner.

    ``until`` returns the time of a value by ``clock.Clock``. Every removal, eviction included, goes through
    ``__delitem__`` (as cachetools documents), which ends the value's term, as does a value in its place.
    """

    def __init__(
        self, maxsize: int, until: Callable[[V], float], getsizeof: Callable[[V], float] | None = None
    ) -> None:
        super().__init__(maxsize, getsizeof=getsizeof)
        self._until = until
        self._terms: dict[K, Term] = {}

    def term(self, key: K) -> Term:
        """Return the term of the value that is there."""
        return self._terms[key]

    def __setitem__(self, key: K, value: V) -> None:
        if (replaced := self._terms.pop(key, None)) is not None:
            replaced.end()
        super().__setitem__(key, value)
        self._terms[key] = Term(self._until(value), partial(self.__getitem__, key))

    def __delitem__(self, key: K) -> None:
        super().__delitem__(key)
        self._terms.pop(key).end()
