"""The queue in front of a budget, in virtual time."""

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.budget.congestion import Cubic
from proxy.budget.pacer import Pacer
from proxy.budget.queue import Queue
from proxy.errors import OverBudgetError
from tests.virtual_time import TICK, run, ticks

from .test_sliding_window import most_within

LIMIT, WINDOW = 3, 256 * TICK


def pacer(limit: int, window: float) -> Pacer:
    return Pacer(limit, window, Cubic(limit, 1))


@dataclass
class Line:
    """A queue under observation."""

    pacer: Pacer = field(default_factory=lambda: pacer(LIMIT, WINDOW))
    waits: list[float] = field(default_factory=list)
    departures: list[float] = field(default_factory=list)
    order: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.queue = Queue(self.pacer, self.waits.append, lambda: 0.0)

    async def call(
        self, name: object = None, *, deadline: float = 1e6, connect: float = 0.0, returned: bool = False
    ) -> None:
        """Take a place, open a connection for a while, send."""
        with await self.queue.acquire(lambda: deadline, returned=returned) as slot:
            self.order.append(name)
            await asyncio.sleep(connect)
            slot.sent()
            self.departures.append(now())

    def idle(self) -> bool:
        return len(self.queue) == 0 and self.pacer.in_window(now() + WINDOW) == 0


def now() -> float:
    return asyncio.get_running_loop().time()


def test_first_in_first_out() -> None:
    async def main() -> None:
        line = Line()
        await asyncio.gather(*(line.call(number) for number in range(10)))
        assert line.order == list(range(10))
        assert line.departures == [WINDOW * (number // LIMIT) for number in range(10)]
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
        waiting = asyncio.ensure_future(line.queue.acquire(lambda: deadline))
        await asyncio.sleep(3.0)
        deadline = 30.0
        with await waiting:
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
        began = now() + WINDOW
        await asyncio.sleep(WINDOW)
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
                slot = await line.queue.acquire(lambda: deadline, returned=caller.front)
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
def test_patient_callers_leave_in_order_and_as_early_as_the_window_allows(arrivals: list[float]) -> None:
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
            assert line.departures[number] == max(moment, free)

    run(main())
