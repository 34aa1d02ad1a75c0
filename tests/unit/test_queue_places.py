"""Places of the budget: given, given up and taken back, none is lost and none is used twice."""

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.budget.congestion import DECREASE, Cubic
from mlflow_proxy.budget.fair_queue import Priority
from mlflow_proxy.budget.interface import Status
from mlflow_proxy.budget.pacer import Pacer
from mlflow_proxy.budget.sliding_window import Grant
from mlflow_proxy.errors import OverBudgetError
from tests.virtual_time import TICK, now, run, ticks

from .line import LIMIT, WINDOW, Line, pacer, waiting
from .test_sliding_window import most_within


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
