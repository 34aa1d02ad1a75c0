"""Shared calls, in virtual time."""

import asyncio
import contextlib
import gc
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.access.sharing import Caller
from mlflow_proxy.clock import Clock
from mlflow_proxy.errors import BadGatewayError, GatewayTimeoutError, OverBudgetError
from mlflow_proxy.mlflow_api.caller_fields import NOBODY
from mlflow_proxy.mlflow_api.messages import Client, StoredResponse
from mlflow_proxy.mlflow_api.reads import Key, Read
from mlflow_proxy.mlflow_api.routes import match
from mlflow_proxy.outcome import Outcome
from mlflow_proxy.party import Party
from mlflow_proxy.reading.answer import Answer
from mlflow_proxy.reading.coalesced import Coalesced
from mlflow_proxy.reading.generations import Generations
from mlflow_proxy.reading.store import Entry, Invalidation
from tests.virtual_time import run, ticks

ROUTE = match("GET", "/api/2.0/mlflow/model-versions/list-artifacts")
LATER = 1000.0


def read(model: str = "m") -> Read:
    return Read(Key("partition", "GET", ROUTE.path, (("name", model),)), ROUTE, model, "1")


def response(body: bytes = b"{}") -> StoredResponse:
    return StoredResponse(200, "OK", (), body)


@dataclass(frozen=True, eq=False)
class Flight:
    """What a call of the reader below gets to know."""

    party: Party
    question: Read
    generations: Generations
    began: int

    @property
    def deadline(self) -> float:
        return self.party.deadline

    @property
    def holds(self) -> bool:
        """Whether nothing was written that concerns it."""
        return self.generations.holds(self.began, self.question.model)


Call = Callable[[Flight], Awaitable[StoredResponse]]


class Flights:
    """The reader, over one below that makes whatever call a question brings with it."""

    def __init__(self) -> None:
        self.generations = Generations()
        self._coalesced = Coalesced(self, self.generations, Clock(time.monotonic, time.time))
        self._calls: dict[Caller, tuple[Call, int]] = {}
        """With the moment among the writes at which it was asked for."""

    def __len__(self) -> int:
        return len(self._coalesced)

    async def read(self, question: Read, caller: Caller, party: Party) -> Answer:
        call, began = self._calls[caller]
        found = await call(Flight(party, question, self.generations, began))
        return Answer(question.key, Entry(found, question.model, "1", False, 0.0, 0.0), Outcome.MISS, 0.0)

    async def fetch(
        self, question: Read, deadline: float, waiting: str | Party, call: Call
    ) -> tuple[StoredResponse, bool]:
        """Return what came, and whether it is of a flight that others had started."""
        caller = Caller((), f"number {len(self._calls)}", Client(""), NOBODY, fresh=False)
        self._calls[caller] = call, self.generations.moment
        party = Party(waiting, deadline=deadline) if isinstance(waiting, str) else waiting
        answer = await self._coalesced.read(question, caller, party)
        return answer.response, answer.outcome is Outcome.COLLAPSED


@dataclass
class Calls:
    """Calls that take their time, and what became of them."""

    seconds: float = 10.0
    error: Exception | None = None
    started: int = 0
    cancelled: int = 0
    flights: list[Flight] = field(default_factory=list)

    async def __call__(self, flight: Flight) -> StoredResponse:
        self.started += 1
        self.flights.append(flight)
        number = self.started
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return response(str(number).encode())


def now() -> float:
    return asyncio.get_running_loop().time()


Joining = asyncio.Task[tuple[StoredResponse, bool]]


async def join(
    flights: Flights,
    call: Callable[[Flight], Awaitable[StoredResponse]],
    *,
    deadline: float = LATER,
    model: str = "m",
    client: str = "client",
) -> Joining:
    """Ask, and return once the question is in the air."""
    task = asyncio.ensure_future(flights.fetch(read(model), deadline, client, call))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return task


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


# -- who waits for it ------------------------------------------------------------------------------


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
