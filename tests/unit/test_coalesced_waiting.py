"""A shared call lasts as long as somebody waits for it, and knows who does."""

import asyncio
import gc

import pytest

from mlflow_proxy.errors import BadGatewayError, GatewayTimeoutError, OverBudgetError
from mlflow_proxy.mlflow_api.messages import StoredResponse
from tests.virtual_time import now, run

from .flights import LATER, Calls, Flight, Flights, join, read, response


def test_a_flight_outlives_the_client_that_started_it() -> None:
    async def main() -> None:
        flights = Flights()
        call = Calls()
        starter, other = await join(flights, call), await join(flights, call)
        starter.cancel()
        assert (await other)[0] == response(b"1")
        assert starter.cancelled()
        assert (call.started, call.cancelled) == (1, 0)

    run(main())


def test_the_last_to_leave_cancels_it() -> None:
    async def main() -> None:
        flights = Flights()
        call = Calls()
        tasks = [await join(flights, call) for _ in range(3)]
        for task in tasks:
            assert call.cancelled == 0
            task.cancel()
            await asyncio.sleep(0.5)
        assert (call.cancelled, len(flights), now()) == (1, 0, 1.5)
        assert (await flights.fetch(read(), LATER, "client", call))[0] == response(b"2")

    run(main())


def test_one_cancelled_at_once_leaves_nothing_behind() -> None:
    async def main() -> None:
        flights = Flights()
        call = Calls()
        task = asyncio.ensure_future(flights.fetch(read(), LATER, "client", call))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert (call.cancelled, len(flights), now()) == (call.started, 0, 0.0)

    run(main())


def test_an_early_deadline_is_kept_while_others_wait_on() -> None:
    async def main() -> None:
        flights = Flights()
        call = Calls(seconds=30.0)
        hasty = await join(flights, call, deadline=5.0)
        patient = await join(flights, call, deadline=45.0)
        with pytest.raises(OverBudgetError) as refusal:
            await hasty
        assert now() == 5.0
        assert refusal.value.retry_after == 40
        assert (await patient)[0] == response(b"1")
        assert (call.started, call.flights[0].deadline) == (1, 45.0)

    run(main())


def test_nobody_joins_a_flight_that_is_out_of_time() -> None:
    async def main() -> None:
        async def ends_late(flight: Flight) -> StoredResponse:
            await asyncio.sleep(flight.deadline - now() + 1.0)
            raise GatewayTimeoutError("too late")

        flights = Flights()
        first = await join(flights, ends_late, deadline=5.0)
        await asyncio.sleep(5.5)
        second = await join(flights, Calls(seconds=1.0), deadline=50.0)
        with pytest.raises(GatewayTimeoutError):
            await first
        assert now() == 6.0
        assert (await second)[1] is False

    run(main())


@pytest.mark.parametrize("steps", range(6))
def test_an_error_that_nobody_waits_for_any_more_is_not_reported_as_lost(steps: int) -> None:
    async def main() -> None:
        flights = Flights()
        call = Calls(seconds=1.0, error=BadGatewayError("gone"))
        task = await join(flights, call)
        await asyncio.sleep(1.0)
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        del task
        call.error = None
        gc.collect()

    run(main())


def test_an_error_while_being_cancelled_is_not_reported_as_lost() -> None:
    async def main() -> None:
        async def call(flight: Flight) -> StoredResponse:
            try:
                await asyncio.sleep(10.0)
            finally:
                raise BadGatewayError("broke while closing")

        task = await join(Flights(), call)
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(0)
        del task
        gc.collect()

    run(main())


def test_a_flight_knows_the_clients_that_wait_for_it() -> None:
    async def main() -> None:
        flights = Flights()
        call = Calls()
        starter = await join(flights, call, client="a")
        others = [await join(flights, call, client=client) for client in "bcb"]
        (flight,) = call.flights
        assert list(flight.party.clients) == ["a", "b", "c"]
        for task, left in ((starter, "bc"), (others[0], "bc"), (others[1], "b")):
            task.cancel()
            await asyncio.wait([task])
            assert set(flight.party.clients) == set(left)
        assert call.cancelled == 0
        await others[2]
        assert not flight.party.clients

    run(main())


def test_one_that_loses_patience_waits_no_longer() -> None:
    async def main() -> None:
        flights = Flights()
        call = Calls()
        hasty = await join(flights, call, client="hasty", deadline=5.0)
        patient = await join(flights, call, client="patient")
        with pytest.raises(OverBudgetError):
            await hasty
        assert list(call.flights[0].party.clients) == ["patient"]
        await patient

    run(main())


def test_what_a_flight_asks_on_its_way_all_wait_for_who_wait_for_the_flight() -> None:
    async def main() -> None:
        flights = Flights()
        inner = Calls()

        async def outer(flight: Flight) -> StoredResponse:
            return (await flights.fetch(read("inner"), flight.deadline, flight.party, inner))[0]

        starter = await join(flights, outer, client="starter")
        guest = await join(flights, outer, client="guest")
        direct = await join(flights, inner, client="direct", model="inner")
        (flight,) = inner.flights
        assert list(flight.party.clients) == ["starter", "guest", "direct"]
        starter.cancel()
        await asyncio.wait([starter])
        assert list(flight.party.clients) == ["guest", "direct"]
        guest.cancel()
        await asyncio.wait([guest])
        await asyncio.sleep(0)
        assert list(flight.party.clients) == ["direct"]
        assert inner.cancelled == 0
        await direct

    run(main())


def test_when_all_have_gone_what_a_flight_asked_on_its_way_is_cancelled_too() -> None:
    async def main() -> None:
        flights = Flights()
        inner = Calls()

        async def outer(flight: Flight) -> StoredResponse:
            return (await flights.fetch(read("inner"), flight.deadline, flight.party, inner))[0]

        task = await join(flights, outer)
        await asyncio.sleep(1.0)
        task.cancel()
        await asyncio.sleep(1.0)
        assert (inner.cancelled, len(flights)) == (1, 0)

    run(main())
