"""Which request fields keep equal questions apart that would otherwise share an answer. Pure.

An unknown field may be a credential, so it counts. If it is a trace id or a load balancer's mark, no answer
is shared, and only the operator can tell: this module finds such fields. Questions and values are kept as
hashes, and few names: clients choose them before any server has checked their credentials.
"""

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from cachetools import LRUCache

from mlflow_proxy.mlflow_api.caller_fields import Tells, cookie_pairs, cookies_count_apart, row_of
from mlflow_proxy.mlflow_api.headers import Fields

_MOST_QUESTIONS = 2048
_MOST_NAMES = 64
"""Names that are told apart in metrics and logs: clients choose them."""
_LONGEST_NAME = 64
_MOST_PARTS = 32
"""Fields and cookies of one caller that are looked at; ordinary ones have three or four."""
OTHER = "other"
"""Stands for the names beyond."""


@dataclass(frozen=True, slots=True)
class Split:
    """A field, or a cookie in one, whose values keep equal questions apart."""

    name: str
    cookie: str = ""

    def __str__(self) -> str:
        """Return it as metrics and logs call it."""
        return f"{self.name} {self.cookie}".rstrip()

    @property
    def setting(self) -> str:
        """The setting in which an operator can declare it neutral; empty if it always counts."""
        if self.cookie:
            return "access.neutral_cookies"
        row = row_of(self.name)
        return "" if row is not None and row.fixed else "access.neutral_fields"

    @property
    def remedy(self) -> str:
        """What an operator can do about it, and on which condition."""
        if not self.setting:
            return "none here, since it may choose the answer: clients that send the same value share"
        row = row_of(self.name)
        if row is not None and row.tells is Tells.ADDRESS:
            return f"if the upstream answers the same to clients at any address, add it to {self.setting}"
        return f"if it tells nothing about the caller, add it to {self.setting}"


class Splits:
    """Remembers each question's last fields, and the names of fields found to differ."""

    def __init__(self) -> None:
        self._last: LRUCache[int, frozenset[tuple[Split, int]]] = LRUCache(_MOST_QUESTIONS)
        self._found: set[str] = set()

    def note(self, question: Hashable, fields: Fields) -> tuple[Split, ...]:
        """Return the fields that keep a question from the same one before it.

        ``question`` is what was asked and by whom, without ``fields``.
        """
        current = frozenset((split, hash(value)) for split, value in islice(_parts(fields), _MOST_PARTS))
        asked = hash(question)
        last = self._last.get(asked)
        self._last[asked] = current
        if last is None or last == current:
            return ()
        return tuple(sorted({split for split, _ in last ^ current}, key=str))

    def named(self, split: Split) -> tuple[str, bool]:
        """Return what a metric calls it, and whether it is named for the first time."""
        name = str(split)
        if name in self._found:
            return name, False
        if len(self._found) >= _MOST_NAMES or len(name) > _LONGEST_NAME:
            return OTHER, False
        self._found.add(name)
        return name, True


def _parts(fields: Iterable[tuple[str, str]]) -> Iterator[tuple[Split, str]]:
    for name, value in fields:
        if name.lower() == "cookie" and cookies_count_apart(value):
            for cookie, pair in cookie_pairs(value):
                yield Split(name, _cut(cookie)), pair
        else:
            yield Split(_cut(name)), value


def _cut(name: str) -> str:
    """Return as much of a name as shows whether it is too long to be called by."""
    return name[: _LONGEST_NAME + 1]
