"""Who asks together shares one call, and nobody gets what was asked before a write."""

import asyncio
import contextlib
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.errors import BadGatewayError, OverBudgetError
from mlflow_proxy.mlflow_api.messages import StoredResponse
from mlflow_proxy.reading.store import Invalidation
from tests.virtual_time import now, run, ticks

from .flights import LATER, Calls, Flight, Flights, join, read, response


def test_those_who_ask_together_share_one_call() -> None:
    async def main() -> None:
        flights = Flights()
        call = Calls()
        tasks = [await join(flights, call) for _ in range(5)]
        assert len(flights) == 1
        results = await asyncio.gather(*tasks)
        assert call.started == 1
        assert [joined for _, joined in results] == [False, True, True, True, True]
        assert {answer for answer, _ in results} == {response(b"1")}
        assert len(flights) == 0

    run(main())


def test_different_questions_do_not() -> None:
    async def main() -> None:
        flights = Flights()
        call = Calls()
        await asyncio.gather(await join(flights, call, model="a"), await join(flights, call, model="b"))
        assert call.started == 2

    run(main())


def test_everyone_gets_the_error_and_nobody_can_join_it_any_more() -> None:
    async def main() -> None:
        flights = Flights()
        call = Calls(error=BadGatewayError("gone"))
        seen: list[tuple[int, int]] = []

        async def ask() -> None:
            with pytest.raises(BadGatewayError):
                await flights.fetch(read(), LATER, "client", call)
            # At the very first moment after waking:
            seen.append((len(flights), call.started))

        await asyncio.gather(*(ask() for _ in range(4)))
        assert seen == [(0, 1)] * 4

    run(main())


@pytest.mark.parametrize("error", [None, BadGatewayError("gone")])
def test_it_is_out_of_the_table_before_anyone_wakes(error: Exception | None) -> None:
    async def main() -> None:
        flights = Flights()
        call = Calls(error=error)
        again: list[bool] = []

        async def ask_twice() -> None:
            with contextlib.suppress(BadGatewayError):
                await flights.fetch(read(), LATER, "client", call)
            call.error = None
            again.append((await flights.fetch(read(), LATER, "client", call))[1])

        await asyncio.gather(*(ask_twice() for _ in range(3)))
        assert call.started == 2
        assert again == [False, True, True]

    run(main())


def test_whoever_asks_in_the_step_in_which_a_call_ends_starts_anew() -> None:
    async def main() -> None:
        flights = Flights()
        joinable: list[int] = []

        async def call(flight: Flight) -> StoredResponse:
            await asyncio.sleep(1.0)
            # Runs when this call has ended, before those who wait for it are woken.
            asyncio.get_running_loop().call_soon(lambda: joinable.append(len(flights)))
            return response()

        await asyncio.gather(await join(flights, call), await join(flights, call))
        assert joinable == [0]

    run(main())


def test_a_write_closes_the_flights_it_concerns() -> None:
    async def main() -> None:
        flights = Flights()
        call = Calls()
        before, other = await join(flights, call, model="a"), await join(flights, call, model="b")
        flights.generations.note(Invalidation(frozenset({"a"}), files=False))
        after = await join(flights, call, model="a")
        assert (await before)[0] == response(b"1")
        assert (await after)[0] == response(b"3")
        assert (await other)[1] is False
        assert len(flights) == 0

    run(main())


def test_a_closed_flight_that_ends_does_not_take_its_successor_along() -> None:
    async def main() -> None:
        flights = Flights()
        call = Calls()
        first = await join(flights, call)
        flights.generations.note(Invalidation(None, files=True))
        await asyncio.sleep(5.0)
        second = await join(flights, call)
        await first
        third = await join(flights, call)
        assert (await second)[0] == (await third)[0] == response(b"2")
        assert call.started == 2

    run(main())


@dataclass(frozen=True)
class Visitor:
    """One client of a random scenario, in seconds."""

    arrives: float
    model: str
    patience: float
    takes: float
    fails: bool
    leaves: float | None
    steps: int


clients = st.builds(
    Visitor,
    arrives=ticks(0, 40),
    model=st.sampled_from("ab"),
    patience=ticks(0, 60),
    takes=ticks(0, 60),
    fails=st.booleans(),
    leaves=st.one_of(st.none(), ticks(0, 60)),
    steps=st.integers(0, 4),
)

writes = st.tuples(ticks(0, 60), st.sampled_from("ab"))


@given(st.lists(clients, max_size=15), st.lists(writes, max_size=4))
def test_at_most_one_joinable_flight_per_question(
    scenario: list[Visitor], written: list[tuple[float, str]]
) -> None:
    async def main() -> None:
        flights = Flights()
        joinable: dict[str, set[Flight]] = {"a": set(), "b": set()}
        waiting: dict[int, Visitor] = {}
        flown: list[Flight] = []

        async def live(number: int, client: Visitor) -> None:
            async def call(flight: Flight) -> StoredResponse:
                flown.append(flight)
                try:
                    if flight.holds:
                        joinable[client.model].add(flight)
                    # One that is past its deadline, or whose last waiter left, is replaced, not joined.
                    late = {other for other in joinable[client.model] if other.deadline <= now()}
                    assert len(joinable[client.model] - late) <= 1
                    await asyncio.sleep(min(client.takes, max(0.0, flight.deadline - now())))
                    if client.fails:
                        raise BadGatewayError("gone")
                    return response(str(flown.index(flight)).encode())
                finally:
                    joinable[client.model].discard(flight)

            await asyncio.sleep(client.arrives)
            begun_at, deadline = now(), now() + client.patience
            waiting[number] = client
            try:
                found, _ = await flights.fetch(read(client.model), deadline, str(number), call)
                assert flown[int(found.body)].holds or any(
                    begun_at <= moment <= now() and model == client.model for moment, model in written
                ), "whoever asked after a write got an answer from before it"
            except (OverBudgetError, BadGatewayError):
                pass
            finally:
                del waiting[number]
                assert now() <= deadline

        async def interrupt(client: Visitor, task: "asyncio.Task[None]") -> None:
            if client.leaves is not None:
                await asyncio.sleep(client.leaves)
                for _ in range(client.steps):
                    await asyncio.sleep(0)
                task.cancel()

        async def write(moment: float, model: str) -> None:
            await asyncio.sleep(moment)
            flights.generations.note(Invalidation(frozenset({model}), files=False))
            joinable[model].clear()
            # Nobody waits, nothing flies: those who hung up took their calls with them.
            assert waiting or len(flights) == 0

        lives = [asyncio.ensure_future(live(*pair)) for pair in enumerate(scenario)]
        await asyncio.gather(
            *(interrupt(client, task) for client, task in zip(scenario, lives, strict=True)),
            *(write(*each) for each in written),
        )
        await asyncio.gather(*lives, return_exceptions=True)
        for task in lives:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(flights) == 0

    run(main())
