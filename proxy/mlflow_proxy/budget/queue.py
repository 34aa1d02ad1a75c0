"""The line in front of a budget: fair, each call with a deadline, and free to leave.

One queue per budget group and workspace, across every credential and endpoint. The pacer decides when a
call may leave, the fair queues which one, and a client that the workspace refuses alone is held back; here
they meet the event loop.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Protocol, Self

from mlflow_proxy.budget.fair_queue import FairQueue, Priority
from mlflow_proxy.budget.singled_out import SingledOut
from mlflow_proxy.budget.sliding_window import Grant, SlidingWindow
from mlflow_proxy.errors import OverBudgetError
from mlflow_proxy.party import Party

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

    ``rate`` is what may leave now, ``outside`` an estimate of what others use of the limit. ``queued`` counts
    each call once, however many clients wait for it; ``refused_alone`` are clients that the workspace refuses
    while it answers all others.
    """

    limit: int
    rate: float
    in_window: int
    queued: Mapping[str, int]
    clients: int
    outside: float
    seconds_since_429: float | None
    pause_seconds: float
    refused_alone: int


class Slot:
    """A place in the budget, held by one call while it is on its way out (a context manager).

    Without a ``grant`` it is a call that another's budget is for.
    """

    def __init__(self, queue: "Queue", grant: Grant | None, client: Hashable) -> None:
        self._queue = queue
        self._grant = grant
        self._client = client

    def sent(self) -> None:
        """Note that the call's header left this machine: its second at the workspace begins."""
        if self._grant is not None:
            self._queue.sent(self._grant)

    def refused(self, retry_after: float | None = None) -> bool:
        """Note that the workspace answered 429, and how many seconds it asked for.

        Returns whether it refuses this client alone.
        """
        return self._grant is not None and self._queue.refused(self._grant, self._client, retry_after)

    def answered(self) -> None:
        """Note that the workspace answered as it does to calls within its limits."""
        if self._grant is not None:
            self._queue.answered(self._grant, self._client)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._grant is not None:
            self._queue.give_up(self._grant)


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """A call that waits: made in the name of ``client``, for all of ``party``."""

    grant: asyncio.Future[Grant | None]
    deadline: Deadline
    client: Hashable
    party: Party
    priority: Priority

    @property
    def names(self) -> Collection[Hashable]:
        """The clients in whose lines it may have a place."""
        return self.party.clients or (self.client,)


class Queue:
    """Grants the places of one budget group.

    ``budget`` makes its budget, given the queue itself; ``observe_wait`` is told how many seconds each
    granted call had to wait; ``jitter`` returns numbers in [0, 1).
    """

    def __init__(
        self,
        budget: Callable[["Queue"], Budget],
        observe_wait: Callable[[float], None],
        jitter: Callable[[], float],
        limits: Limits = Limits(),
    ) -> None:
        self._observe_wait = observe_wait
        self._jitter = jitter
        self._limits = limits
        self._lines: dict[Priority, FairQueue[Waiting]] = {priority: FairQueue() for priority in Priority}
        self._singled_out = SingledOut()
        self._held: dict[Hashable, OrderedDict[Waiting, None]] = {}
        """Calls of clients that are refused alone, in order, until each may be tried again."""
        self._timer: asyncio.TimerHandle | None = None
        self._aside = False
        self._pacer = pacer = budget(self)
        self._background = SlidingWindow(max(1, int(limits.background * pacer.limit)), pacer.window)

    def stand_aside(self, aside: bool) -> None:
        """Let every call leave at once, since somebody else paces them, or no longer do so."""
        self._aside = aside
        self.serve()

    def __len__(self) -> int:
        return sum(map(len, self._lines.values())) + sum(map(len, self._held.values()))

    def waiting(self, priority: Priority) -> int:
        """Return how many calls of a class wait."""
        held = sum(call.priority is priority for calls in self._held.values() for call in calls)
        return len(self._lines[priority]) + held

    def status(self) -> Status:
        """Say how things are now."""
        now = asyncio.get_running_loop().time()
        pacer, last = self._pacer, self._pacer.last_refusal
        return Status(
            limit=pacer.limit,
            rate=pacer.rate(now),
            in_window=pacer.in_window(now),
            queued={priority.label: self.waiting(priority) for priority in Priority},
            clients=sum(line.clients for line in self._lines.values()) + len(self._held),
            outside=pacer.outside(now),
            seconds_since_429=None if last is None else now - last,
            pause_seconds=pacer.pause(now),
            refused_alone=self._singled_out.alone(now),
        )

    async def acquire(
        self,
        deadline: Deadline,
        *,
        client: Hashable = "",
        party: Party | None = None,
        priority: Priority = Priority.INTERACTIVE,
        returned: bool = False,
    ) -> Slot:
        """Wait for a place.

        ``client`` is in whose name the call is made, and ``party`` are those who wait for it, if it is not
        that client alone: the call has a place in the line of each, those included who come while it waits,
        and leaves with the first. One whose line is full waits without a place of its own. ``returned`` is a
        call that had its place already and was refused by the workspace: it comes first, or first among its
        client's if that was refused before as well. Cancelling the wait leaves the queue.

        Raises OverBudgetError at once when the predicted wait in each of the lines ends after the deadline or
        too many wait already, and later if the prediction proved too hopeful.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        call = Waiting(loop.create_future(), deadline, client, party or Party(client), priority)
        lines = call.names if returned else self._with_room(call, began)
        wait = 0.0 if self._aside else self._wait(call, began, returned=returned)
        if began + wait > deadline():
            raise self._over_budget(wait, self._before(call), began)
        self._enter(call, lines, returned=returned)
        with call.party.watched(partial(self._follow, call)):
            self.serve()
            try:
                while not call.grant.done():
                    now = loop.time()
                    if now >= deadline():
                        wait = self._wait(call, now, returned=returned)
                        raise self._over_budget(wait, self._before(call), now)
                    await asyncio.wait((call.grant,), timeout=deadline() - now)
                grant = call.grant.result()
            except BaseException:
                self._leave(call)
                raise
        self._observe_wait(loop.time() - began)
        return Slot(self, grant, client)

    def sent(self, grant: Grant) -> None:
        """See Pacer.sent."""
        self._pacer.sent(grant, asyncio.get_running_loop().time())
        self.serve()

    def answered(self, grant: Grant, client: Hashable) -> None:
        """Note that the workspace answered a call of a client, who is not refused each time then."""
        now = asyncio.get_running_loop().time()
        self._singled_out.answered(client, now if grant.sent_at is None else grant.sent_at)
        if client in self._held:
            self.serve()

    def refused(self, grant: Grant, client: Hashable, retry_after: float | None) -> bool:
        """See Pacer.refused, unless it is the client's own refusal (see SingledOut): then others go on.

        Those who wait and cannot outlast a pause are told so at once. Returns whether it is the client's own.
        """
        now = asyncio.get_running_loop().time()
        own = self._singled_out.refused(
            client,
            now if grant.sent_at is None else grant.sent_at,
            now,
            retry_after,
            others_wait=any(call.client != client for line in self._lines.values() for call in line),
        )
        if own:
            pause = self._singled_out.until(client) - now
            concerned = [call for call in self._calls() if call.client == client]
        else:
            self._pacer.refused(grant, now, retry_after)
            pause = self._pacer.pause(now)
            concerned = list(self._calls())
        for call in concerned:
            if call.deadline() < now + pause:
                self._take_out(call)
                wait = max(pause, self._pacer.wait(0, now))
                call.grant.set_exception(self._over_budget(wait, (), now))
        self.serve()
        return own

    def give_up(self, grant: Grant) -> None:
        """See Pacer.give_up; whoever is next in line moves up."""
        self._pacer.give_up(grant)
        self.serve()

    def serve(self) -> None:
        """Grant all that the budget has room for, and come back when it next has."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._release(now)
        interactive, background = (self._lines[priority] for priority in Priority)
        moments = []
        while interactive or background:
            line = interactive or background
            if self._aside:
                line.pop().grant.set_result(None)
                continue
            if now < self._singled_out.until(line.peek().client):
                call = line.peek()
                line.remove(call)
                self._hold(call)
                continue
            if not interactive and self._background.in_window(now) >= self._background.limit:
                moments.append(self._background.next_place())
                break
            grant = self._pacer.try_grant(now)
            if grant is None:
                moments.append(self._pacer.next_moment(now))
                break
            if not interactive:
                self._background.sent(Grant(held=False), now)
            call = line.pop()
            self._singled_out.try_one(call.client, now)
            call.grant.set_result(grant)
        moments += map(self._singled_out.until, self._held)
        if due := [moment for moment in moments if moment is not None]:
            self._timer = loop.call_at(min(due), self.serve)

    # -- the lines ---------------------------------------------------------------------------------

    def _calls(self) -> Iterator[Waiting]:
        for line in self._lines.values():
            yield from line
        for held in self._held.values():
            yield from held

    def _enter(self, call: Waiting, lines: Collection[Hashable], *, returned: bool) -> None:
        line = self._lines[call.priority]
        if not returned:
            for client in lines:
                line.push(call, client)
        elif self._singled_out.gives_way(call.client):
            # As soon as its client may be tried again, it is the first of its own lines.
            self._hold(call)
            self._held[call.client].move_to_end(call, last=False)
        else:
            line.push_returned(call)

    def _hold(self, call: Waiting) -> None:
        self._held.setdefault(call.client, OrderedDict())[call] = None

    def _release(self, now: float) -> None:
        """Give the calls of those who may be tried again the first places of their lines.

        In those of others who wait for them they come last: they have been refused.
        """
        for client in tuple(self._held):
            if self._aside or self._singled_out.until(client) <= now:
                for call in reversed(self._held.pop(client)):
                    line = self._lines[call.priority]
                    line.push_first(call, client)
                    for guest in call.party.clients - {client}:
                        line.push(call, guest)

    def _follow(self, call: Waiting, client: Hashable) -> None:
        """Let a client that has come to wait for a call add a place, and one that has gone take its own."""
        line, party = self._lines[call.priority], call.party.clients
        places = line.places(call)
        if not places:
            return  # it has left, comes before all lines, or is held back
        if client in party:
            if self._has_room(call.priority, client):
                line.push(call, client)
        elif client in places and party:
            if len(places) == 1:
                # Those who are left found their lines full.
                line.push(call, next(iter(party)))
            line.withdraw(call, client)

    def _take_out(self, call: Waiting) -> None:
        held = self._held.get(call.client)
        if held is None or call not in held:
            self._lines[call.priority].remove(call)
            return
        del held[call]
        if not held:
            del self._held[call.client]

    def _leave(self, call: Waiting) -> None:
        if not call.grant.done():
            self._take_out(call)
        elif call.grant.exception() is None and (grant := call.grant.result()) is not None:
            self.give_up(grant)

    # -- what lies ahead ---------------------------------------------------------------------------

    def _before(self, call: Waiting) -> Collection[Waiting]:
        """Return the calls in the shortest of the lines that a call may have a place in."""
        line = self._lines[call.priority]
        return min((line.of_client(client) for client in call.names), key=len)

    def _wait(self, call: Waiting, now: float, *, returned: bool) -> float:
        """Predict the seconds until a call could leave, by the shortest of its lines."""
        line = self._lines[call.priority]
        held_back = max(0.0, self._singled_out.until(call.client) - now)
        if returned:
            rounds = line.clients if self._singled_out.gives_way(call.client) else 0
            return max(held_back, self._predict(line.returned + rounds, call.priority, now))
        client = min(call.names, key=lambda each: len(line.of_client(each)))
        held = len(self._held.get(call.client, ()))
        wait = max(held_back, self._predict(line.ahead(client) + held, call.priority, now))
        if now + wait <= call.deadline():
            return wait
        return max(held_back, self._predict(line.exactly_ahead(client) + held, call.priority, now))

    def _predict(self, ahead: int, priority: Priority, now: float) -> float:
        if priority is Priority.INTERACTIVE:
            return self._pacer.wait(ahead, now)
        share = self._background.wait(ahead, now)
        return max(share, self._pacer.wait(ahead + len(self._lines[Priority.INTERACTIVE]), now))

    def _has_room(self, priority: Priority, client: Hashable) -> bool:
        waiting = len(self._lines[priority].of_client(client)) + len(self._held.get(client, ()))
        return waiting < self._limits.per_client

    def _with_room(self, call: Waiting, now: float) -> Sequence[Hashable]:
        """Return the clients in whose lines there is room for a call. Raises OverBudgetError for none."""
        limits = self._limits
        lines = [client for client in call.names if self._has_room(call.priority, client)]
        if not lines:
            reason = f"{limits.per_client} calls of this client are waiting (budget.queue_per_client)"
        elif len(self) >= limits.total:
            reason = f"{limits.total} calls are waiting (budget.queue_total)"
        else:
            return lines
        raise self._refusal(
            f"The queue for the workspace is full: {reason}.",
            self._pacer.wait(len(self._lines[call.priority]), now),
        )

    def _over_budget(self, wait: float, before: Collection[Waiting], now: float) -> OverBudgetError:
        wait = max(self._pacer.wait(0, now), _without_the_impatient(wait, before, now))
        return self._refusal(
            f"The workspace's request budget is spent: {len(self)} calls are waiting, "
            f"and this one could not leave for {wait:.1f} s.",
            wait,
        )

    def _refusal(self, message: str, wait: float) -> OverBudgetError:
        return OverBudgetError(message, retry_after=wait * (1 + SPREAD * self._jitter()))


def _without_the_impatient(wait: float, before: Collection[Waiting], now: float) -> float:
    """Correct a predicted wait for those calls of the client that will have left before their turn.

    Turns are taken to be evenly spaced. Takes time in proportion to the calls that wait before.
    """
    turn = wait / (len(before) + 1)
    staying = 0
    for place in before:
        staying += now + turn * (staying + 1) <= place.deadline()
    return turn * (staying + 1)
