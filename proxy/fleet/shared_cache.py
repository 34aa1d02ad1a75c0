"""One cache for the whole fleet behind each member's own, and one flight for each question, kept in Redis.

What belongs here: the member's side of ``cache.lua``. A member asks for an answer that it has not got; it
gets it, or waits for the member that is fetching it, or fetches it for all. Redis is never needed: without it
each member fetches for itself.
"""

import asyncio
import itertools
import json
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, TypeVar

import structlog

from proxy.budget.queue import Deadline
from proxy.errors import FleetUnavailableError, MlflowProxyError, OverBudgetError, UnreadableError
from proxy.fleet.connection import Connection
from proxy.fleet.reach import Backoff
from proxy.fleet.record import Record, pack, pack_error, unpack
from proxy.fleet.sealing import Sealing
from proxy.mlflow_api.model_names import folded
from proxy.mlflow_api.reads import Key, Read
from proxy.reading.shared import Turn
from proxy.reading.store import Entry, Invalidation

log = structlog.get_logger(__name__)
T = TypeVar("T")

SCRIPT = files("proxy.fleet").joinpath("cache.lua").read_text(encoding="utf-8")

ATTEND = 1.0
"""Seconds between two signs of life, which renew the leases of flights."""
LEASE = 3.0
"""Seconds after its last sign of life in which a member's flights are still waited for."""
BLOCK = 1.0
"""Seconds for which the log is listened to at a time."""
RESULT = 5.0
"""Seconds for which an answer that cannot be kept lies there for those who waited for it."""
MEMORY = 60.0
"""Seconds for which members with another secret are remembered."""
_MOST_AT_ONCE = 50
"""Questions put to Redis at the same time, each over a connection of its own; others wait for their turn."""
_MOST_UNTOLD = 1_000
"""Writes kept to be told when Redis is back; more of them are told as one that concerns everything."""


@dataclass(frozen=True, slots=True)
class _Lead:
    """The lead in fetching an answer: ``standing`` is the generation in which it began."""

    name: str
    flight: str
    model: str
    standing: str
    server_time: float
    began: float

    def server_now(self, now: float) -> float:
        return self.server_time + (now - self.began)


class SharedCache:
    """What the members of a fleet that know the same secret have in common beside the budget.

    ``forget`` is told what members wrote, to drop it here; ``observe`` what became of each question (``hit``,
    ``joined``, ``led``, ``alone``) and what was ``unreadable``; ``told`` at each attempt why nothing is
    shared, and nothing when it is. ``clock`` is that of entries. Nothing is shared before ``run`` runs and
    while Redis cannot be reached.
    """

    def __init__(
        self,
        connection: Connection,
        prefix: str,
        sealing: Sealing,
        member: str,
        forget: Callable[[Invalidation], object],
        observe: Callable[[str], None],
        clock: Callable[[], float],
        told: Callable[[str], None] = lambda reason: None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._connection = connection
        self._script = connection.script(SCRIPT)
        self._sealing = sealing
        self._member = member
        self._forget = forget
        self._observe = observe
        self._clock = clock
        self._told = told
        self._jitter = jitter
        self._backoff = Backoff()
        self._met_unreadable = False
        self._prefix = f"{prefix}:{sealing.fingerprint}"
        self._common = [self._key("generations"), self._key("log"), f"{prefix}:secrets"]
        self.connected = False
        """Whether answers are shared now: this member is heard, and hears the others."""
        self.other_secrets = 0
        """How many secrets other than this one are in use on this Redis for the same workspace."""
        self._serials = itertools.count()
        self._leads: dict[str, _Lead] = {}
        self._waiting: dict[str, dict[asyncio.Event, str]] = {}
        """By name who waits to be woken, and for which flight."""
        self._at_once = asyncio.Semaphore(_MOST_AT_ONCE)
        self._untold: deque[Invalidation] = deque()
        self._noted = 0
        self._telling = asyncio.Lock()
        self._background: set[asyncio.Task[Any]] = set()
        self._arrived = asyncio.Event()
        self._lost = asyncio.Event()
        self._unheard: tuple[str, int] | None = None
        """What had been heard when more had been said, at the last sign of life."""
        self._born = ""
        self._number = 0
        self._heard = "0-0"
        self._said = ("", 0)
        """The number of the last message of this member's own, and of which generations."""

    # -- one question ------------------------------------------------------------------------------

    @asynccontextmanager
    async def turn(self, read: Read, deadline: Deadline) -> AsyncIterator[Turn]:
        """Ask the fleet for an answer; whoever gets none has to fetch it and set ``brought``.

        Raises OverBudgetError when ``deadline`` (event loop's time) passes while another member fetches it,
        and the error that it met if that is everyone's.
        """
        found = await self._take(read, deadline)
        if not isinstance(found, _Lead):
            yield found
            return
        turn = Turn()
        sealed, entry = b"", None
        try:
            yield turn
            entry = turn.brought
        except Exception as error:
            failure = pack_error(error)
            sealed = b"" if failure is None else self._sealing.seal(failure, found.name)
            raise
        finally:
            self._in_background(self._land(found, entry, sealed))

    async def _take(self, read: Read, deadline: Deadline) -> "Turn | _Lead":
        name = self._sealing.name("read", *read.key)
        flight = f"{self._member}:{next(self._serials)}"
        model = self._model(read.model)
        landed = asyncio.Event()
        waiting = self._waiting.setdefault(name, {})
        waiting[landed] = ""
        awaited = distrusted = ""
        asking: asyncio.Task[list[Any]] | None = None
        try:
            while self.connected:
                landed.clear()
                waiting[landed] = ""
                try:
                    await self._tell()
                    asked = self._clock()
                    # The answer has to be heard even if the one who asks leaves: it may be the lead.
                    asking = self._in_background(
                        self._ask(
                            "take",
                            self._places(name, awaited),
                            *(model, flight, awaited, distrusted, _milliseconds(LEASE)),
                        )
                    )
                    kind, content, server_time = await asyncio.shield(asking)
                except FleetUnavailableError as error:
                    self._cut_off(str(error))
                    break
                if kind == b"lead":
                    self._observe("led")
                    lead = _Lead(name, flight, model, _text(content), server_time / 1e6, self._clock())
                    self._leads[flight] = lead
                    return lead
                if kind == b"busy":
                    waiting[landed] = awaited = _text(content)
                    distrusted = ""
                    await self._until(landed, deadline)
                    continue
                found = self._open(kind, content, name, server_time / 1e6, asked)
                if found is None:
                    distrusted = "distrusted"
                    continue
                joined = bool(awaited)
                self._observe("joined" if joined else "hit")
                return Turn(found, joined)
        except asyncio.CancelledError:
            if asking is not None:
                self._in_background(self._give_back(asking, _Lead(name, flight, model, "", 0.0, 0.0)))
            raise
        finally:
            del waiting[landed]
            if not waiting:
                del self._waiting[name]
        self._observe("alone")
        return Turn()

    def _open(self, kind: bytes, sealed: bytes, name: str, server_now: float, asked: float) -> Entry | None:
        """Return the answer that lay in Redis, None if it is none that may be used.

        ``asked`` is the clock's time of the question: a slow way makes an answer older, not younger.
        Raises the error that a flight met which was waited for.
        """
        try:
            entry = unpack(self._sealing.open(sealed, name)).entry(server_now, asked)
        except UnreadableError as error:
            self._note_unreadable(str(error))
            return None
        except MlflowProxyError as error:
            if kind == b"result":
                raise
            self._note_unreadable(f"an error in the place of an answer: {error}")
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

    async def _give_back(self, asking: asyncio.Task[list[Any]], lead: _Lead) -> None:
        """Let go of the lead that may have been given to someone who is gone."""
        with suppress(FleetUnavailableError):
            kind, *_ = await asking
            if kind == b"lead":
                await self._land(lead, None, b"")

    async def _land(self, lead: _Lead, entry: Entry | None, sealed: bytes) -> None:
        """Tell what a flight brought, or that it brought nothing."""
        self._leads.pop(lead.flight, None)
        if not self.connected:
            return
        kind, lifetime = "metadata", 0.0
        if entry is not None:
            now = self._clock()
            lifetime = entry.expires_at - now
            kind = "files" if entry.survives_metadata_writes else "metadata"
            record = Record.of(entry, lead.server_now(entry.stored_at))
            sealed = self._sealing.seal(pack(record), lead.name)
        await self._ask(
            "land",
            self._places(lead.name, lead.flight),
            *(lead.model, lead.flight, lead.name, lead.standing, kind),
            *(_milliseconds(lifetime), sealed, _milliseconds(RESULT)),
        )

    async def discard(self, key: Key) -> None:
        """Drop an answer that proved wrong."""
        if self.connected:
            try:
                await self._ask("discard", [self._key("entry", self._sealing.name("read", *key))])
            except FleetUnavailableError as error:
                self._cut_off(str(error))

    # -- writes ------------------------------------------------------------------------------------

    def tell(self, what: Invalidation) -> None:
        """Note a write that all members have to hear of; ``told`` waits until they can."""
        self._noted += 1
        self._untold.append(what)
        if len(self._untold) > _MOST_UNTOLD:
            self._untold.clear()
            self._untold.append(Invalidation(None, files=True))
        self._in_background(self.told())

    async def told(self) -> None:
        """Wait until Redis knows of every write noted so far, or cannot be reached."""
        if not self.connected:
            return
        try:
            await self._tell()
        except FleetUnavailableError as error:
            self._cut_off(str(error))

    async def _tell(self) -> None:
        """Say what was written until now. Before that nothing may be taken that stood before."""
        noted = self._noted
        async with self._telling:
            while self._noted - len(self._untold) < noted:
                if not self.connected:
                    # Others have waited for Redis already: nobody needs to do so after them.
                    raise FleetUnavailableError("cut off while others spoke")
                # All at once: each on its own, they might be noted faster than a slow Redis hears them.
                writes = list(self._untold)
                words = [word for what in writes for word in self._in_words(what)]
                born, number = await self._ask("write", [], *words)
                self._said = (_text(born), int(number))
                for what in writes:
                    if self._untold and self._untold[0] is what:
                        self._untold.popleft()

    def _in_words(self, what: Invalidation) -> list[str | bytes]:
        message = {"by": self._member, "files": what.files}
        if what.models is not None:
            message["models"] = sorted(what.models)
        sealed = self._sealing.seal(json.dumps(message).encode(), "log")
        models = ["all"] if what.models is None else [self._model(model) for model in what.models]
        return [sealed, "files" if what.files else "", str(len(models)), *models]

    # -- the conversation with Redis ---------------------------------------------------------------

    async def run(self) -> None:
        """Share answers until cancelled."""
        try:
            while True:
                await self._converse()
                await self._pause()
        finally:
            self.connected = False
            while self._background:
                await asyncio.wait(self._background)

    async def _converse(self) -> None:
        """Speak and listen until cancelled, or until one of both meets something that nobody thought of."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._attend())
                tasks.create_task(self._listen())
        except* Exception:
            # The last edge: a bug here must not leave this proxy alone for ever, and nobody knows why.
            log.exception("bug in the conversation with Redis")
            self._cut_off("a bug")
            self._born = ""  # something may have been heard and not understood

    async def _attend(self) -> None:
        """Give signs of life, renew the leases of own flights and look after those that are waited for."""
        while True:
            try:
                await self._sign_of_life()
                if not self.connected:
                    await self._join()
            except FleetUnavailableError as error:
                if not self.connected:
                    self._told(str(error))
                self._cut_off(str(error))
            await self.told()
            if self.connected:
                self._told("")
                with suppress(TimeoutError):
                    async with asyncio.timeout(ATTEND):
                        await self._lost.wait()
            if not self.connected:
                await self._pause()

    async def _pause(self) -> None:
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(self._backoff.after_loss(now, self._jitter()))

    async def _join(self) -> None:
        """Begin to share, now that this member is heard, if it hears the others too."""
        for identity, fields in await self._connection.read_stream(self._key("log"), self._heard, 0):
            self._hear(identity, fields)
        self.connected = True
        self._backoff.reached(asyncio.get_running_loop().time())
        self._unheard = None
        self._lost.clear()
        self._arrived.set()

    async def _sign_of_life(self) -> None:
        leads = list(self._leads.values())
        awaited = [
            (name, flight)
            for name, waiting in self._waiting.items()
            for flight in dict.fromkeys(waiting.values())
            if flight
        ]
        held = [*((lead.name, lead.flight) for lead in leads), *awaited]
        heard, number = self._heard, self._number
        born, newest, newest_id, lost, free, others = await self._ask(
            "attend",
            [self._key("lease", name) for name, _ in held],
            *(self._sealing.fingerprint, heard, str(number), _milliseconds(LEASE), _milliseconds(MEMORY)),
            *(str(len(leads)), *(flight for _, flight in held)),
        )
        if _text(born) != self._born or (lost and heard == self._heard):
            self._begin_anew(_text(born), int(newest), _text(newest_id))
        if others and not self.other_secrets:
            log.warning("other proxies of this workspace have another fleet.secret; they share no answers")
        self.other_secrets = others
        self._expect_to_hear(int(newest))
        for index in free:
            self._wake(held[index - 1][0])

    def _expect_to_hear(self, said: int) -> None:
        """Make sure that what others say is heard; ``said`` is the number of the last message.

        After a failover the one connection may end at the new Redis, and the one that listens still at the
        old, where nobody says anything any more. Raises FleetUnavailableError then.
        """
        was, self._unheard = self._unheard, None
        if self.connected and said > self._number:
            self._unheard = (self._born, self._number)
            if self._unheard == was:
                self._connection.leave()
                raise FleetUnavailableError("What other proxies say in Redis is not heard here.")

    async def _listen(self) -> None:
        """Follow what members bring and write."""
        while True:
            await self._arrived.wait()
            try:
                for identity, fields in await self._connection.read_stream(
                    self._key("log"), self._heard, BLOCK
                ):
                    self._hear(identity, fields)
            except FleetUnavailableError as error:
                self._cut_off(str(error))

    def _hear(self, identity: str, fields: dict[bytes, bytes]) -> None:
        if _order(identity) <= _order(self._heard):
            return  # everything was begun anew after it
        try:
            number, kind, text = _message(fields)
        except UnreadableError as error:
            # What members say is numbered: if this had been something, the next one would be missed.
            self._heard = identity
            self._note_unreadable(str(error))
            return
        # Fewer than before is as bad as a gap: whoever counts has begun anew, or somebody else spoke.
        missed = number != self._number + 1
        self._number, self._heard = number, identity
        if missed:
            self._begin_anew(self._born, number, identity)
        elif kind == b"landed":
            self._wake(_text(text))
        else:
            self._hear_of_write(text)

    def _hear_of_write(self, sealed: bytes) -> None:
        try:
            by, what = _write(self._sealing.open(sealed, "log"))
        except UnreadableError as error:
            self._note_unreadable(str(error))
            by, what = "", Invalidation(None, files=True)
        if by != self._member:
            self._forget(what)

    def _begin_anew(self, born: str, number: int, identity: str) -> None:
        """Drop all that is stored here: writes may have been missed."""
        self._born, self._number, self._heard = born, number, identity
        self._forget(Invalidation(None, files=True))
        self._wake_all()

    def _cut_off(self, reason: str) -> None:
        if not self.connected:
            return  # whoever tries to get back says why that fails
        self._told(reason)
        self.connected = False
        self._arrived.clear()
        self._lost.set()
        self._wake_all()

    def _wake(self, name: str) -> None:
        for landed in self._waiting.get(name, ()):
            landed.set()

    def _wake_all(self) -> None:
        for name in self._waiting:
            self._wake(name)

    def _note_unreadable(self, reason: str) -> None:
        self._observe("unreadable")
        if not self._met_unreadable:
            log.warning("what lies in Redis cannot be read and is ignored", reason=reason)
        self._met_unreadable = True

    def _in_background(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled() and isinstance(task.exception(), FleetUnavailableError):
            self._cut_off(str(task.exception()))

    async def _ask(self, operation: str, keys: list[str], *arguments: str | bytes) -> list[Any]:
        born, said = self._said
        known = max(self._number, said if born == self._born else 0)
        # Signs of life and writes are few, and everything else depends on them.
        async with nullcontext() if operation in {"attend", "write"} else self._at_once:
            if operation != "attend" and not self.connected:
                raise FleetUnavailableError("cut off while others spoke")
            reply = await self._script(
                [*self._common, *keys], [operation, self._member, self._born, str(known), *arguments]
            )
        return reply if isinstance(reply, list) else []

    def _places(self, name: str, flight: str) -> list[str]:
        return [self._key("entry", name), self._key("lease", name), self._key("result", flight)]

    def _key(self, *parts: str) -> str:
        return ":".join((self._prefix, *parts))

    def _model(self, model: str | None) -> str:
        # Regardless of case, as the store does.
        return "" if model is None else self._sealing.name("model", folded(model))


def _milliseconds(seconds: float) -> str:
    return str(max(0, int(seconds * 1000)))


def _text(data: bytes) -> str:
    # Whatever somebody may have put there.
    return data.decode(errors="replace")


def _order(identity: str) -> tuple[int, ...]:
    """Return what the ids of a stream are ordered by."""
    return tuple(map(int, identity.split("-")))


def _message(fields: dict[bytes, bytes]) -> tuple[int, bytes, bytes]:
    """Return number, kind and text of a message. Raises UnreadableError if no member wrote it."""
    try:
        return int(fields[b"number"]), fields[b"kind"], fields[b"text"]
    except (KeyError, ValueError) as error:
        raise UnreadableError("a message of somebody else") from error


def _write(text: bytes) -> tuple[str, Invalidation]:
    """Return who wrote what. Raises UnreadableError if a member of another version said so."""
    try:
        message = json.loads(text)
        models = message.get("models")
        return message["by"], Invalidation(None if models is None else frozenset(models), message["files"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnreadableError("a message of a member of another version") from error
