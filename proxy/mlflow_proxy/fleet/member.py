"""One member of a fleet: its name, its budgets, its part in the shared cache, and whether it is heard."""

import asyncio
import hashlib
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import structlog

from mlflow_proxy.budget.script import KEYS, SCRIPT
from mlflow_proxy.budget.shared import Line, SharedPacer
from mlflow_proxy.errors import FleetUnavailableError
from mlflow_proxy.fleet.connection import Connection
from mlflow_proxy.fleet.reach import Reach
from mlflow_proxy.fleet.sealing import Sealing
from mlflow_proxy.fleet.session import Session
from mlflow_proxy.fleet.shared_cache import SharedCache
from mlflow_proxy.fleet.workspace_name import workspace_name
from mlflow_proxy.mlflow_api.routes import Group
from mlflow_proxy.reading.store import Invalidation

log = structlog.get_logger(__name__)

FORM = "mlflow-proxy:1"
"""Begins every key; the number changes with the meaning of what lies there, so that versions never mix."""


class Fleet:
    """The Redis at ``url``, shared by all proxies of the workspace at ``upstream``, however they spell it.

    Those that know the same ``secret`` share answers too, as SharedCache says; an empty one is none.
    Must be made, used and closed in one event loop. Raises InvalidSettingsError if the URL makes no sense.
    """

    def __init__(
        self,
        url: str,
        upstream: str,
        secret: str,
        forget: Callable[[Invalidation], object],
        observe: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._connection = Connection(url)
        self._script = self._connection.script(SCRIPT)
        workspace = workspace_name(upstream)
        self._workspace = hashlib.sha256(workspace.encode()).hexdigest()[:16]
        self._name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._budgets: dict[Group, SharedPacer] = {}
        self._running: list[asyncio.Task[None]] = []
        self.cache: SharedCache | None = None
        self.partition_key: bytes | None = None
        """Keys the hashes of credentials, alike on all members; None if they share no answers."""
        self._budget_reach, self._answers_reach = Reach(), Reach()
        self._groups_alone: set[Group] = set()
        self._sharing: asyncio.Task[None] | None = None
        if not secret:
            log.warning(
                "no fleet.secret: proxies share the budget only, and each fetches every answer for itself"
            )
            return
        sealing = Sealing(secret, workspace)
        self.partition_key = sealing.partition_key
        prefix = f"{FORM}:{{{self._workspace}:cache}}"
        self.cache = SharedCache(
            Session(self._connection, prefix, sealing, self._name, observe, self._hear_of_answers),
            *(forget, clock),
        )

    def start(self) -> None:
        """Begin to take part: until then nothing is shared, the budget neither."""
        if self.cache is not None:
            self._sharing = asyncio.create_task(self.cache.run())
        self._running = [asyncio.create_task(budget.run()) for budget in self._budgets.values()]

    def budget(self, group: Group, limit: int, window: float, floor: float, line: Line) -> SharedPacer:
        """Return the fleet's budget of a group, for the calls in ``line``.

        ``limit`` is in calls per ``window`` seconds.
        """
        # One hash tag, so that a script's keys lie on one node of a cluster.
        keys = [f"{FORM}:{{{self._workspace}:{group}}}:{key}" for key in KEYS]
        self._budgets[group] = SharedPacer(
            *(limit, window, floor, partial(self._ask, group, keys), self._name),
            *(line, partial(self._hear_of_budget, group)),
        )
        return self._budgets[group]

    def members(self) -> int:
        """Return how many proxies share the budgets, as far as known; 1 if there is none to share."""
        return max((budget.members for budget in self._budgets.values()), default=1)

    def alone(self) -> bool:
        """Whether any budget is cut off from the others."""
        return any(budget.alone for budget in self._budgets.values())

    def _hear_of_budget(self, group: Group, reason: str) -> None:
        """Note that a budget is cut off from the others, and why, or not any more (no reason)."""
        if reason:
            self._groups_alone.add(group)
            self._note_loss_of_budget(reason)
            return
        self._groups_alone.discard(group)
        if not self._groups_alone and self._budget_reach.back():
            log.info("Redis: the budget is shared with other proxies", member=self._name)

    def _note_loss_of_budget(self, reason: str) -> None:
        if self._budget_reach.lost(reason, asyncio.get_running_loop().time()):
            log.warning("Redis: the budget is not shared, on its own share of it, alone", reason=reason)

    def _hear_of_answers(self, reason: str) -> None:
        """Note why answers are not shared, or that they are (no reason)."""
        if not reason:
            if self._answers_reach.back():
                log.info("Redis: answers are shared with other proxies", member=self._name)
        elif self._answers_reach.lost(reason, asyncio.get_running_loop().time()):
            log.warning("Redis: answers are not shared with other proxies", reason=reason)

    def condition(self) -> str:
        """Say in a few words whether the others are heard."""
        if not self._budgets and self.cache is None:
            return "not used: no limits and no fleet.secret, so that there is nothing to share"
        unshared = self.cache is not None and not self.cache.connected
        if not self.alone():
            if not unshared:
                return "reached"
            budget = "reached for the budget" if self._budgets else "not reached"
            return f"{budget}: answers not shared"
        if self.cache is not None and not unshared:
            return "reached for answers: on its own share of the budget"
        return "not reached: on its own share of the budget, answers not shared"

    def status(self) -> dict[str, object]:
        """Say how things are, for people."""
        cache = self.cache
        return {
            "member": self._name,
            "members": self.members(),
            "alone": self.alone(),
            "why_alone": self._budget_reach.reason,
            "answers_shared": cache is not None and cache.connected,
            "why_answers_not_shared": self._answers_reach.reason,
            "other_secrets": cache.other_secrets if cache is not None else 0,
        }

    async def _ask(self, group: Group, keys: Sequence[str], request: str) -> bytes:
        try:
            answer = await self._script(keys, [request])
        except FleetUnavailableError as error:
            if group in self._groups_alone:
                self._note_loss_of_budget(str(error))  # the reason may have changed
            raise
        if not isinstance(answer, bytes):
            raise FleetUnavailableError(f"Redis answered {answer!r}, which this proxy's script never does.")
        return answer

    async def close(self) -> None:
        """Take leave of the others."""
        if self._sharing is not None:
            self._sharing.cancel()
            with suppress(asyncio.CancelledError):
                await self._sharing
        for budget in self._budgets.values():
            budget.stop()
        await asyncio.gather(*self._running)
        await self._connection.close()
