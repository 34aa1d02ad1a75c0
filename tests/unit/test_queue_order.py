"""Who in the queue comes before whom: by arrival, by client, and by whether somebody waits."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.budget.fair_queue import Priority
from mlflow_proxy.budget.interface import Limits
from mlflow_proxy.errors import OverBudgetError
from tests.virtual_time import TICK, now, run, ticks

from .line import LIMIT, WINDOW, Line, pacer, waiting


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
