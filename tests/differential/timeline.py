"""What one caller was answered directly to one question, in the order of the changes that made a difference.

Pure. Times are in monotonic seconds.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Said:
    """An answer without what differs from call to call.

    ``created`` tells, of the answer that proves a permission, which model of that name it is about.
    """

    status: int
    body: str = ""
    created: int | None = None

    @property
    def refused(self) -> bool:
        """Whether it gives nothing away."""
        return self.status >= 400


@dataclass(frozen=True)
class Change:
    """One change at the upstream: it happened between ``began`` and ``ended``.

    ``through`` is whether the proxy saw it; ``what`` it was, for people, and the ``call`` that did it.
    """

    what: str
    call: str
    began: float
    ended: float
    through: bool


@dataclass(frozen=True)
class Slack:
    """For how many seconds an answer may go on after a change past the proxy, and after one through it."""

    past: float
    through: float = 0.0

    def after(self, change: Change) -> float:
        """Return the moment from which no answer may be older than a change."""
        return change.ended + (self.through if change.through else self.past)


@dataclass(frozen=True)
class Possible:
    """An answer, and the change that made it so; it may be given from ``since`` to ``until``."""

    said: Said
    since: float
    until: float

    def overlaps(self, began: float, ended: float) -> bool:
        """Whether it may be given at some moment of an interval."""
        return self.since <= ended and began <= self.until


@dataclass
class History:
    """The answers of one credential to one question; all but the first came by a change."""

    first: Said
    later: list[tuple[Change, Said]] = field(default_factory=list)

    @property
    def last(self) -> Said:
        """What is answered now."""
        return self.later[-1][1] if self.later else self.first

    def add(self, change: Change, said: Said) -> None:
        """Note what is answered after a change, if it is something else."""
        if said != self.last:
            self.later.append((change, said))

    def forget(self, before: float) -> None:
        """Drop what has been over for long."""
        while len(self.later) > 1 and self.later[1][0].ended < before:
            self.first = self.later.pop(0)[1]

    def possible(self, began: float, ended: float, slack: Slack) -> list[Possible]:
        """Return the answers that may be given to a request that took from ``began`` to ``ended``."""
        return [each for each in self._all(slack) if each.overlaps(began, ended)]

    def _all(self, slack: Slack) -> Iterator[Possible]:
        """Yield every answer, newest first.

        What is older than a change which the proxy saw ends with it, if that made a difference here, even if
        it would go on for longer after an earlier change.
        """
        until, seen = math.inf, math.inf
        for change, said in reversed(self.later):
            yield Possible(said, change.began, until)
            if change.through:
                seen = slack.after(change)
            until = min(seen, slack.after(change))
        yield Possible(self.first, -math.inf, until)
