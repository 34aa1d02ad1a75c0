"""A network namespace for each proxy, so that one can be cut off from Redis but not from the workspace.

What belongs here: making them (veth pairs to one bridge), losing packets on purpose, and cleaning up.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_NOWHERE = "02:00:00:00:00:01"
"""A hardware address that nobody has: what is sent to it is lost without a word."""


class Network:
    """Where proxies run: by itself the loopback, on which nobody can be cut off."""

    isolated = False
    workspace = "127.0.0.1"
    redis = "127.0.0.1"

    def proxy(self, number: int) -> str:
        """Return the address that a proxy listens on."""
        return "127.0.0.1"

    def inside(self, number: int) -> tuple[str, ...]:
        """Return what to put before a proxy's command."""
        return ()

    async def cut_off(self, number: int) -> None:
        """Lose what a proxy says to Redis, without a word."""
        raise SystemExit("a proxy can be cut off in a network namespace only: run this as root")


class Namespaces(Network):
    """A bridge, and behind it a namespace for each of `count` proxies."""

    isolated = True

    def __init__(self, count: int) -> None:
        self._count = count
        self._name = f"mpb{os.getpid()}"
        self._net = f"10.213.{os.getpid() % 256}"
        self.workspace, self.redis = f"{self._net}.1", f"{self._net}.2"

    def proxy(self, number: int) -> str:
        return f"{self._net}.{number + 10}"

    def inside(self, number: int) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self._namespace(number))

    async def cut_off(self, number: int) -> None:
        wrong = ("neigh", "replace", self.redis, "lladdr", _NOWHERE, "dev", "eth0", "nud", "permanent")
        await _ip("-n", self._namespace(number), *wrong)

    async def start(self) -> None:
        """Make everything. Raises OSError if that is not permitted here."""
        bridge = self._name
        await _ip("link", "add", bridge, "type", "bridge")
        for address in (self.workspace, self.redis):
            await _ip("address", "add", f"{address}/24", "dev", bridge)
        await _ip("link", "set", bridge, "up")
        for number in range(self._count):
            namespace, outer = self._namespace(number), self._outer(number)
            await _ip("netns", "add", namespace)
            peer = ("peer", "name", "eth0", "netns", namespace)
            await _ip("link", "add", outer, "master", bridge, "up", "type", "veth", *peer)
            await _ip("-n", namespace, "address", "add", f"{self.proxy(number)}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                await _ip("-n", namespace, "link", "set", link, "up")

    async def stop(self) -> None:
        """Remove what there is of it."""
        for number in range(self._count):
            for what in (
                ("netns", "delete", self._namespace(number)),
                ("link", "delete", self._outer(number)),
            ):
                with suppress(OSError):
                    await _ip(*what)
        with suppress(OSError):
            await _ip("link", "delete", self._name)

    def _namespace(self, number: int) -> str:
        return f"{self._name}-{number}"

    def _outer(self, number: int) -> str:
        return f"{self._name}v{number}"


@asynccontextmanager
async def network(count: int) -> AsyncIterator[Network]:
    """Make namespaces for so many proxies where that is permitted; else say so and do without."""
    namespaces = Namespaces(count)
    try:
        try:
            await namespaces.start()
        except OSError as error:
            print(f"No network namespaces here ({error}): plain processes.\n", file=sys.stderr)
            yield Network()
        else:
            yield namespaces
    finally:
        await asyncio.shield(namespaces.stop())


async def _ip(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "ip", *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, complaint = await process.communicate()
    if process.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {complaint.decode().strip()}")
