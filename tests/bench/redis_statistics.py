"""What a Redis has done, by its own count."""

from collections.abc import Mapping
from dataclasses import dataclass

import redis.asyncio

OPERATIONS = ("evalsha", "eval", "xread")
"""What proxies send; the rest is what scripts do, connections beginning, and the bench's own questions."""


@dataclass(frozen=True)
class Commands:
    """Calls and microseconds by command, those inside scripts too; an operation's are the script's in all."""

    calls: Mapping[str, int]
    microseconds: Mapping[str, int]

    def since(self, before: "Commands") -> "Commands":
        """Return what was done after `before`, or in all if it began anew."""
        if any(self.calls.get(name, 0) < count for name, count in before.calls.items()):
            return self
        return Commands(
            {name: count - before.calls.get(name, 0) for name, count in self.calls.items()},
            {name: spent - before.microseconds.get(name, 0) for name, spent in self.microseconds.items()},
        )

    def operations(self) -> int:
        """Count what proxies sent: a script is one."""
        return sum(self.calls.get(name, 0) for name in OPERATIONS)

    def __str__(self) -> str:
        inside = {name: count for name, count in self.calls.items() if name not in OPERATIONS and count}
        sent = ", ".join(f"{self.calls.get(name, 0)} {name}" for name in OPERATIONS)
        each = self.microseconds.get("evalsha", 0) / max(1, self.calls.get("evalsha", 0))
        commands = ", ".join(
            f"{count} {name}" for name, count in sorted(inside.items(), key=lambda item: -item[1])
        )
        return f"{sent} ({each:.0f} us each script); in them and beside them {commands}"


async def commands(url: str) -> Commands:
    """Ask a Redis what it has done."""
    client = redis.asyncio.Redis.from_url(url, protocol=2)
    try:
        statistics = await client.info("commandstats")
    finally:
        await client.aclose()
    named = {name.removeprefix("cmdstat_"): each for name, each in statistics.items()}
    return Commands(
        {name: int(each["calls"]) for name, each in named.items()},
        {name: int(each["usec"]) for name, each in named.items()},
    )
