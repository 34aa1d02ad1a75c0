"""The order in which inputs are made and tried, and how what is found is made small and told."""

import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from tests.fuzz import checks, pure
from tests.fuzz.checks import Finding, Plan
from tests.fuzz.grammar import Wire, facade_wire, wire
from tests.fuzz.properties.drawing import Arguments
from tests.fuzz.scene import Scene, scene

AT_ONCE = 64
"""Connections of one batch."""
_FACADE = 4
"""Every so many-th input is a request for a path of the façade."""
_PURE = 50
"""Pure cases of each property in a round."""
SHOWN = 2
"""Findings of one check that are made small and shown; more are counted."""
_PATIENCE = 10.0
"""Seconds spent on making an input smaller."""


@dataclass
class Found:
    """What was tried and found."""

    plan: Plan
    pure_cases: int = 0
    times: Counter[str] = field(default_factory=Counter)
    """How often each check failed."""
    first: dict[str, tuple[int, float]] = field(default_factory=dict)
    """After how many inputs and seconds it failed first."""
    cases: list[str] = field(default_factory=list)
    """Lines for ``cases.py``, with what is wrong as a comment."""


def inputs(seed: int, number: int) -> list[Wire]:
    """Return the inputs of one round."""
    made = []
    for place in range(AT_ONCE):
        chance = Random(f"{seed} {number} {place}")
        made.append(facade_wire(chance) if place % _FACADE == 0 else wire(chance))
    return made


async def rounds(
    seed: int, relaxed: Iterable[str], directory: Path, count: int = 0
) -> AsyncGenerator[Found, None]:
    """Go on for so many rounds, 0 for ever; yields what was found after each."""
    found, began, number = Found(Plan(frozenset(relaxed))), time.monotonic(), 0
    async with scene(directory) as here:
        while not count or number < count:
            batch = inputs(seed, number)
            for finding in await checks.batch(here, batch, found.plan):
                known = found.times[finding.check]
                found.times[finding.check] += 1
                found.first.setdefault(finding.check, (found.plan.sent, time.monotonic() - began))
                if known < SHOWN:
                    found.cases += await _told(here, finding, batch, found.plan.relaxed)
            _pure_round(found, seed, number)
            number += 1
            yield found


def _pure_round(found: Found, seed: int, number: int) -> None:
    for name, each in pure.PROPERTIES.items():
        if name in found.plan.relaxed:
            continue
        chance = Random(f"{seed} {number} {name}")
        for _ in range(_PURE):
            arguments = each.make(chance)
            found.pure_cases += 1
            if not pure.wrong(name, arguments):
                continue
            found.times[name] += 1
            if found.times[name] <= SHOWN:
                small = _smaller_arguments(name, arguments)
                found.cases += [f"# {pure.wrong(name, small)[:300]}", f"Pure({name!r}, {small!r}),"]


async def _told(here: Scene, finding: Finding, batch: list[Wire], relaxed: frozenset[str]) -> list[str]:
    """Return lines that show a finding, with the smallest input that leads to it alone."""

    async def fails(each: Wire) -> bool:
        return any(f.check == finding.check for f in await checks.batch(here, [each], Plan(relaxed)))

    suspects = batch if finding.wire is None else [finding.wire]
    culprit = None
    for each in suspects:
        if await fails(each):
            culprit = each
            break
    lines = [f"# {finding.check}: {' '.join(finding.detail.split())[:600]}"]
    if culprit is None:
        alone = finding.wire
        return [*lines, f"# not by itself: {alone!r}" if alone else "# by no input of its batch alone"]
    if not culprit.cuts or await fails(replace(culprit, cuts=())):
        mode = culprit.mode

        async def fails_so(data: bytes) -> bool:
            return await fails(Wire(mode, data))

        culprit = Wire(mode, await smaller(culprit.data, fails_so))
    return [*lines, f"{culprit!r},"]


async def smaller(data: bytes, fails: Callable[[bytes], Awaitable[bool]]) -> bytes:
    """Leave out bytes while it still fails: halves, then quarters, down to single ones."""
    ends, size = time.monotonic() + _PATIENCE, max(1, len(data) // 2)
    while True:
        place, before = 0, data
        while place < len(data) and time.monotonic() < ends:
            shorter = data[:place] + data[place + size :]
            if await fails(shorter):
                data = shorter
            else:
                place += size
        if ends < time.monotonic() or (size == 1 and data == before):
            return data
        size = max(1, size // 2)


def _smaller_arguments(name: str, arguments: Arguments) -> Arguments:
    """Leave out parts of texts, bytes and lists while it is still wrong."""
    for number, argument in enumerate(arguments):
        size = len(argument) // 2 if isinstance(argument, str | bytes | list) else 0
        while size:
            place = 0
            while place < len(argument):
                shorter = argument[:place] + argument[place + size :]
                tried = (*arguments[:number], shorter, *arguments[number + 1 :])
                if pure.wrong(name, tried):
                    argument, arguments = shorter, tried  # noqa: PLW2901 - the loop goes on with what is left
                else:
                    place += size
            size //= 2
    return arguments


def report(found: Found) -> Iterator[str]:
    """Yield lines for people."""
    plan = found.plan
    yield f"{plan.sent} inputs on the wire ({plan.skipped} relaxed), {plan.reached} requests arrived"
    yield f"{found.pure_cases} pure cases"
    for check, times in found.times.most_common():
        where = found.first.get(check)
        after = f", first after {where[0]} inputs and {where[1]:.1f} s" if where else ""
        yield f"FOUND {times} times{after}: {check}"
    yield from found.cases
