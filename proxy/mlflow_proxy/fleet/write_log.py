"""Writes that went through a member: all members hear of them before they take what was stored before."""

import asyncio
import json
from collections import deque
from collections.abc import Callable

from mlflow_proxy.errors import FleetUnavailableError, UnreadableError
from mlflow_proxy.fleet.session import Session, text
from mlflow_proxy.reading.store import Invalidation

_MOST_UNTOLD = 1_000
"""Writes kept until Redis is back; more are announced as one write that concerns every model."""


class WriteLog:
    """Tells the other members what was written through this one, and ``forget`` what they wrote."""

    def __init__(self, session: Session, forget: Callable[[Invalidation], object]) -> None:
        self._session = session
        self._forget = forget
        self.untold: deque[Invalidation] = deque()
        self._noted = 0
        self._telling = asyncio.Lock()

    def note(self, what: Invalidation) -> None:
        """Announce a write to all members in the background; ``told`` waits until Redis has it."""
        self._noted += 1
        self.untold.append(what)
        if len(self.untold) > _MOST_UNTOLD:
            self.untold.clear()
            self.untold.append(Invalidation(None, files=True))
        self._session.in_background(self.announced())

    async def announced(self) -> None:
        """Wait until Redis knows of every write noted so far, or cannot be reached."""
        if not self._session.connected:
            return
        try:
            await self.announce()
        except FleetUnavailableError as error:
            self._session.cut_off(str(error))

    async def announce(self) -> None:
        """Tell Redis of every write noted so far. Raises FleetUnavailableError.

        Before that, no answer may be taken that was stored before.
        """
        noted = self._noted
        async with self._telling:
            while self._noted - len(self.untold) < noted:
                if not self._session.connected:
                    # The calls ahead have waited for Redis in vain: do not wait once more.
                    raise FleetUnavailableError("cut off while others spoke")
                # All at once: each on its own, they might be noted faster than a slow Redis hears them.
                writes = list(self.untold)
                words = [word for what in writes for word in self._words(what)]
                born, number = await self._session.ask("write", [], *words)
                self._session.said = (text(born), int(number))
                for what in writes:
                    if self.untold and self.untold[0] is what:
                        self.untold.popleft()

    def hear(self, sealed: bytes) -> None:
        """Forget what a member wrote; everything, if it cannot be read what that was."""
        try:
            by, what = _write(self._session.sealing.open(sealed, "log"))
        except UnreadableError as error:
            self._session.note_unreadable(str(error))
            by, what = "", Invalidation(None, files=True)
        if by != self._session.member:
            self._forget(what)

    def _words(self, what: Invalidation) -> list[str | bytes]:
        message = {"by": self._session.member, "files": what.files}
        if what.models is not None:
            message["models"] = sorted(what.models)
        sealed = self._session.sealing.seal(json.dumps(message).encode(), "log")
        models = ["all"] if what.models is None else [self._session.model(model) for model in what.models]
        return [sealed, "files" if what.files else "", str(len(models)), *models]


def _write(message: bytes) -> tuple[str, Invalidation]:
    """Return the writing member and its write. Raises UnreadableError for another version's message."""
    try:
        said = json.loads(message)
        models = said.get("models")
        return said["by"], Invalidation(None if models is None else frozenset(models), said["files"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnreadableError("a message of a member of another version") from error
