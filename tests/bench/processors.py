"""Processor seconds: of processes that run, and of the whole machine.

What belongs here: reading them from /proc, so that a figure says how much others took meanwhile.
"""

import os
from collections.abc import Iterable
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


def of_processes(numbers: Iterable[int]) -> float:
    """Return what these processes used so far; those that ended count nothing."""
    return sum(map(_of_process, numbers))


def _of_process(number: int) -> float:
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICK


def of_machine() -> float:
    """Return what everyone on this machine used so far, stolen time counted."""
    user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + sum(rest)) / _TICK
