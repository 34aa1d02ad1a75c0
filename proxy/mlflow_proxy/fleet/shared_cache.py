"""One cache for the whole fleet behind each member's own, and one flight for each question, kept in Redis.

What belongs here: the member's side of ``cache.lua``, as far as it is about answers. A member asks for an
answer that it has not got; it gets it, or waits for the member that is fetching it, or fetches it for all.
Redis is never needed: without it each member fetches for itself. Beside it:

    session      what a member asks of Redis, and whether it is heard
    leases       the flights that it leads, and those that it waits for
    write_log    what was written, so that no answer from before is taken
    presence     its signs of life, and what it hears of the others
"""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from mlflow_proxy.budget.lines import Deadline
from mlflow_proxy.errors import FleetUnavailableError, MlflowProxyError, OverBudgetError, UnreadableError
from mlflow_proxy.fleet.leases import Lead
from mlflow_proxy.fleet.presence import LEASE, Presence
from mlflow_proxy.fleet.record import Record, pack, pack_error, unpack
from mlflow_proxy.fleet.session import Session, milliseconds, text
from mlflow_proxy.fleet.write_log import WriteLog
from mlflow_proxy.mlflow_api.reads import Key, Read
from mlflow_proxy.reading.shared import Turn
from mlflow_proxy.reading.store import Entry, Invalidation

RESULT = 5.0
"""Seconds for which an answer that cannot be kept lies there for the members that waited for it."""


class SharedCache:
    """What the members of a fleet that know the same secret have in common beside the budget.

    ``forget`` is called with what other members wrote, to drop it here. The session's ``observe`` is called
    with what became of each question: ``hit``, ``joined``, ``led``, ``alone``. ``clock`` is that of entries;
    ``jitter`` returns numbers in [0, 1). Nothing is shared before ``run`` runs and while Redis cannot be
    reached.
    """

    def __init__(
        self,
        session: Session,
        forget: Callable[[Invalidation], object],
        clock: Callable[[], float],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._session = session
        self._clock = clock
        self._writes = WriteLog(session, forget)
        self._presence = Presence(session, self._writes, forget, jitter)
        self._serials = itertools.count()

    @property
    def connected(self) -> bool:
        """Whether answers are shared now."""
        return self._session.connected

    @property
    def other_secrets(self) -> int:
        """How many secrets other than this one are in use on this Redis for the same workspace."""
        return self._presence.other_secrets

    async def run(self) -> None:
        """Share answers until cancelled."""
        await self._presence.run()

    def announce(self, what: Invalidation) -> None:
        """Note a write that all members have to hear of; ``announced`` waits until they can."""
        self._writes.note(what)

    async def announced(self) -> None:
        """Wait until Redis knows of every write noted so far, or cannot be reached."""
        await self._writes.announced()

    @asynccontextmanager
    async def turn(self, read: Read, deadline: Deadline) -> AsyncIterator[Turn]:
        """Ask the fleet for an answer; a caller that gets none has to fetch it and set ``brought``.

        Raises OverBudgetError when ``deadline`` (event loop's time) passes while another member fetches it,
        and the error that it met if that is everyone's.
        """
        found = await self._take(read, deadline)
        if not isinstance(found, Lead):
            yield found
            return
        turn = Turn()
        sealed, entry = b"", None
        try:
            yield turn
            entry = turn.brought
        except Exception as error:
            failure = pack_error(error)
            sealed = b"" if failure is None else self._session.sealing.seal(failure, found.name)
            raise
        finally:
            self._session.in_background(self._land(found, entry, sealed))

    async def discard(self, key: Key) -> None:
        """Drop an answer that proved wrong."""
        if self.connected:
            try:
                name = self._session.sealing.name("read", *key)
                await self._session.ask("discard", [self._session.key("entry", name)])
            except FleetUnavailableError as error:
                self._session.cut_off(str(error))

    async def _take(self, read: Read, deadline: Deadline) -> Turn | Lead:
        session = self._session
        name = session.sealing.name("read", *read.key)
        flight = f"{session.member}:{next(self._serials)}"
        model = session.model(read.model)
        awaited = distrusted = ""
        asking: asyncio.Task[list[Any]] | None = None
        with session.leases.waiter(name) as waiter:
            try:
                while self.connected:
                    waiter.landed.clear()
                    waiter.flight = ""
                    try:
                        await self._writes.announce()
                        asked = self._clock()
                        # The answer has to be heard even if the client that asks leaves: it may be the lead.
                        asking = session.in_background(
                            session.ask(
                                "take",
                                self._places(name, awaited),
                                *(model, flight, awaited, distrusted, milliseconds(LEASE)),
                            )
                        )
                        kind, content, server_time = await asyncio.shield(asking)
                    except FleetUnavailableError as error:
                        session.cut_off(str(error))
                        break
                    if kind == b"lead":
                        session.observe("led")
                        lead = Lead(name, flight, model, text(content), server_time / 1e6, self._clock())
                        session.leases.leads[flight] = lead
                        return lead
                    if kind == b"busy":
                        waiter.flight = awaited = text(content)
                        distrusted = ""
                        await self._until(waiter.landed, deadline)
                        continue
                    found = self._open(kind, content, name, server_time / 1e6, asked)
                    if found is None:
                        distrusted = "distrusted"
                        continue
                    joined = bool(awaited)
                    session.observe("joined" if joined else "hit")
                    return Turn(found, joined)
            except asyncio.CancelledError:
                if asking is not None:
                    session.in_background(self._give_back(asking, Lead(name, flight, model, "", 0.0, 0.0)))
                raise
        session.observe("alone")
        return Turn()

    def _open(self, kind: bytes, sealed: bytes, name: str, server_now: float, asked: float) -> Entry | None:
        """Return the answer that lay in Redis, None if it is none that may be used.

        ``asked`` is the clock's time of the question: a slow way makes an answer older, not younger.
        Raises the error that a flight met which was waited for.
        """
        try:
            entry = unpack(self._session.sealing.open(sealed, name)).entry(server_now, asked)
        except UnreadableError as error:
            self._session.note_unreadable(str(error))
            return None
        except MlflowProxyError as error:
            if kind == b"result":
                raise
            self._session.note_unreadable(f"an error in the place of an answer: {error}")
            return None
        # Redis drops an answer some time after it came, which may have taken a while.
        usable = kind == b"result" or entry.expires_at > self._clock()
        return entry if usable else None

    async def _until(self, landed: asyncio.Event, deadline: Deadline) -> None:
        loop = asyncio.get_running_loop()
        while not landed.is_set():
            if loop.time() >= deadline():
                raise OverBudgetError(
                    "Another proxy of the fleet is asking the workspace for this and has not got it yet.",
                    retry_after=1,
                )
            try:
                async with asyncio.timeout_at(deadline()):
                    await landed.wait()
            except TimeoutError:
                continue  # the deadline may have moved

    async def _give_back(self, asking: asyncio.Task[list[Any]], lead: Lead) -> None:
        """Let go of the lead that may have been given to a call that is gone."""
        with suppress(FleetUnavailableError):
            kind, *_ = await asking
            if kind == b"lead":
                await self._land(lead, None, b"")

    async def _land(self, lead: Lead, entry: Entry | None, sealed: bytes) -> None:
        """Hand the fleet what a flight brought, or that it brought nothing."""
        session = self._session
        session.leases.leads.pop(lead.flight, None)
        if not self.connected:
            return
        kind, lifetime = "metadata", 0.0
        if entry is not None:
            lifetime = entry.expires_at - self._clock()
            kind = "files" if entry.survives_metadata_writes else "metadata"
            record = Record.of(entry, lead.server_now(entry.stored_at))
            sealed = session.sealing.seal(pack(record), lead.name)
        await session.ask(
            "land",
            self._places(lead.name, lead.flight),
            *(lead.model, lead.flight, lead.name, lead.standing, kind),
            *(milliseconds(lifetime), sealed, milliseconds(RESULT)),
        )

    def _places(self, name: str, flight: str) -> list[str]:
        key = self._session.key
        return [key("entry", name), key("lease", name), key("result", flight)]
