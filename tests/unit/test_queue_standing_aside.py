"""While somebody else paces, the queue lets everybody through and counts nothing."""

import asyncio

from tests.virtual_time import TICK, run

from .line import LIMIT, WINDOW, Line


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
