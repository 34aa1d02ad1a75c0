"""Until when something holds that others rest on: a stored answer, a proof, what a file said. Pure."""

from collections.abc import Callable
from math import inf


class Term:
    """The time by ``clock.Clock`` (seconds) until which something holds.

    Its keeper sets ``until`` back when the thing goes before its time, and forward when it is confirmed. So
    those who rest on it need not be known to the keeper: they look.
    """

    __slots__ = ("__weakref__", "touch", "until")

    def __init__(self, until: float = inf, touch: Callable[[], object] | None = None) -> None:
        self.until = until
        self.touch = touch
        """Notes that the thing was used, for a keeper that drops what was not; None if it does not matter."""

    def end(self) -> None:
        """Let it hold no longer."""
        self.until = -inf

    def followed(self, until: float = inf) -> "Term":
        """End it, and return the term of what takes its place."""
        self.end()
        return Term(until)


Terms = tuple[Term, ...]
"""What something rests on, all of it."""


def together(some: Terms | None, others: Terms | None) -> Terms | None:
    """Return what two things rest on, None if that is not known of one of them."""
    return None if some is None or others is None else (*some, *others)
