"""The line in front of a budget: fair, each call with a deadline, and free to leave.

One queue per budget group and workspace, across every credential and endpoint. The pacer decides when a
call may leave, the fair queues which one, and a client that the workspace refuses alone is held back; here
they meet the event loop.
"""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from mlflow_proxy.budget.fair_queue import Priority
from mlflow_proxy.budget.forecast import Forecast
from mlflow_proxy.budget.interface import Budget, Limits, Status
from mlflow_proxy.budget.lines import Deadline, Lines, Waiting
from mlflow_proxy.budget.singled_out import SingledOut
from mlflow_proxy.budget.sliding_window import Grant, SlidingWindow
from mlflow_proxy.errors import OverBudgetError
from mlflow_proxy.party import Party

SPREAD = 0.1
"""What a Retry-After is prolonged by at most, relative to the predicted wait: clients that were sent away
together do not come back together."""


class Slot:
    """A place in the budget, held by one call while it is on its way out (a context manager).

    Without a ``grant`` the call is paced elsewhere: by the proxy that is the upstream.
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
class _Pending(Waiting):
    """A call that waits on the event loop: ``grant`` is None when it is paced elsewhere."""

    grant: asyncio.Future[Grant | None]


class Queue:
    """Grants the places of one budget group.

    ``budget`` makes its budget, given the queue itself; ``observe_wait`` is called with the
    seconds that each granted call had to wait; ``jitter`` returns numbers in [0, 1).
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
        self._lines: Lines[_Pending] = Lines(limits.per_client)
        self._singled_out = SingledOut()
        self._timer: asyncio.TimerHandle | None = None
        self._aside = False
        self._pacer = pacer = budget(self)
        self._background = SlidingWindow(max(1, int(limits.background * pacer.limit)), pacer.window)
        self._forecast = Forecast(self._lines, pacer, self._background, self._singled_out)

    def stand_aside(self, aside: bool) -> None:
        """Let every call leave at once, since the upstream is a proxy that paces them; or pace them again."""
        self._aside = aside
        self.serve()

    def __len__(self) -> int:
        return len(self._lines)

    def waiting(self, priority: Priority) -> int:
        """Return how many calls of a class wait."""
        return self._lines.waiting(priority)

    def status(self) -> Status:
        """Say how things are now."""
        now = asyncio.get_running_loop().time()
        pacer, last = self._pacer, self._pacer.last_refusal
        return Status(
            limit=pacer.limit,
            rate=pacer.rate(now),
            in_window=pacer.in_window(now),
            queued={priority.label: self.waiting(priority) for priority in Priority},
            clients=self._lines.clients,
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

        ``client`` is the client in whose name the call is made, and ``party`` the clients that wait for it,
        if there are others: the call has a place in the line of each, also of those that join while it waits,
        and leaves with the first. A client whose line is full waits without a place of its own. ``returned``
        is a call that had its place already and was refused by the workspace: it comes first, or first among
        its client's if that was refused before as well. Cancelling the wait leaves the queue.

        Raises OverBudgetError at once when the predicted wait in each of the lines ends after the deadline or
        too many wait already, and later if the prediction proved too hopeful.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        call = _Pending(deadline, client, party or Party(client), priority, loop.create_future())
        lines = call.names if returned else self._with_room(call, began)
        wait = 0.0 if self._aside else self._forecast.wait(call, began, returned=returned)
        if began + wait > deadline():
            raise self._over_budget(call, wait, began)
        if returned:
            self._lines.enter_again(call, held_back=self._singled_out.gives_way(client))
        else:
            self._lines.enter(call, lines)
        with call.party.watched(partial(self._lines.follow, call)):
            self.serve()
            try:
                while not call.grant.done():
                    now = loop.time()
                    if now >= deadline():
                        wait = self._forecast.wait(call, now, returned=returned)
                        raise self._over_budget(call, wait, now)
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
        """Note that the workspace answered a call of a client, and so does not refuse this client alone."""
        now = asyncio.get_running_loop().time()
        self._singled_out.answered(client, now if grant.sent_at is None else grant.sent_at)
        if client in self._lines.held:
            self.serve()

    def refused(self, grant: Grant, client: Hashable, retry_after: float | None) -> bool:
        """See Pacer.refused, unless it is the client's own refusal (see SingledOut): then others go on.

        Calls whose deadline comes before the end of a pause fail at once. Returns whether the refusal is the
        client's own.
        """
        now = asyncio.get_running_loop().time()
        own = self._singled_out.refused(
            client,
            now if grant.sent_at is None else grant.sent_at,
            now,
            retry_after,
            others_wait=self._lines.others_could_leave(client),
        )
        if own:
            pause = self._singled_out.until(client) - now
            concerned = [call for call in self._lines if call.client == client]
        else:
            self._pacer.refused(grant, now, retry_after)
            pause = self._pacer.pause(now)
            concerned = list(self._lines)
        for call in concerned:
            if call.deadline() < now + pause:
                self._lines.take_out(call)
                wait = max(pause, self._pacer.wait(0, now))
                call.grant.set_exception(self._over_budget(None, wait, now))
        self.serve()
        return own

    def give_up(self, grant: Grant) -> None:
        """See Pacer.give_up; the next call in line moves up."""
        self._pacer.give_up(grant)
        self.serve()

    def serve(self) -> None:
        """Grant all that the budget has room for, and come back when it next has."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        for client in tuple(self._lines.held):
            if self._aside or self._singled_out.until(client) <= now:
                self._lines.release(client)
        moments = []
        while (call := self._lines.next()) is not None:
            if self._aside:
                self._lines.pop(call)
                call.grant.set_result(None)
                continue
            if now < self._singled_out.until(call.client):
                self._lines.hold_back(call)
                continue
            background = call.priority is Priority.BACKGROUND
            if background and self._background.in_window(now) >= self._background.limit:
                moments.append(self._background.next_place())
                break
            grant = self._pacer.try_grant(now)
            if grant is None:
                moments.append(self._pacer.next_moment(now))
                break
            if background:
                self._background.sent(Grant(held=False), now)
            self._lines.pop(call)
            self._singled_out.try_one(call.client, now)
            call.grant.set_result(grant)
        moments += map(self._singled_out.until, self._lines.held)
        if due := [moment for moment in moments if moment is not None]:
            self._timer = loop.call_at(min(due), self.serve)

    def _leave(self, call: _Pending) -> None:
        if not call.grant.done():
            self._lines.take_out(call)
        elif call.grant.exception() is None and (grant := call.grant.result()) is not None:
            self.give_up(grant)

    def _with_room(self, call: _Pending, now: float) -> Sequence[Hashable]:
        """Return the clients in whose lines there is room for a call. Raises OverBudgetError for none."""
        limits = self._limits
        lines = [client for client in call.names if self._lines.has_room(call.priority, client)]
        if not lines:
            reason = f"{limits.per_client} calls of this client are waiting (budget.queue_per_client)"
        elif len(self) >= limits.total:
            reason = f"{limits.total} calls are waiting (budget.queue_total)"
        else:
            return lines
        raise self._refusal(
            f"The queue for the workspace is full: {reason}.",
            self._pacer.wait(len(self._lines.line(call.priority)), now),
        )

    def _over_budget(self, call: _Pending | None, wait: float, now: float) -> OverBudgetError:
        wait = self._forecast.worth_coming_back(call, wait, now)
        return self._refusal(
            f"The workspace's request budget is spent: {len(self)} calls are waiting, "
            f"and this one could not leave for {wait:.1f} s.",
            wait,
        )

    def _refusal(self, message: str, wait: float) -> OverBudgetError:
        return OverBudgetError(message, retry_after=wait * (1 + SPREAD * self._jitter()))
