"""A member's session with Redis: what it asks through ``cache.lua``, and whether it is heard.

What belongs here: what every part of the member's side needs of Redis. Which answers, writes and signs of
life there are is for the others: ``shared_cache``, ``write_log`` and ``presence``.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from importlib.resources import files
from typing import Any, TypeVar

import structlog

from mlflow_proxy.errors import FleetUnavailableError
from mlflow_proxy.fleet.connection import Connection
from mlflow_proxy.fleet.leases import Leases
from mlflow_proxy.fleet.sealing import Sealing
from mlflow_proxy.mlflow_api.model_names import folded

log = structlog.get_logger(__name__)
T = TypeVar("T")

SCRIPT = files("mlflow_proxy.fleet").joinpath("cache.lua").read_text(encoding="utf-8")
_MOST_AT_ONCE = 50
"""Questions put to Redis at the same time, each over a connection of its own; others wait for their turn."""


class Session:
    """One member's, under the keys that begin with ``prefix``.

    ``member`` is its name, unique in the fleet. ``observe`` is called with what is counted;
    ``report`` with the reason why nothing is shared, and with "" when it is shared again.
    """

    def __init__(
        self,
        connection: Connection,
        prefix: str,
        sealing: Sealing,
        member: str,
        observe: Callable[[str], None],
        report: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.connection = connection
        self.sealing = sealing
        self.member = member
        self.observe = observe
        self.report = report
        self.leases = Leases()
        self.connected = False
        """Whether answers are shared now: this member is heard, and hears the others."""
        self.lost = asyncio.Event()
        self.arrived = asyncio.Event()
        self.born = ""
        """When the generations began that this member knows of."""
        self.number, self.heard = 0, "0-0"
        """The number of the last message that was heard, and its place in the log."""
        self.said = ("", 0)
        """The number of the last message of this member's own, and of which generations."""
        self.background: set[asyncio.Task[Any]] = set()
        self.script = connection.script(SCRIPT)
        self._prefix = f"{prefix}:{sealing.fingerprint}"
        self._common = [self.key("generations"), self.key("log"), f"{prefix}:secrets"]
        self._at_once = asyncio.Semaphore(_MOST_AT_ONCE)
        self._met_unreadable = False

    async def ask(self, operation: str, keys: list[str], *arguments: str | bytes) -> list[Any]:
        """Run an operation of the script and return its answer. Raises FleetUnavailableError."""
        born, said = self.said
        known = max(self.number, said if born == self.born else 0)
        # Signs of life and writes are few, and everything else depends on them.
        async with nullcontext() if operation in {"attend", "write"} else self._at_once:
            if operation != "attend" and not self.connected:
                raise FleetUnavailableError("cut off while others spoke")
            reply = await self.script(
                [*self._common, *keys], [operation, self.member, self.born, str(known), *arguments]
            )
        return reply if isinstance(reply, list) else []

    def key(self, *parts: str) -> str:
        """Return the key of Redis at which something lies."""
        return ":".join((self._prefix, *parts))

    def model(self, name: str | None) -> str:
        """Return what a model is called in Redis, regardless of case as in the store; empty for none."""
        return "" if name is None else self.sealing.name("model", folded(name))

    def join(self) -> None:
        """Note that this member is heard, and hears the others."""
        self.connected = True
        self.lost.clear()
        self.arrived.set()

    def cut_off(self, reason: str) -> None:
        """Note that Redis cannot be reached: each call that waits fetches for itself."""
        if not self.connected:
            return  # the next attempt to get back says why it fails
        self.report(reason)
        self.connected = False
        self.arrived.clear()
        self.lost.set()
        self.leases.wake_all()

    def note_unreadable(self, reason: str) -> None:
        """Count something in Redis that no member of this version wrote, and log the first."""
        self.observe("unreadable")
        if not self._met_unreadable:
            log.warning("what lies in Redis cannot be read and is ignored", reason=reason)
        self._met_unreadable = True

    def in_background(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something that outlives the call that began it; if it fails, Redis is lost."""
        task = asyncio.create_task(work)
        self.background.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.background.discard(task)
        if not task.cancelled() and isinstance(task.exception(), FleetUnavailableError):
            self.cut_off(str(task.exception()))


def milliseconds(seconds: float) -> str:
    """Return a duration as the script takes it."""
    return str(max(0, int(seconds * 1000)))


def text(data: bytes) -> str:
    """Return what Redis says as text, whatever may have been put there."""
    return data.decode(errors="replace")
