"""The store of answers: in memory, bounded in bytes, least recently used evicted first.

Indexed by model and version, so that a write drops only the answers that it outdates.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mlflow_proxy.mlflow_api.messages import StoredResponse
from mlflow_proxy.mlflow_api.model_names import folded_or_none
from mlflow_proxy.mlflow_api.reads import Key
from mlflow_proxy.reading.lasting import Lasting
from mlflow_proxy.term import Term

_OVERHEAD = 1024
"""Bytes that an entry costs beside its text: objects, index, table (estimate)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored answer. Times are those of ``mlflow_proxy.clock``."""

    response: StoredResponse
    model: str | None
    version: str | None
    survives_metadata_writes: bool
    stored_at: float
    expires_at: float
    made: object = None
    """A value derived from the response (a parsed listing), to be reused."""
    made_size: int = 0

    def size(self, key: Key) -> int:
        """Return the bytes that the entry takes under this key, approximately."""
        texts = sum(len(name) + len(value) for name, value in (*self.response.headers, *key.asked))
        return len(self.response.body) + texts + _OVERHEAD + self.made_size


@dataclass(frozen=True, slots=True)
class Invalidation:
    """What a write outdates: answers about ``models`` (None: about any model), of all credentials.

    Answers that may be about any model (searches) are always outdated. ``files`` is whether answers that
    survive writes of metadata are, too.
    """

    models: frozenset[str] | None
    files: bool

    def concerns(self, model: str | None) -> bool:
        """Whether answers about this model may be outdated."""
        return (
            self.models is None
            or model is None
            or folded_or_none(model) in {folded_or_none(name) for name in self.models}
        )


class MemoryStore:
    """Answers by key, at most ``max_bytes`` in total."""

    def __init__(self, max_bytes: int) -> None:
        self._entries = _IndexedCache(max_bytes)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def bytes(self) -> int:
        """Bytes in use, approximately."""
        return int(self._entries.currsize)

    def get(self, key: Key, now: float) -> Entry | None:
        """Return a fresh entry, or None."""
        entry = self._entries.get(key)
        return entry if entry is not None and now < entry.expires_at else None

    def term(self, key: Key) -> Term:
        """Return until when an entry that ``get`` has just returned is there and fresh."""
        return self._entries.term(key)

    def get_stale(self, key: Key, now: float, grace: float) -> Entry | None:
        """Return an entry that is fresh or expired less than ``grace`` seconds ago, or None."""
        entry = self._entries.get(key)
        return entry if entry is not None and now < entry.expires_at + grace else None

    def put(self, key: Key, entry: Entry) -> bool:
        """Store an answer; returns False if it is larger than the whole store."""
        if entry.size(key) > self._entries.maxsize:
            return False
        self._entries.pop(key, None)
        self._entries[key] = entry
        return True

    def discard(self, key: Key, response: StoredResponse) -> None:
        """Drop an answer that proved wrong, unless another one has replaced it."""
        entry = self._entries.get(key)
        if entry is not None and entry.response is response:
            del self._entries[key]

    def made(self, key: Key, response: StoredResponse) -> object:
        """Return the value that ``make`` kept with this answer; None without one, or if it was dropped."""
        entry = self._entries.get(key)
        return entry.made if entry is not None and entry.response is response else None

    def make(self, key: Key, response: StoredResponse, made: object, size: int) -> None:
        """Keep a derived value of ``size`` bytes with a stored answer, if there is room."""
        entry = self._entries.get(key)
        if entry is not None and entry.response is response:
            with_it = replace(entry, made=made, made_size=size)
            if with_it.size(key) <= self._entries.maxsize:
                self.put(key, with_it)

    def invalidate(self, what: Invalidation) -> int:
        """Drop the entries that a write outdated; returns how many."""
        wrong = [
            key
            for key, entry in self._entries.about(what.models)
            if not entry.survives_metadata_writes or (what.files and entry.model is not None)
        ]
        for key in wrong:
            del self._entries[key]
        return len(wrong)


class _IndexedCache(Lasting[Key, Entry]):
    """An LRU cache with an index by model and version.

    Every removal, eviction included, goes through ``__delitem__`` (as cachetools documents), which keeps the
    index exact.
    """

    def __init__(self, maxsize: int) -> None:
        # The size of a value depends on its key too, which cachetools does not pass on.
        super().__init__(maxsize, lambda entry: entry.expires_at, lambda entry: self._size)
        self._size = 0
        self._index: dict[str | None, dict[str | None, dict[Key, Entry]]] = {}

    def __setitem__(self, key: Key, entry: Entry) -> None:
        self._size = entry.size(key)
        super().__setitem__(key, entry)
        self._index.setdefault(folded_or_none(entry.model), {}).setdefault(entry.version, {})[key] = entry

    def __delitem__(self, key: Key) -> None:
        entry = self[key]
        super().__delitem__(key)
        model = folded_or_none(entry.model)
        versions = self._index[model]
        del versions[entry.version][key]
        if not versions[entry.version]:
            del versions[entry.version]
        if not versions:
            del self._index[model]

    def about(self, models: frozenset[str] | None) -> Iterator[tuple[Key, Entry]]:
        """Yield the entries about these models (None for all) and those about no model in particular."""
        chosen = set(self._index) if models is None else {None, *map(folded_or_none, models)}
        for model in chosen:
            for entries in self._index.get(model, {}).values():
                yield from entries.items()
