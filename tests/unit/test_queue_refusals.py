"""Whom the queue sends away, for its bounds or their deadlines, and when it tells them to come back."""

import asyncio
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.budget.fair_queue import Priority
from mlflow_proxy.budget.interface import Limits
from mlflow_proxy.budget.queue import SPREAD
from mlflow_proxy.errors import OverBudgetError
from tests.virtual_time import TICK, now, run

from .line import LIMIT, Line, pacer, waiting


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


def test_a_call_that_returns_is_told_of_those_that_returned_before_it() -> None:
    async def main() -> None:
        line = Line(pacer(1, 1.0))
        async with waiting(line.call(returned=True) for _ in range(1 + 5)):
            with pytest.raises(OverBudgetError) as refusal:
                await line.call(deadline=5.0, returned=True)
            assert (now(), refusal.value.retry_after) == (0.0, 6)

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
