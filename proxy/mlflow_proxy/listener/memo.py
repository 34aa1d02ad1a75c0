"""The memo of hits: answers from the store, given again to the same bytes without asking what these mean.

The rules, each of which a test breaks on purpose:

1.  The slow path is the only judge. The memo holds what was answered to a request as a hit, and understands
    nothing: of a head no byte is looked at but the first four and the end.
2.  A head is remembered if it came alone and whole, as the only request under way on its connection, is a GET
    of HTTP/1.1 without an expectation, and its connection stays open behind the answer. (A GET with a body is
    no hit.)
3.  The same head is given the same answer only while all that the decision rested on still holds: the stored
    answer is there and fresh; the caller's proof, or its line in the clients file, and the proxy's own
    credential stand; the upstream is known to be of the same kind. Each of these is a ``Term``, which its
    keeper ends. The memo is told nothing, and looks each time.
4.  It is given only where the slow path would answer at once: nothing is under way on the connection, all of
    the last answer is taken, requests are not above their limit, and clients are not asked to leave.
5.  It is the answer that the slow path would give: age, ttl and date are those of this moment; it counts in
    the metrics, and as a use of the stored answer.
6.  Heads are kept as keyed digests, so that no credential lies in memory. All of it is bounded in bytes.
"""

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from math import floor
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from mlflow_proxy.mlflow_api.messages import StoredResponse
from mlflow_proxy.mlflow_api.response_heads import complete, has_body
from mlflow_proxy.outcome import Outcome
from mlflow_proxy.term import Term, Terms

LONGEST_HEAD = 8 * 1024
"""Bytes of a head that is remembered; those of MLflow's clients have a few hundred."""
LARGEST_ANSWER = 64 * 1024
"""Bytes of a response that is kept ready, a second time beside the store."""
_OVERHEAD = 500
"""Bytes that one remembered head costs beside the answer: digest, terms, table (370 measured)."""

Digest = bytes


class Hit(NamedTuple):
    """An answer from the store, and what it rests on, in the order in which that was looked at.

    ``stored_at`` and ``expires_at`` are by ``clock.Clock``.
    """

    response: StoredResponse
    stored_at: float
    expires_at: float
    terms: Terms

    def under(self, terms: Terms) -> "Hit":
        """Return the same, which rests on these as well."""
        return Hit(self.response, self.stored_at, self.expires_at, (*self.terms, *terms))


class _Ready:
    """A stored answer as bytes, made anew when its age, ttl or date has become another one."""

    __slots__ = ("_bytes", "_hit", "_until")

    def __init__(self, hit: Hit) -> None:
        # Without the terms, by which it is found: it goes with the stored answer.
        self._hit = hit._replace(terms=())
        self._bytes = b""
        self._until = float("-inf")

    @property
    def response(self) -> StoredResponse:
        """What it is made of."""
        return self._hit.response

    def at(self, now: float) -> bytes:
        """Return what goes over the wire at this time."""
        if now >= self._until:
            self._make(now)
        return self._bytes

    def _make(self, now: float) -> None:
        response, stored_at, expires_at, _ = self._hit
        age, ttl = now - stored_at, expires_at - now
        self._until = min(stored_at + floor(age) + 1, expires_at - floor(ttl))
        date = None if response.dated else time.time()
        if date is not None:
            self._until = min(self._until, now + floor(date) + 1 - date)
        head = complete(response.head, Outcome.HIT, age, ttl, date=date)
        self._bytes = head + response.body if has_body(response.status) else head


class _Repeat:
    """What one head was answered; ``count`` counts it once more, ``size`` is in bytes."""

    __slots__ = ("count", "ready", "size", "terms", "touches")

    def __init__(self, ready: _Ready, terms: Terms, count: Callable[[float], None], size: int) -> None:
        self.ready = ready
        self.terms = terms
        self.touches = tuple(term.touch for term in terms if term.touch is not None)
        self.count = count
        self.size = size


class Memo:
    """What heads were answered, within ``most_bytes``; those not used for longest go first.

    ``now`` is that of ``clock.Clock``. ``full`` returns whether more requests are being answered than may be,
    ``standing`` the term that every decision rests on. ``by_address`` returns whether decisions rest on a
    client's address as well: then heads from other addresses are other heads.
    """

    def __init__(
        self,
        most_bytes: int,
        now: Callable[[], float],
        full: Callable[[], bool],
        standing: Callable[[], Term],
        by_address: Callable[[], bool],
    ) -> None:
        self._most_bytes = most_bytes
        self._now = now
        self._full = full
        self._standing = standing
        self._key = secrets.token_bytes(32)
        self._known: OrderedDict[Digest, _Repeat] = OrderedDict()
        self._ready: WeakKeyDictionary[Term, _Ready] = WeakKeyDictionary()
        """By the first term of what they rest on: one for all clients that get the same response."""
        self.by_address = by_address
        self.bytes = 0
        """In use, at most: an answer that several heads get counts for each."""
        self.hits = 0
        """Requests answered."""

    def __len__(self) -> int:
        return len(self._known)

    def hasher(self, address: str) -> Any:
        """Return what digests the heads of one connection when it is copied and fed them.

        ``address`` is the client's, empty where decisions do not rest on it.
        """
        return hashlib.blake2b(address.encode(), key=self._key, digest_size=16)

    def find(self, digest: Digest) -> bytes | None:
        """Return the answer to a head, None if the slow path has to be asked."""
        repeat = self._known.get(digest)
        if repeat is None or self._full():
            return None
        now = self._now()
        for term in repeat.terms:
            if now >= term.until:
                return None
        for touch in repeat.touches:
            touch()
        self._known.move_to_end(digest)
        self.hits += 1
        repeat.count(0.0)
        return repeat.ready.at(now)

    def remember(self, digest: Digest, hit: Hit, count: Callable[[float], None]) -> None:
        """Note what a head was answered, and what counts such answers, given the seconds that they took."""
        size = len(hit.response.head) + len(hit.response.body) + _OVERHEAD
        if size > min(self._most_bytes, LARGEST_ANSWER + _OVERHEAD):
            return
        # The first term is the stored answer's own, unless the answer was put together for one client.
        first = hit.terms[0]
        ready = self._ready.get(first)
        if ready is None or ready.response is not hit.response:
            ready = self._ready[first] = _Ready(hit)
        repeat = _Repeat(ready, (*hit.terms, self._standing()), count, size)
        if (before := self._known.pop(digest, None)) is not None:
            self.bytes -= before.size
        self._known[digest] = repeat
        self.bytes += repeat.size
        while self.bytes > self._most_bytes:
            _, oldest = self._known.popitem(last=False)
            self.bytes -= oldest.size
