"""A process that has no descriptor left: this one for a moment, or another until told otherwise."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_descriptors_left(process: int = 0) -> Iterator[None]:
    """Let a process open nothing, this one if it is 0."""
    lowest_free = _lowest_free(process) if process else _own_lowest_free()
    soft, hard = resource.prlimit(process, resource.RLIMIT_NOFILE)
    resource.prlimit(process, resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.prlimit(process, resource.RLIMIT_NOFILE, (soft, hard))


def _lowest_free(process: int) -> int:
    taken = {int(each) for each in os.listdir(f"/proc/{process}/fd")}
    return next(number for number in range(len(taken) + 1) if number not in taken)


def _own_lowest_free() -> int:
    lowest = os.dup(0)
    os.close(lowest)
    return lowest
