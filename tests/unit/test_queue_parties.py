"""Calls that several clients wait for: each brings a place of its own, and the first of them counts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.budget.interface import Limits
from mlflow_proxy.errors import OverBudgetError
from mlflow_proxy.party import Party
from tests.virtual_time import TICK, now, run, ticks

from .line import LIMIT, Line, pacer, waiting
from .test_sliding_window import most_within


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
