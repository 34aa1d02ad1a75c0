"""Who is next in line, against a model made of plain lists."""

from copy import deepcopy
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mlflow_proxy.budget.fair_queue import FairQueue, Priority

CLIENTS = "abcd"
clients = st.sampled_from(CLIENTS)


def drain(queue: FairQueue[int]) -> list[int]:
    """Take out everything, in order."""
    return [queue.pop() for _ in range(len(queue))]


class FairQueueMachine(RuleBasedStateMachine):
    """Any interleaving of calls that come, are joined, get their turn, return and leave."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = FairQueue[int]()
        self.returned: list[int] = []
        self.round: list[tuple[str, list[int]]] = []
        self.names = 0

    def new(self) -> int:
        self.names += 1
        return self.names

    def in_lines(self) -> list[tuple[str, int]]:
        return [(client, call) for client, calls in self.round for call in calls]

    def waiting(self) -> list[int]:
        return sorted({call for _, call in self.in_lines()} | set(self.returned))

    def place(self, client: str, call: int, *, first: bool) -> None:
        own = next((calls for other, calls in self.round if other == client), None)
        if own is None:
            own = []
            self.round.append((client, own))
        own.insert(0 if first else len(own), call)
        if first:
            self.round.sort(key=lambda line: line[0] == client)

    def gone(self, call: int) -> None:
        for calls in (self.returned, *(calls for _, calls in self.round)):
            if call in calls:
                calls.remove(call)
        self.round = [(client, calls) for client, calls in self.round if calls]

    @rule(client=clients, first=st.booleans())
    def comes(self, client: str, first: bool) -> None:
        call = self.new()
        (self.queue.push_first if first else self.queue.push)(call, client)
        self.place(client, call, first=first)

    @precondition(lambda self: bool(self.round))
    @rule(client=clients, first=st.booleans(), data=st.data())
    def is_joined(self, client: str, first: bool, data: st.DataObject) -> None:
        _, call = data.draw(st.sampled_from(self.in_lines()))
        if (client, call) not in self.in_lines():
            (self.queue.push_first if first else self.queue.push)(call, client)
            self.place(client, call, first=first)

    @rule()
    def returns(self) -> None:
        call = self.new()
        self.queue.push_returned(call)
        self.returned.append(call)

    @precondition(lambda self: bool(self.waiting()))
    @rule()
    def has_its_turn(self) -> None:
        if self.returned:
            expected = self.returned[0]
        else:
            client, calls = self.round.pop(0)
            expected = calls[0]
            self.round.append((client, calls))
        self.gone(expected)
        assert self.queue.peek() == expected
        assert self.queue.pop() == expected

    @precondition(lambda self: bool(self.waiting()))
    @rule(data=st.data())
    def leaves(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.waiting()))
        self.queue.remove(call)
        self.gone(call)
        with pytest.raises(KeyError):
            self.queue.remove(call)

    @precondition(lambda self: bool(self.round))
    @rule(data=st.data())
    def is_left_by_one(self, data: st.DataObject) -> None:
        client, call = data.draw(st.sampled_from(self.in_lines()))
        self.queue.withdraw(call, client)
        dict(self.round)[client].remove(call)
        self.round = [(other, calls) for other, calls in self.round if calls]
        with pytest.raises(KeyError):
            self.queue.withdraw(call, client)

    @rule(client=clients)
    def somebody_leaves_who_is_not_there(self, client: str) -> None:
        own = {call for other, call in self.in_lines() if other == client}
        for stranger in (0, *(call for call in self.waiting() if call not in own)):
            with pytest.raises(KeyError):
                self.queue.withdraw(stranger, client)
        with pytest.raises(KeyError):
            self.queue.remove(0)

    @invariant()
    def counts_who_waits(self) -> None:
        assert len(self.queue) == len(self.waiting())
        assert sorted(self.queue) == self.waiting()
        assert self.queue.clients == len(self.round)
        assert self.queue.returned == len(self.returned)
        own = dict(self.round)
        for client in CLIENTS:
            assert list(self.queue.of_client(client)) == own.get(client, [])
        for call in self.waiting():
            assert set(self.queue.places(call)) == {c for c, calls in self.round if call in calls}

    @invariant()
    def exactly_as_many_leave_before_one_more_as_it_says(self) -> None:
        shared = len(self.in_lines()) + len(self.returned) > len(self.waiting())
        for client in CLIENTS:
            queue = deepcopy(self.queue)
            queue.push(0, client)
            before = drain(queue).index(0)
            assert before == self.queue.exactly_ahead(client)
            assert before <= self.queue.ahead(client) <= len(self.queue)
            assert shared or before == self.queue.ahead(client)


TestFairQueueMachine = FairQueueMachine.TestCase


@given(st.lists(clients), st.integers(0, 3))
def test_everyones_first_call_comes_before_anyones_second(arrivals: list[str], returned: int) -> None:
    queue = FairQueue[int]()
    for call, client in enumerate(arrivals):
        queue.push(call, client)
    for call in range(returned):
        queue.push_returned(-1 - call)

    def turn(call: int) -> tuple[int, int]:
        client = arrivals[call]
        return arrivals[:call].count(client), arrivals.index(client)

    again = [-1 - call for call in range(returned)]
    assert drain(queue) == again + sorted(range(len(arrivals)), key=turn)


def test_one_who_comes_joins_at_the_end_of_the_round() -> None:
    queue = FairQueue[str]()
    for call in ("a1", "a2", "b1", "b2"):
        queue.push(call, call[0])
    assert queue.pop() == "a1"
    queue.push("c1", "c")
    assert [queue.pop() for _ in range(4)] == ["b1", "a2", "c1", "b2"]


def test_one_who_used_up_his_calls_gains_nothing_by_coming_again() -> None:
    queue = FairQueue[str]()
    for call in ("a1", "b1", "b2"):
        queue.push(call, call[0])
    assert queue.pop() == "a1"
    queue.push("a2", "a")
    assert [queue.pop() for _ in range(3)] == ["b1", "a2", "b2"]


def test_nobody_waits() -> None:
    queue = FairQueue[int]()
    with pytest.raises(IndexError):
        queue.pop()
    with pytest.raises(IndexError):
        queue.peek()
    assert len(queue) == 0
    with pytest.raises(KeyError):
        queue.remove(0)
    assert len(queue) == 0


class Unsearchable:
    """A call that must be found without looking at the others."""

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> NoReturn:
        raise AssertionError("the queue was searched")


def test_a_call_leaves_from_the_middle_without_a_search() -> None:
    queue = FairQueue[Unsearchable]()
    calls = [Unsearchable() for _ in range(100)]
    for call in calls:
        queue.push(call, "a")
    for call in calls[::-2]:
        queue.remove(call)
    assert [id(queue.pop()) for _ in range(50)] == [id(call) for call in calls[::2]]


def test_a_call_that_several_wait_for_leaves_with_its_first_place_and_costs_the_others_no_turn() -> None:
    queue = FairQueue[str]()
    for call in ("a1", "a2", "a3", "b1"):
        queue.push(call, call[0])
    queue.push("a3", "c")
    queue.push("b2", "b")
    queue.push("b2", "c")
    assert drained(queue) == ["a1", "b1", "a3", "a2", "b2"]


def drained(queue: FairQueue[str]) -> list[str]:
    return [queue.pop() for _ in range(len(queue))]


def test_classes_are_served_in_order_and_have_names() -> None:
    assert [priority.label for priority in sorted(Priority)] == ["interactive", "background"]
