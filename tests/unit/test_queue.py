"""The queue in front of a budget, in virtual time."""

import asyncio
import math
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.budget.congestion import DECREASE, Cubic
from mlflow_proxy.budget.fair_queue import Priority
from mlflow_proxy.budget.pacer import Pacer
from mlflow_proxy.budget.queue import SPREAD, Limits, Queue, Status
from mlflow_proxy.budget.sliding_window import Grant
from mlflow_proxy.errors import OverBudgetError
from mlflow_proxy.party import Party
from tests.virtual_time import TICK, run, ticks

from .test_sliding_window import most_within

LIMIT, WINDOW = 3, 256 * TICK


def pacer(limit: int, window: float) -> Pacer:
    return Pacer(limit, window, Cubic(limit, 1))


@dataclass
class Line:
    """A queue under observation."""

    pacer: Pacer = field(default_factory=lambda: pacer(LIMIT, WINDOW))
    limits: Limits = field(default_factory=Limits)
    jitter: Callable[[], float] = lambda: 0.0
    waits: list[float] = field(default_factory=list)
    departures: list[float] = field(default_factory=list)
    order: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.queue = Queue(lambda line: self.pacer, self.waits.append, self.jitter, self.limits)

    async def call(
        self,
        name: object = None,
        *,
        deadline: float = 1e6,
        connect: float = 0.0,
        client: str = "",
        party: Party | None = None,
        priority: Priority = Priority.INTERACTIVE,
        returned: bool = False,
    ) -> None:
        """Take a place, open a connection for a while, send."""
        with await self.queue.acquire(
            lambda: deadline, client=client, party=party, priority=priority, returned=returned
        ) as slot:
            self.order.append(name)
            await asyncio.sleep(connect)
            slot.sent()
            self.departures.append(now())

    async def refused_call(self, retry_after: float | None = None) -> None:
        """Take a place, send, and hear from the workspace that it was one too many."""
        with await self.queue.acquire(lambda: 1e6) as slot:
            slot.sent()
            slot.refused(retry_after)

    async def repeated(
        self,
        name: str,
        client: str,
        *,
        deadline: float = 1e6,
        takes: float = 0.0,
        refuses: Callable[[], bool] = lambda: False,
        retry_after: float | None = None,
    ) -> None:
        """Call until the workspace answers, each time in a place of its own."""
        returned = False
        while True:
            with await self.queue.acquire(lambda: deadline, client=client, returned=returned) as slot:
                slot.sent()
                self.order.append(name)
                self.departures.append(now())
                await asyncio.sleep(takes)
                if not refuses():
                    slot.answered()
                    return
                slot.refused(retry_after)
            returned = True

    def idle(self) -> bool:
        return len(self.queue) == 0 and self.pacer.in_window(now() + WINDOW) == 0


def now() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def waiting(calls: Iterable[Coroutine[Any, Any, None]]) -> AsyncIterator[list["asyncio.Task[None]"]]:
    """Have calls waiting, in this order, that leave in the end if they did not have their turn."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    for _ in range(5):  # until those whom the budget has room for have left
        await asyncio.sleep(0)
    yield tasks
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_first_in_first_out() -> None:
    async def main() -> None:
        line = Line()
        await asyncio.gather(*(line.call(number) for number in range(10)))
        assert line.order == list(range(10))
        spaced = [WINDOW + number * WINDOW / LIMIT for number in range(10 - LIMIT)]
        assert line.departures == pytest.approx([0.0] * LIMIT + spaced)
        assert line.waits == line.departures

    run(main())


def test_a_refused_call_comes_before_those_that_never_left() -> None:
    async def main() -> None:
        line = Line()
        calls = [asyncio.ensure_future(line.call(number)) for number in range(5)]
        await asyncio.sleep(TICK)
        await asyncio.gather(line.call("again", returned=True), *calls)
        assert line.order == [0, 1, 2, "again", 3, 4]

    run(main())


def test_refused_calls_come_in_the_order_in_which_they_return() -> None:
    async def main() -> None:
        line = Line(pacer(1, 1.0))
        calls = [line.call(number, returned=number in (2, 3), client=f"{number}") for number in range(5)]
        await asyncio.gather(*calls)
        assert line.order == [0, 2, 3, 1, 4]

    run(main())


def test_one_call_waits_for_at_most_one_of_a_client_who_has_hundreds() -> None:
    async def main() -> None:
        line = Line()
        async with waiting(line.call("many", client="many") for _ in range(LIMIT + 500)):
            await line.call("one", client="one")
            assert line.order[LIMIT:].index("one") == 1
            assert now() == pytest.approx(WINDOW + WINDOW / LIMIT)

    run(main())


def test_the_deadline_is_held_against_the_clients_own_place_and_not_the_lines_length() -> None:
    async def main() -> None:
        line = Line(pacer(1, 1.0))
        async with waiting(line.call(client="many") for _ in range(1 + 500)):
            with pytest.raises(OverBudgetError):
                await line.call(deadline=2.0 - TICK, client="one")
            assert now() == 0.0
            await line.call(deadline=2.0, client="one")
            assert now() == 2.0

    run(main())


def test_what_nobody_waits_for_comes_after_what_somebody_waits_for() -> None:
    async def main() -> None:
        line = Line()
        background = [line.call("background", priority=Priority.BACKGROUND) for _ in range(2)]
        interactive = [line.call(number) for number in range(3 * LIMIT - 1)]
        async with waiting(line.call() for _ in range(LIMIT)):
            line.order.clear()
            await asyncio.gather(*background, *interactive)
            assert line.order == [*range(3 * LIMIT - 1), "background", "background"]
            # The second has to wait for the next place of its share.
            first, second = line.departures[-2:]
            assert second == pytest.approx(first + WINDOW)

    run(main())


@pytest.mark.parametrize(("share", "places"), [(0.01, 1), (0.25, 2), (0.3, 2), (0.5, 4), (1.0, 8)])
def test_what_nobody_waits_for_keeps_to_its_share_of_an_idle_budget(share: float, places: int) -> None:
    async def main() -> None:
        line = Line(pacer(8, WINDOW), Limits(background=share))
        async with waiting(line.call(priority=Priority.BACKGROUND) for _ in range(places + 1)):
            assert len(line.departures) == places
            await asyncio.gather(*(line.call() for _ in range(8 - places)))
            assert now() == 0.0
            predicted = (places + 1) // places * WINDOW
            with pytest.raises(OverBudgetError):
                await line.call(priority=Priority.BACKGROUND, deadline=predicted - TICK)
            assert now() == 0.0
            await line.call(priority=Priority.BACKGROUND, deadline=predicted + WINDOW / 2)
            assert predicted <= now() <= predicted + WINDOW / 2

    run(main())


def test_what_nobody_waits_for_is_told_of_those_who_come_before_it() -> None:
    async def main() -> None:
        line = Line(pacer(1, 1.0), Limits(background=1.0))
        async with waiting(line.call() for _ in range(1 + 5)):
            with pytest.raises(OverBudgetError) as refusal:
                await line.call(priority=Priority.BACKGROUND, deadline=6.0 - TICK)
            assert refusal.value.retry_after == 6
            await line.call(priority=Priority.BACKGROUND, deadline=6.0)
            assert now() == 6.0

    run(main())


@pytest.mark.parametrize(
    ("limits", "setting", "client"),
    [
        (Limits(per_client=2), "budget.queue_per_client", "many"),
        (Limits(total=2), "budget.queue_total", "many"),
        (Limits(total=2), "budget.queue_total", "one"),
    ],
)
def test_a_full_queue_sends_away_and_names_the_setting(limits: Limits, setting: str, client: str) -> None:
    async def main() -> None:
        line = Line(pacer(1, 10.0), limits)
        async with waiting(line.call(client="many") for _ in range(1 + 2)):
            with pytest.raises(OverBudgetError, match=re.escape(setting)) as refusal:
                await line.call(client=client)
            assert now() == 0.0
            assert refusal.value.retry_after == 30
            assert len(line.queue) == 2

    run(main())


def test_the_bound_of_one_client_leaves_room_for_another_and_for_those_who_return() -> None:
    async def main() -> None:
        line = Line(pacer(1, 10.0), Limits(per_client=2, total=3))
        async with (
            waiting(line.call(client="many") for _ in range(1 + 2)),
            waiting([line.call(client="one")]),
            waiting([line.call(client="many", returned=True)]),
        ):
            assert len(line.queue) == 4

    run(main())


def test_all_classes_together_fill_the_queue() -> None:
    async def main() -> None:
        line = Line(pacer(1, 10.0), Limits(total=2))
        async with (
            waiting(line.call() for _ in range(1 + 1)),
            waiting([line.call(priority=Priority.BACKGROUND)]),
        ):
            with pytest.raises(OverBudgetError, match="queue_total"):
                await line.call()

    run(main())


def test_a_hundred_thousand_calls_of_one_client_leave_the_queue_bounded_and_open_to_others() -> None:
    async def main() -> None:
        line = Line(limits=Limits(per_client=50))
        async with waiting(line.call(client="many") for _ in range(LIMIT + 50)):
            for _ in range(100_000):
                with pytest.raises(OverBudgetError):
                    await line.call(client="many")
            assert now() == 0.0
            assert len(line.queue) == 50
            await line.call("one", client="one")
            assert line.order.index("one") <= LIMIT + 1

    run(main())


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 30))
def test_those_sent_away_together_come_back_apart_but_never_too_early(jitter: float, queued: int) -> None:
    async def main() -> None:
        line = Line(pacer(1, 10.0), Limits(per_client=queued), jitter=lambda: jitter)
        predicted = 10.0 * (queued + 1)
        async with waiting(line.call() for _ in range(1 + queued)):
            for deadline in (predicted - TICK, 1e6):  # no patience, no room
                with pytest.raises(OverBudgetError) as refusal:
                    await line.call(deadline=deadline)
                told = refusal.value.retry_after
                assert told == math.ceil(predicted * (1 + SPREAD * jitter))
                assert predicted <= told <= math.ceil(1.2 * predicted)

    run(main())


def test_a_pause_sends_away_at_once_those_who_come_and_cannot_outlast_it() -> None:
    async def main() -> None:
        line = Line()
        await line.refused_call(retry_after=20)
        for returned in (False, True):
            with pytest.raises(OverBudgetError) as refusal:
                await line.call(deadline=20.0 - TICK, returned=returned)
            assert (now(), refusal.value.retry_after) == (0.0, 20)
        await line.call(deadline=20.0)
        assert now() == 20.0

    run(main())


@pytest.mark.parametrize(("patience", "retry_after"), [(6.0, 20), (1e6, 25)])
def test_what_one_is_told_leaves_out_his_own_calls_that_will_have_left_but_never_the_pause(
    patience: float, retry_after: int
) -> None:
    async def main() -> None:
        line = Line(pacer(1, 1.0))
        with await line.queue.acquire(lambda: 1e6) as slot:
            slot.sent()
            async with waiting(line.call(deadline=patience) for _ in range(5)):
                slot.refused(20)
                with pytest.raises(OverBudgetError) as refusal:
                    await line.call(deadline=19.0)
                assert refusal.value.retry_after == retry_after

    run(main())


def test_his_own_calls_that_will_have_left_take_no_turn() -> None:
    async def main() -> None:
        line = Line(pacer(1, 10.0))
        await asyncio.sleep(100.0)
        async with (
            waiting([line.call(), *(line.call(deadline=deadline) for deadline in (110.0, 120.0, 130.0))]),
            waiting([line.call(returned=True)]),
        ):
            with pytest.raises(OverBudgetError) as refusal:
                await line.call(deadline=149.0)
            # Five turns of 10 s among four calls are 12.5 s for each, and the first does not stay that long.
            assert refusal.value.retry_after == math.ceil(3 * 12.5)

    run(main())


def test_a_pause_sends_away_at_once_those_who_wait_and_cannot_outlast_it() -> None:
    async def main() -> None:
        line = Line()
        calls = (line.call(client=f"{deadline}", deadline=deadline) for deadline in (19.0, 1e6))
        with await line.queue.acquire(lambda: 1e6) as slot:
            slot.sent()
            async with waiting(line.call() for _ in range(LIMIT - 1)), waiting(calls) as (impatient, patient):
                slot.refused(20)
                with pytest.raises(OverBudgetError) as refusal:
                    await impatient
                assert (now(), refusal.value.retry_after) == (0.0, 20)
                await patient
                assert now() == 20.0

    run(main())


def test_a_call_that_returns_is_told_of_those_that_returned_before_it() -> None:
    async def main() -> None:
        line = Line(pacer(1, 1.0))
        async with waiting(line.call(returned=True) for _ in range(1 + 5)):
            with pytest.raises(OverBudgetError) as refusal:
                await line.call(deadline=5.0, returned=True)
            assert (now(), refusal.value.retry_after) == (0.0, 6)

    run(main())


def test_one_who_leaves_while_first_in_line_holds_nobody_up() -> None:
    async def main() -> None:
        line = Line()
        async with waiting(line.call() for _ in range(LIMIT)), waiting([line.call()]) as [first]:
            second = asyncio.ensure_future(line.call("second"))
            await asyncio.sleep(TICK)
            first.cancel()
            await second
            assert now() == WINDOW
            assert len(line.departures) == LIMIT + 1

    run(main())


def test_says_how_things_are() -> None:
    async def main() -> None:
        line = Line(pacer(8, 1.0))
        assert line.queue.status() == Status(
            limit=8,
            rate=8,
            in_window=0,
            queued={"interactive": 0, "background": 0},
            clients=0,
            outside=0,
            seconds_since_429=None,
            pause_seconds=0,
            refused_alone=0,
        )
        await asyncio.gather(*(line.call() for _ in range(5)))
        await line.refused_call(retry_after=20)
        async with (
            waiting(line.call(client=client) for client in "aab"),
            waiting([line.call(client="c", priority=Priority.BACKGROUND)]),
        ):
            await asyncio.sleep(0.5)
            status = line.queue.status()
            assert status == Status(
                limit=8,
                rate=line.pacer.rate(0.5),
                in_window=6,
                queued={"interactive": 3, "background": 1},
                clients=3,
                outside=3,
                seconds_since_429=0.5,
                pause_seconds=19.5,
                refused_alone=0,
            )
            assert DECREASE * 5 <= status.rate < 5
            waiting_by_class = [line.queue.waiting(priority) for priority in Priority]
            assert (waiting_by_class, len(line.queue)) == ([3, 1], 4)

    run(main())


def test_one_who_would_wait_too_long_is_told_at_once_when_to_come_back() -> None:
    async def main() -> None:
        line = Line(pacer(1, 10.0))
        calls = [asyncio.ensure_future(line.call()) for _ in range(3)]
        await asyncio.sleep(1.0)
        with pytest.raises(OverBudgetError) as refusal:
            await line.call(deadline=29.5)
        assert now() == 1.0
        assert refusal.value.retry_after == 29
        assert len(line.queue) == 2
        await line.call(deadline=30.0)
        assert now() == 30.0
        await asyncio.gather(*calls)

    run(main())


def test_one_whose_prediction_was_too_hopeful_leaves_at_the_deadline() -> None:
    async def main() -> None:
        line = Line(pacer(1, 1.0))
        slow = asyncio.ensure_future(line.call(connect=50.0))
        await asyncio.sleep(0)
        with pytest.raises(OverBudgetError):
            await line.call(deadline=5.0)
        assert now() == 5.0
        assert len(line.queue) == 0
        await slow

    run(main())


def test_a_deadline_that_moves_is_honoured() -> None:
    async def main() -> None:
        line = Line(pacer(1, 1.0))
        slow = asyncio.ensure_future(line.call(connect=20.0))
        await asyncio.sleep(0)
        deadline = 5.0
        patient = asyncio.ensure_future(line.queue.acquire(lambda: deadline))
        await asyncio.sleep(3.0)
        deadline = 30.0
        with await patient:
            assert now() == 21.0
        await slow

    run(main())


def test_a_place_given_up_goes_to_the_next() -> None:
    async def main() -> None:
        line = Line(pacer(1, 1.0))
        slot = await line.queue.acquire(lambda: 9.0)
        second = asyncio.ensure_future(line.call())
        await asyncio.sleep(0.5)
        with slot:
            pass  # the connection could not be opened
        await second
        assert line.departures == [0.5]

    run(main())


def test_the_next_ones_second_begins_when_a_call_was_sent_and_not_when_it_was_answered() -> None:
    async def main() -> None:
        line = Line(pacer(1, 1.0))
        with await line.queue.acquire(lambda: 9.0) as slot:
            async with waiting([line.call()]) as [second]:
                await asyncio.sleep(2.0)
                slot.sent()
                await second
                assert now() == 3.0

    run(main())


class Asked(Pacer):
    """Counts how often it is asked for a place."""

    asked = 0

    def try_grant(self, now: float) -> Grant | None:
        self.asked += 1
        return super().try_grant(now)


def test_the_pacer_is_asked_a_few_times_for_each_call_however_many_wait() -> None:
    async def main() -> None:
        counting = Asked(LIMIT, WINDOW, Cubic(LIMIT, 1))
        line = Line(counting)
        await asyncio.gather(*(line.call() for _ in range(300)))
        assert counting.asked <= 6 * 300

    run(main())


def test_one_who_leaves_in_the_step_that_grants_him_a_place_gives_it_back() -> None:
    async def main() -> None:
        line = Line(pacer(1, 1.0))
        slot = await line.queue.acquire(lambda: 9.0)
        second = asyncio.ensure_future(line.call("second"))
        third = asyncio.ensure_future(line.call("third"))
        await asyncio.sleep(TICK)
        with slot:
            pass
        second.cancel()
        await third
        assert (line.order, line.departures) == (["third"], [TICK])

    run(main())


@pytest.mark.parametrize("steps", range(12))
@pytest.mark.parametrize("victim", range(5))
def test_cancelling_at_any_step_loses_no_place(steps: int, victim: int) -> None:
    async def main() -> None:
        line = Line()
        calls = [asyncio.ensure_future(line.call(number, connect=TICK)) for number in range(5)]
        for step in range(steps):
            # Past the first few steps let time pass too: grants then come from the timer.
            await asyncio.sleep(0 if step < 5 else WINDOW / 2)
        calls[victim].cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert line.idle()
        began = now() + 3 * WINDOW  # nobody had to wait for long enough: all may leave at once
        await asyncio.sleep(3 * WINDOW)
        await asyncio.gather(*(line.call() for _ in range(LIMIT)))
        assert now() == began

    run(main())


@dataclass(frozen=True)
class Caller:
    """One call of a random scenario, in seconds."""

    arrives: float
    patience: float
    connects: float
    leaves: float | None
    steps: int
    fails: bool
    front: bool
    client: str
    priority: Priority
    refused: bool
    pause: float | None


callers = st.lists(
    st.builds(
        Caller,
        arrives=ticks(0, 600),
        patience=ticks(0, 1500),
        connects=st.one_of(st.just(0.0), ticks(0, 300)),
        leaves=st.one_of(st.none(), ticks(0, 900)),
        steps=st.integers(0, 4),
        fails=st.booleans(),
        front=st.booleans(),
        client=st.sampled_from("abc"),
        priority=st.sampled_from(Priority),
        refused=st.booleans(),
        pause=st.one_of(st.none(), ticks(0, 900)),
    ),
    max_size=25,
)


@given(callers)
def test_whatever_callers_do_the_limit_holds_and_no_place_is_lost(scenario: list[Caller]) -> None:
    async def main() -> None:
        line = Line()
        refusals: list[OverBudgetError] = []

        async def live(caller: Caller) -> None:
            await asyncio.sleep(caller.arrives)
            deadline = now() + caller.patience
            try:
                slot = await line.queue.acquire(
                    lambda: deadline, client=caller.client, priority=caller.priority, returned=caller.front
                )
            except OverBudgetError as error:
                refusals.append(error)
                return
            finally:
                assert now() <= deadline, "nobody waits longer than he wants to"
            with slot:
                await asyncio.sleep(caller.connects)
                if not caller.fails:
                    slot.sent()
                    line.departures.append(now())
                    await asyncio.sleep(caller.connects)
                    if caller.refused:
                        slot.refused(caller.pause)
                    else:
                        slot.answered()

        async def interrupt(caller: Caller, task: "asyncio.Task[None]") -> None:
            if caller.leaves is not None:
                await asyncio.sleep(caller.leaves)
                for _ in range(caller.steps):
                    await asyncio.sleep(0)
                task.cancel()

        lives = [asyncio.ensure_future(live(caller)) for caller in scenario]
        await asyncio.gather(*(interrupt(caller, task) for caller, task in zip(scenario, lives, strict=True)))
        await asyncio.gather(*lives, return_exceptions=True)
        for task in lives:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        assert most_within(line.departures, WINDOW) <= LIMIT
        assert all(refusal.retry_after >= 1 for refusal in refusals)
        assert line.idle()
        await asyncio.sleep(WINDOW)
        assert line.pacer.in_window(now()) == 0

    run(main())


@given(st.lists(ticks(0, 900), min_size=1, max_size=40, unique=True))
def test_patient_callers_leave_in_order_and_a_window_after_they_could_at_the_latest(
    arrivals: list[float],
) -> None:
    async def main() -> None:
        line = Line()

        async def arrive(number: int, moment: float) -> None:
            await asyncio.sleep(moment)
            await line.call(number)

        ordered = sorted(arrivals)
        await asyncio.gather(*(arrive(number, moment) for number, moment in enumerate(ordered)))
        assert line.order == list(range(len(ordered)))
        for number, moment in enumerate(ordered):
            free = line.departures[number - LIMIT] + WINDOW if number >= LIMIT else 0.0
            assert max(moment, free) <= line.departures[number] <= max(moment, free) + WINDOW

    run(main())


# -- calls that several wait for -------------------------------------------------------------------


@asynccontextmanager
async def behind_many(line: Line, party: Party, **call: Any) -> AsyncIterator["asyncio.Task[None]"]:
    """Have a call waiting that a client makes who has twenty others before it."""
    many = [line.call(number, client="many") for number in range(LIMIT + 20)]
    async with (
        waiting(many),
        waiting([line.call("popular", client="many", party=party, **call)]) as [popular],
    ):
        yield popular


def turn(line: Line, name: object) -> int:
    """Return how many calls had to wait for their places and left before one."""
    return line.order[LIMIT:].index(name)


def test_who_joins_a_waiting_call_adds_a_place_of_its_own() -> None:
    async def main() -> None:
        line, party = Line(), Party("many")
        async with behind_many(line, party) as popular:
            with party.joined(Party("one")):
                await popular
            assert turn(line, "popular") == 1
            assert line.order.count("popular") == 1

    run(main())


def test_alone_its_client_comes_to_it_in_its_own_turn() -> None:
    async def main() -> None:
        line = Line()
        async with behind_many(line, Party("many")) as popular:
            await popular
        assert turn(line, "popular") == 20

    run(main())


def test_who_leaves_takes_its_place_along_and_leaves_the_others() -> None:
    async def main() -> None:
        line, party = Line(), Party()
        with party.joined(Party("many")), party.joined(Party("a")):
            async with behind_many(line, party):
                assert line.queue.status().clients == 2
                with party.joined(Party("b")), party.joined(Party("a")):
                    assert line.queue.status().clients == 3
                assert line.queue.status().clients == 2
        assert len(line.queue) == 0

    run(main())


@pytest.mark.parametrize(("stays", "expected"), [("one", 1), ("many", 20)])
def test_the_one_who_stays_keeps_its_own_place(stays: str, expected: int) -> None:
    async def main() -> None:
        line, party = Line(), Party()
        with party.joined(Party(stays)):
            leaver = ExitStack()
            leaver.enter_context(party.joined(Party("one" if stays == "many" else "many")))
            async with behind_many(line, party) as popular:
                leaver.close()
                await popular
        assert turn(line, "popular") == expected

    run(main())


def test_one_whose_line_is_full_joins_without_a_place() -> None:
    async def main() -> None:
        line, party = Line(limits=Limits(per_client=21)), Party()
        with party.joined(Party("full")):
            starter = ExitStack()
            starter.enter_context(party.joined(Party("starter")))
            async with (
                waiting(line.call(client="full") for _ in range(LIMIT + 21)),
                waiting([line.call("popular", client="starter", party=party)]) as [popular],
            ):
                assert len(line.queue) == 22
                with pytest.raises(OverBudgetError):
                    await line.call(client="full")
                # Only that one waits now, and it must not wait for ever.
                starter.close()
                await popular
        assert turn(line, "popular") == 21

    run(main())


def test_a_call_is_refused_only_if_all_who_wait_for_it_find_their_lines_full() -> None:
    async def main() -> None:
        line = Line(limits=Limits(per_client=5))
        async with waiting(line.call(client="full") for _ in range(LIMIT + 5)):
            with pytest.raises(OverBudgetError, match="queue_per_client"):
                await line.call(client="full", party=Party("full"))
            await line.call("again", client="full", party=Party("full", "one"))
        assert turn(line, "again") == 1

    run(main())


def test_a_call_is_refused_only_if_none_of_its_places_leaves_in_time() -> None:
    async def main() -> None:
        line = Line(pacer(1, 1.0))
        async with waiting(line.call(client="many") for _ in range(1 + 20)):
            with pytest.raises(OverBudgetError) as refusal:
                await line.call(deadline=2.0 - TICK, client="many", party=Party("many", "one"))
            assert refusal.value.retry_after == 2
            with pytest.raises(OverBudgetError):
                await line.call(deadline=2.0, client="many", party=Party("many"))
            await line.call(deadline=2.0, client="many", party=Party("many", "one"))
            assert now() == 2.0

    run(main())


def test_calls_that_all_wait_for_are_predicted_once_and_not_for_each() -> None:
    async def main() -> None:
        line = Line(pacer(1, 1.0), Limits(total=60))
        everyone = Party(*"abcdefghij")
        async with (
            waiting([line.call()]),
            waiting(line.call(client="a", party=everyone) for _ in range(20)),
            waiting(line.call(client="many") for _ in range(30)),
        ):
            assert len(line.queue) == 50
            # Two turns of a round of eleven lines, in which the ten share what is left.
            assert line.queue.status().queued["interactive"] == 50
            with pytest.raises(OverBudgetError) as refusal:
                await line.call(deadline=1.0, client="j")
            assert refusal.value.retry_after == pytest.approx(1 + 20 + 2, abs=1)
            with pytest.raises(OverBudgetError):
                await line.call(deadline=23.0 - TICK, client="j")
            await line.call("last", deadline=23.0 + TICK, client="j")
            assert now() == pytest.approx(23.0)

    run(main())


def test_a_call_that_several_wait_for_counts_once() -> None:
    async def main() -> None:
        line = Line(pacer(1, 1.0), Limits(total=2))
        async with waiting([line.call()]), waiting([line.call(client="a", party=Party(*"abcde"))]):
            status = line.queue.status()
            assert (len(line.queue), status.queued["interactive"], status.clients) == (1, 1, 5)
            async with waiting([line.call()]):
                with pytest.raises(OverBudgetError, match="queue_total"):
                    await line.call(client="f")

    run(main())


def test_a_call_that_was_refused_comes_first_whoever_joins_it() -> None:
    async def main() -> None:
        line, party = Line(pacer(1, 1.0)), Party("a")
        async with (
            waiting(line.call(number) for number in range(3)),
            waiting([line.call("again", client="a", party=party, returned=True)]) as [again],
        ):
            with party.joined(Party("b")):
                await again
            assert line.order == [0, "again"]

    run(main())


@dataclass(frozen=True)
class Guest:
    """One who waits for a call for a while, in seconds."""

    call: int
    client: str
    comes: float
    stays: float


guests = st.lists(
    st.builds(
        Guest,
        call=st.integers(0, 7),
        client=st.sampled_from("abcd"),
        comes=ticks(0, 900),
        stays=ticks(0, 900),
    ),
    max_size=25,
)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=8), guests, st.integers(1, 4))
def test_whoever_comes_and_goes_a_call_leaves_once_and_not_after_its_own_turn(
    clients: list[str], guests: list[Guest], room: int
) -> None:
    async def main() -> None:
        line = Line(pacer(1, 256 * TICK), Limits(per_client=8 if room == 4 else room))
        refused = 0

        async def ask(number: int, client: str, party: Party) -> None:
            nonlocal refused
            try:
                await line.call(number, client=client, party=party)
            except OverBudgetError:
                refused += 1

        async def visit(guest: Guest, parties: list[Party]) -> None:
            await asyncio.sleep(guest.comes)
            with parties[guest.call % len(parties)].joined(Party(guest.client)):
                await asyncio.sleep(guest.stays)

        parties = [Party(client) for client in clients]
        await asyncio.gather(
            *(ask(number, clients[number], party) for number, party in enumerate(parties)),
            *(visit(guest, parties) for guest in guests),
        )
        assert len(set(line.order)) == len(line.order) == len(clients) - refused
        assert line.idle()
        assert most_within(line.departures, 256 * TICK) <= 1
        if not refused:
            # Whatever the guests did: no slot of the budget was left unused.
            assert line.departures == [number * 256 * TICK for number in range(len(clients))]

    run(main())


# -- a client that the workspace refuses alone -----------------------------------------------------


@pytest.mark.parametrize("retry_after", [None, 0.0, 1.0, 30.0])
def test_a_client_that_is_always_refused_does_not_hold_up_others(retry_after: float | None) -> None:
    async def main() -> None:
        line = Line(pacer(8, 1.0))
        bad = [
            asyncio.ensure_future(
                line.repeated("bad", "bad", takes=0.125, refuses=lambda: True, retry_after=retry_after)
            )
            for _ in range(3)
        ]
        good = (
            line.repeated(f"{client}", client, takes=0.125, deadline=now() + 45.0)
            for client in "abcde"
            for _ in range(4)
        )
        await asyncio.gather(*good)
        # The first refusal is everyone's, and costs a pause and some of the rate.
        assert now() < (retry_after or 0.0) + 12.0
        assert line.queue.status().refused_alone == 1
        # They may come now at any time, and find the budget open.
        for _ in range(3):
            await asyncio.sleep(20.0)
            began = now()
            await line.repeated("late", "late", takes=0.125)
            assert now() - began <= 0.125 + 1.0
        assert most_within(line.departures, 1.0) <= 8
        for task in bad:
            task.cancel()
        await asyncio.gather(*bad, return_exceptions=True)
        assert len(line.queue) == 0

    run(main())


def test_one_that_is_refused_alone_backs_off_and_goes_on_when_it_is_answered() -> None:
    async def main() -> None:
        line = Line(pacer(8, 1.0))
        others = asyncio.ensure_future(_now_and_then(line))
        until = 100.0
        calls = [line.repeated("bad", "bad", takes=0.125, refuses=lambda: now() < until) for _ in range(5)]
        await asyncio.gather(*calls)
        refused = [moment for moment, name in zip(line.departures, line.order, strict=True) if name == "bad"]
        between = [later - earlier for earlier, later in pairwise(moment for moment in refused if moment > 5)]
        assert len(refused) < 25
        assert max(between) > 10.0
        assert line.queue.status().refused_alone == 0
        # When the first got through the others did not wait out a pause of their own.
        assert now() < refused[-5] + 2.0
        others.cancel()
        await asyncio.wait([others])

    run(main())


async def _now_and_then(line: Line) -> None:
    while True:
        await asyncio.sleep(1.0)
        await line.repeated("good", "good", takes=0.125)


def test_one_that_is_refused_alone_is_told_at_once_if_it_cannot_wait_for_so_long() -> None:
    async def main() -> None:
        line = Line(pacer(8, 1.0))
        others = asyncio.ensure_future(_now_and_then(line))
        with pytest.raises(OverBudgetError) as refusal:
            await line.repeated(
                "bad", "bad", takes=0.125, deadline=50.0, refuses=lambda: True, retry_after=20.0
            )
        assert 10 <= refusal.value.retry_after <= 20
        assert now() < 50.0
        began = now()
        with pytest.raises(OverBudgetError) as refusal:
            await line.call(client="bad", deadline=now() + 5.0)
        assert now() == began
        assert 5 < refusal.value.retry_after <= 20
        others.cancel()
        await asyncio.wait([others])

    run(main())


def test_one_that_leaves_while_it_is_held_back_leaves_nothing() -> None:
    async def main() -> None:
        line = Line(pacer(8, 1.0))
        others = asyncio.ensure_future(_now_and_then(line))
        bad = [
            asyncio.ensure_future(line.repeated("bad", "bad", refuses=lambda: True, retry_after=30.0))
            for _ in range(4)
        ]
        await asyncio.sleep(40.5)
        assert len(line.queue) == line.queue.status().queued["interactive"] == 4
        for task in bad:
            task.cancel()
        await asyncio.gather(*bad, return_exceptions=True)
        assert len(line.queue) == 0
        others.cancel()
        await asyncio.wait([others])

    run(main())


def test_a_call_that_was_refused_twice_is_the_first_of_its_client_and_not_of_all() -> None:
    async def main() -> None:
        line = Line(pacer(1, 1.0))
        refuses = iter([True, True, False])
        twice = asyncio.ensure_future(line.repeated("twice", "bad", refuses=lambda: next(refuses)))
        await asyncio.sleep(0)
        async with waiting(line.call(client, client=client) for client in ("bad", "a", "b", "a")):
            await twice
        # Once before all others, and then after one of each.
        assert line.order == ["twice", "twice", "a", "b", "twice"]

    run(main())


# -- somebody else paces ---------------------------------------------------------------------------


def test_who_waits_leaves_as_soon_as_somebody_else_paces() -> None:
    async def scenario() -> None:
        line = Line()
        calls = [asyncio.create_task(line.call(number)) for number in range(20)]
        await asyncio.sleep(TICK)
        assert len(line.queue) == 20 - LIMIT
        began = asyncio.get_running_loop().time()
        line.queue.stand_aside(True)
        await asyncio.gather(*calls, *(line.call(number) for number in range(20)))
        assert asyncio.get_running_loop().time() - began < WINDOW
        assert len(line.order) == 40

    run(scenario())


def test_what_somebody_else_paced_does_not_count_here_afterwards() -> None:
    async def scenario() -> None:
        line = Line()
        line.queue.stand_aside(True)
        with await line.queue.acquire(lambda: 1e6) as slot:
            slot.sent()
            slot.refused(30.0)
        line.queue.stand_aside(False)
        status = line.queue.status()
        assert (status.in_window, status.pause_seconds, status.seconds_since_429) == (0, 0.0, None)
        calls = [asyncio.create_task(line.call(number)) for number in range(LIMIT + 1)]
        await asyncio.sleep(TICK)
        assert len(line.queue) == 1
        await asyncio.gather(*calls)

    run(scenario())


def test_who_leaves_before_a_place_that_costs_nothing_takes_none() -> None:
    async def scenario() -> None:
        line = Line()
        line.queue.stand_aside(True)
        call = asyncio.create_task(line.call())
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        line.queue.stand_aside(False)
        assert line.queue.status().in_window == 0

    run(scenario())
