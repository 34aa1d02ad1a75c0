"""What a member of a fleet may spend while Redis is silent, and how long the others leave it that. Pure.

A member that hears nothing does not know whether Redis is gone or only its own way there, and the other
members do not know whether it is cut off or dead. So each answer of Redis promises it a part of the limit,
which the others leave to it: at first a whole share, as all members have when Redis is gone; after a while a
floor, since a killed member uses nothing and the others can. It begins to spend later, and ends earlier, than
they hold it: by so much that no window holds both what they spent in its stead and what it spends.
"""

import math
from dataclasses import dataclass

MISSING = 1.0
"""Seconds for which an answer that was heard lets a member count as present. More than two heartbeats."""
READY = 0.5
"""Seconds within which a place is used, from the request for it; else it is given back."""
LEAVE = 0.75
"""Seconds from the request for a place until the call that got it has left, if nothing is wrong."""
PRESUMED = 20.0
"""Seconds for which a silent member's share is held for it. Well under the patience of requests: after
many members were killed, the members that replace them have little more than ``SPARE``."""
FORGOTTEN = 600.0
"""Seconds for which a silent member's floor is held for it."""
SPARE = 1 / 8
"""The part of the limit promised to no member: new ones use it while killed members' shares are held."""
FLOORS = 1 / 4
"""The part of the limit that all floors together make."""
STRANGERS = 10
"""How many members are assumed before Redis was ever heard of."""


def shares(limit: int) -> int:
    """Return how many calls of a window are shared out among all members."""
    return limit - int(limit * SPARE)


@dataclass(frozen=True, slots=True)
class Promise:
    """What an answer lets a member spend if it is the last one; calls in a window, and monotonic seconds.

    ``asked`` is when the request left and ``answered`` when its answer was heard; Redis gave it in between.
    """

    share: float
    floor: float
    asked: float
    answered: float

    @classmethod
    def to_a_stranger(cls, limit: int) -> "Promise":
        """Return what a member takes that has never heard of Redis."""
        share = limit / STRANGERS
        share = math.floor(share) if share >= 1 else share
        return cls(share, share, -math.inf, -math.inf)

    def spends(self, now: float, window: float) -> float:
        """Return how many calls may leave per window at ``now``, without a word from Redis since."""
        if now < self.answered + MISSING + LEAVE + window:
            return 0.0
        if now < self.asked + PRESUMED - LEAVE - window:
            return self.share
        return self.floor if now >= self.answered + PRESUMED + LEAVE + window else min(self.share, self.floor)
