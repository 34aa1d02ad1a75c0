"""The line in front of a budget: fair, each call with a deadline, and free to leave.

One queue per budget group and workspace, across every credential and endpoint. The pacer decides when a
call may leave and the fair queues which one; here they meet the event loop.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from proxy.budget.fair_queue import FairQueue, Priority
from proxy.budget.sliding_window import Grant, SlidingWindow
from proxy.errors import OverBudgetError

Deadline = Callable[[], float]
"""The event loop's time at which a call stops being wanted. It may move while the call waits, since
others can join the wait."""

SPREAD = 0.1
"""What a Retry-After is prolonged by at most, relative to the predicted wait: so that those who were sent
away together do not come back together."""


class Budget(Protocol):
    """What a queue asks of its budget: see ``Pacer`` (embedded) and ``SharedPacer`` (of a fleet)."""

    limit: int
    window: float
    last_refusal: float | None

    def try_grant(self, now: float) -> Grant | None:
        """See Pacer.try_grant."""
        ...

    def sent(self, grant: Grant, now: float) -> None:
        """See Pacer.sent."""
        ...

    def give_up(self, grant: Grant) -> None:
        """See Pacer.give_up."""
        ...

    def refused(self, grant: Grant, now: float, retry_after: float | None = None) -> None:
        """See Pacer.refused."""
        ...

    def next_moment(self, now: float) -> float | None:
        """See Pacer.next_moment."""
        ...

    def wait(self, ahead: int, now: float) -> float:
        """See Pacer.wait."""
        ...

    def rate(self, now: float) -> float:
        """See Pacer.rate."""
        ...

    def in_window(self, now: float) -> int:
        """See Pacer.in_window."""
        ...

    def outside(self, now: float) -> float:
        """See Pacer.outside."""
        ...

    def pause(self, now: float) -> float:
        """See Pacer.pause."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What one queue holds at most.

    ``background`` is the share of the budget that calls nobody waits for may use, from 0 to 1.
    """

    per_client: int = 2_000
    total: int = 10_000
    background: float = 0.25


@dataclass(frozen=True, slots=True)
class Status:
    """What a queue and its budget are doing; rates in calls a second.

    ``rate`` is what may leave now, ``outside`` an estimate of what others use of the limit.
    """

    limit: int
    rate: float
    in_window: int
    queued: Mapping[str, int]
    clients: int
    outside: float
    seconds_since_429: float | None
    pause_seconds: float


class Slot:
    """A place in the budget, held by one call while it is on its way out (a context manager).

    Without a ``grant`` it is a call that another's budget is for.
    """

    def __init__(self, queue: "Queue", grant: Grant | None) -> None:
        self._queue = queue
        self._grant = grant

    def sent(self) -> None:
        """Note that the call's header left this machine: its second at the workspace begins."""
        if self._grant is not None:
            self._queue.sent(self._grant)

    def refused(self, retry_after: float | None = None) -> None:
        """Note that the workspace answered 429, and how many seconds it asked for."""
        if self._grant is not None:
            self._queue.refused(self._grant, retry_after)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._grant is not None:
            self._queue.give_up(self._grant)


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A call that waits."""

    grant: asyncio.Future[Grant | None]
    deadline: Deadline
    client: str


class Queue:
    """Grants the places of one budget group.

    ``observe_wait`` is told how many seconds each granted call had to wait; ``jitter`` returns numbers in
    [0, 1).
    """

    def __init__(
        self,
        pacer: Budget,
        observe_wait: Callable[[float], None],
        jitter: Callable[[], float],
        limits: Limits = Limits(),
    ) -> None:
        self._pacer = pacer
        self._observe_wait = observe_wait
        self._jitter = jitter
        self._limits = limits
        self._lines: dict[Priority, FairQueue[Place]] = {priority: FairQueue() for priority in Priority}
        self._background = SlidingWindow(max(1, int(limits.background * pacer.limit)), pacer.window)
        self._timer: asyncio.TimerHandle | None = None
        self._aside = False

    def stand_aside(self, aside: bool) -> None:
        """Let every call leave at once, since somebody else paces them, or no longer do so."""
        self._aside = aside
        self.serve()

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def waiting(self, priority: Priority) -> int:
        """Return how many calls of a class wait."""
        return len(self._lines[priority])

    def status(self) -> Status:
        """Say how things are now."""
        now = asyncio.get_running_loop().time()
        pacer, last = self._pacer, self._pacer.last_refusal
        return Status(
            limit=pacer.limit,
            rate=pacer.rate(now),
            in_window=pacer.in_window(now),
            queued={priority.label: len(line) for priority, line in self._lines.items()},
            clients=sum(line.clients for line in self._lines.values()),
            outside=pacer.outside(now),
            seconds_since_429=None if last is None else now - last,
            pause_seconds=pacer.pause(now),
        )

    async def acquire(
        self,
        deadline: Deadline,
        *,
        client: str = "",
        priority: Priority = Priority.INTERACTIVE,
        returned: bool = False,
    ) -> Slot:
        """Wait for a place.

        ``client`` is whose share the call takes. ``returned`` is a call that had its place already and was
        refused by the workspace: it comes first. Cancelling the wait leaves the queue.

        Raises OverBudgetError at once when the predicted wait ends after the deadline or too many wait
        already, and later if the prediction proved too hopeful.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        line = self._lines[priority]
        if not returned:
            self._check_room(line, client, began)
        wait = 0.0 if self._aside else self._wait(client, priority, began, returned=returned)
        if began + wait > deadline():
            raise self._over_budget(wait, line.of_client(client), began)
        place = Place(loop.create_future(), deadline, client)
        if returned:
            line.push_returned(place)
        else:
            line.push(place, client)
        self.serve()
        try:
            while not place.grant.done():
                now = loop.time()
                if now >= deadline():
                    wait = self._wait(client, priority, now, returned=returned)
                    raise self._over_budget(wait, line.of_client(client), now)
                await asyncio.wait((place.grant,), timeout=deadline() - now)
            grant = place.grant.result()
        except BaseException:
            self._leave(place, line)
            raise
        self._observe_wait(loop.time() - began)
        return Slot(self, grant)

    def sent(self, grant: Grant) -> None:
        """See Pacer.sent."""
        self._pacer.sent(grant, asyncio.get_running_loop().time())
        self.serve()

    def refused(self, grant: Grant, retry_after: float | None) -> None:
        """See Pacer.refused; those who wait and cannot outlast a pause are told so at once."""
        now = asyncio.get_running_loop().time()
        self._pacer.refused(grant, now, retry_after)
        pause = self._pacer.pause(now)
        for line in self._lines.values():
            for place in [each for each in line if each.deadline() < now + pause]:
                line.remove(place, place.client)
                place.grant.set_exception(self._over_budget(self._pacer.wait(0, now), (), now))
        self.serve()

    def give_up(self, grant: Grant) -> None:
        """See Pacer.give_up; whoever is next in line moves up."""
        self._pacer.give_up(grant)
        self.serve()

    def _leave(self, place: Place, line: FairQueue[Place]) -> None:
        if not place.grant.done():
            line.remove(place, place.client)
        elif place.grant.exception() is None and (grant := place.grant.result()) is not None:
            self.give_up(grant)

    def serve(self) -> None:
        """Grant all that the budget has room for, and come back when it next has."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        interactive, background = (self._lines[priority] for priority in Priority)
        moment = None
        while interactive or background:
            if self._aside:
                (interactive or background).pop().grant.set_result(None)
                continue
            if not interactive and self._background.in_window(now) >= self._background.limit:
                moment = self._background.next_place()
                break
            grant = self._pacer.try_grant(now)
            if grant is None:
                moment = self._pacer.next_moment(now)
                break
            if not interactive:
                self._background.sent(Grant(held=False), now)
            (interactive or background).pop().grant.set_result(grant)
        if moment is not None:
            self._timer = loop.call_at(moment, self.serve)

    def _wait(self, client: str, priority: Priority, now: float, *, returned: bool) -> float:
        """Predict the seconds until one more call of this client could leave."""
        line = self._lines[priority]
        ahead = line.returned if returned else line.ahead(client)
        if priority is Priority.INTERACTIVE:
            return self._pacer.wait(ahead, now)
        share = self._background.wait(ahead, now)
        return max(share, self._pacer.wait(ahead + len(self._lines[Priority.INTERACTIVE]), now))

    def _check_room(self, line: FairQueue[Place], client: str, now: float) -> None:
        limits = self._limits
        if len(line.of_client(client)) >= limits.per_client:
            reason = f"{limits.per_client} calls of this client are waiting (budget.queue_per_client)"
        elif len(self) >= limits.total:
            reason = f"{limits.total} calls are waiting (budget.queue_total)"
        else:
            return
        raise self._refusal(
            f"The queue for the workspace is full: {reason}.", self._pacer.wait(len(line), now)
        )

    def _over_budget(self, wait: float, before: Collection[Place], now: float) -> OverBudgetError:
        wait = max(self._pacer.wait(0, now), _without_the_impatient(wait, before, now))
        return self._refusal(
            f"The workspace's request budget is spent: {len(self)} calls are waiting, "
            f"and this one could not leave for {wait:.1f} s.",
            wait,
        )

    def _refusal(self, message: str, wait: float) -> OverBudgetError:
        return OverBudgetError(message, retry_after=wait * (1 + SPREAD * self._jitter()))


def _without_the_impatient(wait: float, before: Collection[Place], now: float) -> float:
    """Correct a predicted wait for those calls of the client that will have left before their turn.

    Turns are taken to be evenly spaced. Takes time in proportion to the calls that wait before.
    """
    turn = wait / (len(before) + 1)
    staying = 0
    for place in before:
        staying += now + turn * (staying + 1) <= place.deadline()
    return turn * (staying + 1)
