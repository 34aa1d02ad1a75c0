"""Whether a 429 concerns all clients of a budget group, or one client that the workspace always refuses.

Pure; ``now`` in monotonic seconds comes in. A workspace that is called too often refuses any client's calls.
It can also refuse one credential for a reason of its own, which must not hold up the other clients. Which of
the two it is shows in whether the workspace answers the other clients' calls meanwhile.
"""

import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

FIRST_PAUSE = 0.5
"""Seconds. For so long a client waits that is refused alone; twice as long each further time."""
LONGEST_PAUSE = 60.0
"""Seconds. After so long a client is tried again, whatever the workspace asked for."""
DOUBTFUL_PAUSE = 5.0
"""Seconds. A longer pause the others are spared until the workspace refuses one of them too: a limit that all
share has room again within a second or two."""
MEMORY = 60.0
"""Seconds. For so long the answer to a call says something about the refusals of others, and a client's
refusal about its next one."""


@dataclass(slots=True)
class _Row:
    """Refusals of one client without an answer between them."""

    last: float
    again: int = field(default=0)
    """How often it was refused again, by a call that left after the refusal before was known."""
    alone: int = field(default=0)
    """How many of the latest of these were its own."""
    until: float = field(default=-math.inf)


class SingledOut:
    """The clients that the workspace refuses again and again.

    A client's first refusal is the group's. Another one, without an answer to the client between them, is
    the client's own, provided that the latest word about all others is an answer. While there is no word
    about them yet it is the group's as well, unless it would make others wait for long: then they go first
    and bring it.
    """

    def __init__(self) -> None:
        self._rows: OrderedDict[Hashable, _Row] = OrderedDict()
        self._group_refused = -math.inf
        self._answered = -math.inf

    def alone(self, now: float) -> int:
        """Return how many clients are refused alone; those that no longer come are forgotten."""
        self._forget(now)
        return sum(row.alone > 0 for row in self._rows.values())

    def gives_way(self, client: Hashable) -> bool:
        """Whether a client was refused twice in a row, so that others go before it."""
        row = self._rows.get(client)
        return row is not None and row.again > 0

    def until(self, client: Hashable) -> float:
        """Return the moment until which a client's calls are held back, which may be over."""
        row = self._rows.get(client)
        return -math.inf if row is None else row.until

    def answered(self, client: Hashable, sent_at: float) -> None:
        """Note that the workspace answered a call of a client as it does within its limits."""
        self._rows.pop(client, None)
        self._answered = max(self._answered, sent_at)

    def refused(
        self, client: Hashable, sent_at: float, now: float, retry_after: float | None, *, others_wait: bool
    ) -> bool:
        """Return whether a refusal is the client's own; its calls are held back then for a while.

        The call left at ``sent_at``. ``retry_after`` is in seconds, if the workspace said so.
        ``others_wait`` is whether calls of other clients could leave now.
        """
        self._forget(now)
        row = self._rows.get(client)
        if row is None:
            self._rows[client] = _Row(last=now)
            self._group_refused = now
            return False
        known, row.last = row.last, now
        self._rows.move_to_end(client)
        own = row.alone > 0
        if sent_at > known:  # else it is as good as refused together with the one before
            row.again += 1
            doubtful = not own and others_wait and (retry_after or 0.0) > DOUBTFUL_PAUSE
            own = doubtful or self._others_are_answered(now)
            row.alone = row.alone + 1 if own else 0
        if own:
            pause = _step(row) if retry_after is None else min(retry_after, LONGEST_PAUSE)
            row.until = max(row.until, now + pause)
        return own

    def try_one(self, client: Hashable, now: float) -> None:
        """Note that a call of a client leaves.

        If the client is refused alone, its other calls are held back meanwhile, a while at most.
        """
        row = self._rows.get(client)
        if row is not None and row.alone:
            row.until = max(row.until, now + _step(row))

    def _others_are_answered(self, now: float) -> bool:
        """Whether all that is known of the others is that their calls are answered.

        An answered call left after the group's last refusal was known. It was none of the client's own: that
        would have ended its row, and the first refusal of the row is the group's.
        """
        return self._answered > self._group_refused and now - self._answered < MEMORY

    def _forget(self, now: float) -> None:
        while self._rows:
            row = next(iter(self._rows.values()))
            if max(row.last, row.until) + MEMORY > now:
                return
            self._rows.popitem(last=False)


def _step(row: _Row) -> float:
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(row.alone - 1, 30))
