"""What the fuzzer has found, mended since, and what it is known to find still."""

from dataclasses import dataclass

from tests.fuzz.grammar import Wire
from tests.fuzz.pure import Arguments

RELAXED: frozenset[str] = frozenset()
"""Checks, and doubts of ``http1``, that are left out for as long as the proxy is known to fail them."""


@dataclass(frozen=True)
class Pure:
    """Arguments for a property of ``pure``."""

    name: str
    arguments: Arguments


WIRES: tuple[Wire, ...] = ()
PURES: tuple[Pure, ...] = ()
