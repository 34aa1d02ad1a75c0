"""One budget for a fleet of proxies, kept in Redis; without Redis, a share of the limit for each.

What belongs here: the member's side of ``shared.lua``, which decides. A round trip brings up to a batch of
places, and reports with the next one what was sent.
"""

import asyncio
import json
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

import structlog

from mlflow_proxy.budget.congestion import Cubic
from mlflow_proxy.budget.pacer import LONGEST_PAUSE, Pacer
from mlflow_proxy.budget.script import HOLD, TOLERANCE, Answer, News, microseconds, reports, terms
from mlflow_proxy.budget.silence import READY, Promise
from mlflow_proxy.budget.sliding_window import Grant
from mlflow_proxy.errors import FleetUnavailableError

log = structlog.get_logger(__name__)

HEARTBEAT = 0.3
"""Seconds between two words to Redis at most, while there is anything to say or expect."""
FLUSH = 0.05
"""Seconds for which news may wait for company."""
NEAREST = 0.002
"""Seconds between two questions for places at least, when the answer was that there are none."""
LARGEST_BATCH = 8
"""Places asked for at once: few enough for others to get theirs in between."""
SLEW = 0.1
"""How much faster Redis' clock may go than a member's: chrony corrects one by a twelfth without a step."""

Ask = Callable[[str], Awaitable[bytes]]
"""Runs the script on a JSON request and returns its JSON answer. Raises FleetUnavailableError."""


class Line(Protocol):
    """The calls that wait for places of a budget."""

    def __len__(self) -> int:
        """Return how many they are."""
        ...

    def serve(self) -> None:
        """Let those leave that may."""
        ...


class SharedPacer:
    """The budget of one group, shared: has the interface of ``Pacer``.

    ``limit`` is in calls per ``window`` seconds for the whole fleet. ``ask`` runs the script; ``member`` is
    this proxy's name, unique in the fleet; ``line`` are the calls that wait for it here; ``report`` is
    called with the reason when Redis is lost, and with "" when it is back. It grants only while ``run`` runs.
    """

    def __init__(
        self,
        limit: int,
        window: float,
        floor: float,
        ask: Ask,
        member: str,
        line: Line,
        report: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.limit = limit
        self.window = window
        self.last_refusal: float | None = None
        self.alone = False
        """Whether it lives on its share, since Redis cannot be reached."""
        self._terms = terms(limit, window, floor)
        self._ask = ask
        self._member = member
        self._report = report
        self._own = Pacer(limit, window, Cubic(limit, floor))
        self._ready: deque[tuple[str, float]] = deque()
        self._calls: dict[Grant, str] = {}
        self._departed: deque[tuple[str, float]] = deque()
        self._news = News()
        self._answer = Answer.before_any(limit)
        self._answered = -math.inf
        self._promise = Promise.to_a_stranger(limit)
        self._stirred = asyncio.Event()
        self._stopping = False
        self._wanted = False
        self._ask_at = 0.0
        self._contact = -math.inf
        self._apart = True
        self._unreported = True
        """Whether Redis may not know of calls that were reported, or that left without its consent."""
        self._serial = 0
        self._line = line

    # -- the interface of Pacer --------------------------------------------------------------------

    def try_grant(self, now: float) -> Grant | None:
        """Let one call leave, or return None when none may; then a place is asked for."""
        if self.alone:
            self._live_on_promise(now)
            grant = self._own.try_grant(now)
            if grant is not None:
                self._calls[grant] = self._own_name()
            return grant
        while self._ready and now - self._ready[0][1] > READY:
            self._news.unused.append((self._ready.popleft()[0], now))
        if not self._ready:
            self._wanted = True
            self._stir()
            return None
        grant = self._own.try_grant(now)
        if grant is not None:
            self._calls[grant] = self._ready.popleft()[0]
        return grant

    def sent(self, grant: Grant, now: float) -> None:
        """Note that the granted call went out; every time counts."""
        if grant.sent_at is not None or grant not in self._calls:
            self._calls[grant] = self._own_name()
        self._own.sent(grant, now)
        departure = (self._calls[grant], now)
        self._news.sent.append(departure)
        self._departed.append(departure)
        self._stir()

    def give_up(self, grant: Grant) -> None:
        """Note that the granted call will not be sent, or is over."""
        call = self._calls.pop(grant, None)
        if call is not None and grant.held:
            self._news.unused.append((call, asyncio.get_running_loop().time()))
            self._stir()
        self._own.give_up(grant)

    def refused(self, grant: Grant, now: float, retry_after: float | None = None) -> None:
        """Note that the workspace refused the call: all members slow down, once."""
        self.last_refusal = now
        if self.alone:
            self._own.refused(grant, now, retry_after)
        pause = min(retry_after or 0.0, LONGEST_PAUSE)
        self._news.refused.append((self._calls.get(grant, ""), now + pause))
        del self._news.refused[: -self.limit]  # older ones say nothing more
        self._stir()

    def next_moment(self, now: float) -> float | None:
        """Return when to ask again after a grant was declined, None if word from Redis is awaited."""
        return self._own.next_moment(now) if self.alone or self._ready else None

    def wait(self, ahead: int, now: float) -> float:
        """Predict the seconds until a call can leave that has ``ahead`` others of this member before it."""
        if self.alone:
            return self._own.wait(ahead, now)
        known = self._answer
        rate = min(self.limit, max(known.rate, known.peak), max(1, known.places)) / max(1, known.waiting)
        free = rate if self._stale(now) else max(0.0, rate - known.in_window)
        turns = max(0.0, ahead + 1 - max(1.0, free) - len(self._ready))
        return self.pause(now) + turns * self.window / rate

    @property
    def members(self) -> int:
        """How many proxies share the budget, as far as known; 0 before Redis answered."""
        return self._answer.members if self._answered > -math.inf else 0

    def rate(self, now: float) -> float:
        """Return the calls that may leave per window now, of all members or of this one if it is alone."""
        return self._own.rate(now) if self.alone else min(self.limit, self._answer.rate)

    def in_window(self, now: float) -> int:
        """Return how many calls count against the limit: all members' as far as known."""
        return self._own.in_window(now) if self.alone or self._stale(now) else self._answer.in_window

    def outside(self, now: float) -> float:
        """Estimate the calls a second that callers outside this fleet make."""
        return self._own.outside(now) if self.alone else max(0.0, self.limit - self._answer.peak)

    def pause(self, now: float) -> float:
        """Return the seconds left of a pause that the workspace asked for."""
        if self.alone:
            return self._own.pause(now)
        return max(0.0, self._answered + self._answer.pause / 1e6 - now) if self._answer.pause else 0.0

    def _stale(self, now: float) -> bool:
        return self._answered + self.window <= now

    # -- the conversation with Redis ---------------------------------------------------------------

    async def run(self) -> None:
        """Exchange requests and answers with Redis until ``stop``, then take leave."""
        loop = asyncio.get_running_loop()
        while not self._stopping:
            await self._until_there_is_something()
            began = loop.time()
            try:
                await self._exchange(began)
            except FleetUnavailableError as error:
                self._lost(loop.time(), str(error))
                await asyncio.sleep(HEARTBEAT)  # a crowd that comes back is no more load than one at work
        if not self._apart:
            await self._leave()

    def stop(self) -> None:
        """Let ``run`` end within a heartbeat and the patience of the connection."""
        self._stopping = True
        self._stir()

    async def _until_there_is_something(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            heartbeat = self._contact + HEARTBEAT
            moment = min(heartbeat, self._ask_at) if self._wanted else heartbeat
            if self._news:
                moment = min(moment, now + FLUSH)
            if moment <= now:
                break
            self._stirred.clear()
            had_news = bool(self._news)
            try:
                # Not wait_for: before Python 3.12 that can swallow a cancellation.
                async with asyncio.timeout(moment - now):
                    await self._stirred.wait()
            except TimeoutError:
                if had_news or loop.time() >= moment:
                    break

    async def _exchange(self, began: float) -> None:
        news, self._news = self._news, News()
        wanted = min(LARGEST_BATCH, max(0, len(self._line) - len(self._ready)))
        self._wanted = False
        try:
            answer = await self._ask(self._request(news, wanted, began))
        except BaseException:
            # Redis may not have heard it, and hearing it twice does no harm. All calls sent are reported
            # again anyway.
            self._news.unused[:0] = news.unused
            self._news.refused[:0] = news.refused
            self._news.stepped = self._news.stepped or news.stepped
            self._wanted = self._wanted or wanted > 0
            raise
        self._understand(answer, wanted, began)

    def _request(self, news: News, wanted: int, now: float, *, leaving: bool = False) -> str:
        # Older ones count no more, sent or not.
        since = now - self.window - HOLD
        while self._departed and self._departed[0][1] < since:
            self._departed.popleft()
        known = self._answer
        held = [call for grant, call in self._calls.items() if grant.held] if self._unreported else []
        everything = replace(news, sent=list(self._departed)) if self._unreported else news
        return json.dumps(
            {
                "member": self._member,
                "born": known.born,
                "serial": known.serial,
                "heard": known.now,
                "steps": known.steps,
                "since": microseconds(now - self._contact) if self._answered > -math.inf else 0,
                "apart": self._apart,
                "share": known.share,
                "floor_share": known.floor_share,
                "wanted": wanted,
                "leaving": leaving,
                "held": held,
                **reports(everything, now, since),
                **self._terms,
            }
        )

    def _understand(self, text: bytes, wanted: int, began: float) -> None:
        answer = Answer.read(text)
        now = asyncio.get_running_loop().time()
        stepped = self._stepped(answer, now)
        # Calls that left by the old promise are reported next; all calls are, to a Redis that forgot.
        self._unreported = self._apart or answer.born != self._answer.born
        self._answer, self._answered, self._contact = answer, now, began
        self._promise = Promise(answer.share, answer.floor_share, began, now)
        self._own.share = float(self.limit)
        if self.alone or self._apart:
            self._report("")
        self.alone = self._apart = False
        if stepped:
            # Redis has forgotten calls too early: these places may not be free.
            self._news.stepped = True
            self._news.unused += [(call, now) for call in answer.calls]
        else:
            self._ready.extend((call, began) for call in answer.calls)
        if stepped or len(answer.calls) < wanted:
            self._wanted = True
            self._ask_at = now + min(max(answer.wait / 1e6, NEAREST), HEARTBEAT)
        if self._ready:
            self._line.serve()

    def _stepped(self, answer: Answer, now: float) -> bool:
        """Whether Redis' clock was set forward between two answers, and Redis did not notice."""
        before = self._answer
        if (answer.born, answer.steps) != (before.born, before.steps):
            return False
        return (answer.now - before.now) / 1e6 > (now - self._contact) * (1 + SLEW) + TOLERANCE

    def _lost(self, now: float, reason: str) -> None:
        """Note that Redis did not answer; after a while live on what it promised, remembering departures."""
        self._apart = self._unreported = True
        if not self.alone and self._promise.spends(now, self.window) > 0:
            self.alone = True
            self._report(reason)
            self._news.unused += [(call, now) for call, _ in self._ready]
            self._ready.clear()
        if self.alone:
            self._live_on_promise(now)
            self._line.serve()

    def _live_on_promise(self, now: float) -> None:
        self._own.share = self._promise.spends(now, self.window)

    def _own_name(self) -> str:
        self._serial += 1
        return f"{self._member}:own:{self._serial}"

    async def _leave(self) -> None:
        news, self._news = self._news, News()
        now = asyncio.get_running_loop().time()
        try:
            await self._ask(self._request(news, 0, now, leaving=True))
        except FleetUnavailableError as error:
            log.debug("left without saying so", reason=str(error))

    def _stir(self) -> None:
        self._stirred.set()
