"""The descriptors of this process: what they allow to be open at once, and whether they have run out.

What belongs here: the system's limit of open files, and other reasons why none can be opened. Each user of
descriptors bounds its own; this module divides the limit between them.
"""

import errno
import os
import sys
from contextlib import suppress
from dataclasses import dataclass

if sys.platform != "win32":
    import resource

_OWN = 64
"""What a process needs beside connections, half of what there is at most: sockets that listen, Redis, other
workers, name resolution, files that are read again."""
_OF_NAME_RESOLUTION = 8
"""Descriptors that one resolution may need: files of the system's, sockets."""
_EXHAUSTION = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(frozen=True, slots=True)
class Room:
    """How many connections there may be at once.

    Attributes:
        clients: of clients.
        upstream: to the workspace, and as many to its storage.
        administration: to the listener of the own endpoints, if they have one.

    """

    clients: int
    upstream: int
    administration: int

    @property
    def descriptors(self) -> int:
        """What all of it takes."""
        return _OWN + self.administration + 2 * self.upstream + self.clients

    def within(self, allowed: int | None) -> "Room":
        """Return what of it so many descriptors carry, None for any number.

        The calls to the workspace and its storage get half of what there is at most: fewer clients are served
        well, rather than many that wait for each other.
        """
        if allowed is None or self.descriptors <= allowed:
            return self
        left = allowed - min(_OWN, allowed // 2)
        administration = max(1, min(self.administration, left // 8)) if self.administration else 0
        left -= administration
        upstream = max(1, min(self.upstream, left // 4))
        return Room(max(1, min(self.clients, left - 2 * upstream)), upstream, administration)


def granted(needed: int) -> int | None:
    """Return how many descriptors this process may have, None for any number.

    Raises the limit to what is needed before, as far as the system grants it.
    """
    if sys.platform == "win32":
        return None  # has no such limit
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    return None if soft == resource.RLIM_INFINITY else soft


def is_exhaustion(error: BaseException) -> bool:
    """Whether an error says that this process or machine has run out, and nothing of the other side."""
    return isinstance(error, OSError) and error.errno in _EXHAUSTION


def nearly_exhausted() -> bool:
    """Whether there are too few left to resolve a name.

    Resolvers take that for a name server that does not answer, and do not tell it from one.
    """
    if sys.platform == "win32":
        return False
    try:
        lowest_free = os.dup(2)
    except OSError as error:
        return is_exhaustion(error)
    os.close(lowest_free)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft != resource.RLIM_INFINITY and lowest_free + _OF_NAME_RESOLUTION > soft
