"""A client that the workspace refuses alone waits by itself and holds nobody up."""

import asyncio
from itertools import pairwise

import pytest

from mlflow_proxy.errors import OverBudgetError
from tests.virtual_time import now, run

from .line import Line, pacer, waiting
from .test_sliding_window import most_within


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
