"""A member's presence in the fleet: its signs of life, and the log of what all members bring and write."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from mlflow_proxy.errors import FleetUnavailableError, UnreadableError
from mlflow_proxy.fleet.reach import Backoff
from mlflow_proxy.fleet.session import Session, milliseconds, text
from mlflow_proxy.fleet.write_log import WriteLog
from mlflow_proxy.reading.store import Invalidation

log = structlog.get_logger(__name__)

ATTEND = 1.0
"""Seconds between two signs of life, which renew the leases of flights."""
LEASE = 3.0
"""Seconds after its last sign of life in which a member's flights are still waited for."""
BLOCK = 1.0
"""Seconds for which the log is listened to at a time."""
MEMORY = 60.0
"""Seconds for which members with another secret are remembered."""


class Presence:
    """Joins the fleet whenever Redis can be reached, for as long as ``run`` runs.

    ``forget`` is told that everything stored here may be out of date; ``jitter`` returns numbers in [0, 1).
    """

    def __init__(
        self,
        session: Session,
        writes: WriteLog,
        forget: Callable[[Invalidation], object],
        jitter: Callable[[], float],
    ) -> None:
        self._session = session
        self._writes = writes
        self._forget = forget
        self._jitter = jitter
        self._backoff = Backoff()
        self.other_secrets = 0
        """How many secrets other than this one are in use on this Redis for the same workspace."""
        self._unheard: tuple[str, int] | None = None
        """What had been heard when more had been said, at the last sign of life."""

    async def run(self) -> None:
        """Take part until cancelled."""
        session = self._session
        try:
            while True:
                await self._converse()
                await self._pause()
        finally:
            session.connected = False
            while session.background:
                await asyncio.wait(session.background)

    async def _converse(self) -> None:
        """Speak and listen until cancelled, or until one of both meets a bug."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._attend())
                tasks.create_task(self._listen())
        except* Exception:
            # Log and retry: a bug here must not silently keep this proxy out of the fleet for ever.
            log.exception("bug in the conversation with Redis")
            self._session.cut_off("a bug")
            self._session.born = ""  # something may have been heard and not understood

    async def _attend(self) -> None:
        """Give signs of life, renew the leases of own flights and look after those that are waited for."""
        session = self._session
        while True:
            try:
                await self.sign_of_life()
                if not session.connected:
                    await self._join()
            except FleetUnavailableError as error:
                if not session.connected:
                    session.report(str(error))
                session.cut_off(str(error))
            await self._writes.announced()
            if session.connected:
                session.report("")
                with suppress(TimeoutError):
                    async with asyncio.timeout(ATTEND):
                        await session.lost.wait()
            if not session.connected:
                await self._pause()

    async def _pause(self) -> None:
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(self._backoff.after_loss(now, self._jitter()))

    async def _join(self) -> None:
        """Begin to share, now that this member is heard, if it hears the others too."""
        session = self._session
        for identity, fields in await session.connection.read_stream(session.key("log"), session.heard, 0):
            self._hear(identity, fields)
        session.join()
        self._backoff.reached(asyncio.get_running_loop().time())
        self._unheard = None

    async def sign_of_life(self) -> None:
        """Say that this member is there, and learn what it missed. Raises FleetUnavailableError."""
        session = self._session
        led = session.leases.led()
        held = [*led, *session.leases.awaited()]
        heard, number = session.heard, session.number
        born, newest, newest_id, lost, free, others = await session.ask(
            "attend",
            [session.key("lease", name) for name, _ in held],
            *(session.sealing.fingerprint, heard, str(number), milliseconds(LEASE), milliseconds(MEMORY)),
            *(str(len(led)), *(flight for _, flight in held)),
        )
        if text(born) != session.born or (lost and heard == session.heard):
            self._begin_anew(text(born), int(newest), text(newest_id))
        if others and not self.other_secrets:
            log.warning("other proxies of this workspace have another fleet.secret; they share no answers")
        self.other_secrets = others
        self._expect_to_hear(int(newest))
        for index in free:
            session.leases.wake(held[index - 1][0])

    def _expect_to_hear(self, said: int) -> None:
        """Make sure that what others say is heard; ``said`` is the number of the last message.

        After a failover the one connection may end at the new Redis, and the one that listens still at the
        old, where no member says anything any more. Raises FleetUnavailableError then.
        """
        session = self._session
        was, self._unheard = self._unheard, None
        if session.connected and said > session.number:
            self._unheard = (session.born, session.number)
            if self._unheard == was:
                session.connection.leave()
                raise FleetUnavailableError("What other proxies say in Redis is not heard here.")

    async def _listen(self) -> None:
        """Follow what members bring and write."""
        session = self._session
        while True:
            await session.arrived.wait()
            try:
                for identity, fields in await session.connection.read_stream(
                    session.key("log"), session.heard, BLOCK
                ):
                    self._hear(identity, fields)
            except FleetUnavailableError as error:
                session.cut_off(str(error))

    def _hear(self, identity: str, fields: dict[bytes, bytes]) -> None:
        session = self._session
        if _order(identity) <= _order(session.heard):
            return  # everything was begun anew after it
        try:
            number, kind, content = _message(fields)
        except UnreadableError as error:
            # What members say is numbered: if this had been something, the next one would be missed.
            session.heard = identity
            session.note_unreadable(str(error))
            return
        # Fewer than before is as bad as a gap: the count has begun anew, or no member of this fleet spoke.
        missed = number != session.number + 1
        session.number, session.heard = number, identity
        if missed:
            self._begin_anew(session.born, number, identity)
        elif kind == b"landed":
            session.leases.wake(text(content))
        else:
            self._writes.hear(content)

    def _begin_anew(self, born: str, number: int, identity: str) -> None:
        """Drop all that is stored here: writes may have been missed."""
        session = self._session
        session.born, session.number, session.heard = born, number, identity
        self._forget(Invalidation(None, files=True))
        session.leases.wake_all()


def _order(identity: str) -> tuple[int, ...]:
    """Return what the ids of a stream are ordered by."""
    return tuple(map(int, identity.split("-")))


def _message(fields: dict[bytes, bytes]) -> tuple[int, bytes, bytes]:
    """Return number, kind and text of a message. Raises UnreadableError if no member wrote it."""
    try:
        return int(fields[b"number"]), fields[b"kind"], fields[b"text"]
    except (KeyError, ValueError) as error:
        raise UnreadableError("a message that no member wrote") from error
