"""The names of those who wait for one call."""

from collections.abc import Hashable
from contextlib import ExitStack

from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.party import Party


def test_a_client_is_named_once_however_often_it_waits() -> None:
    party, heard = Party(), list[tuple[Hashable, bool]]()
    with party.watched(lambda client: heard.append((client, client in party.clients))):
        with party.joined(Party("a")):
            with party.joined(Party("b")), party.joined(Party("a")):
                assert list(party.clients) == ["a", "b"]
            assert list(party.clients) == ["a"]
        assert not party.clients
    with party.joined(Party("c")):
        assert heard == [("a", True), ("b", True), ("b", False), ("a", False)]


def test_who_comes_to_one_call_waits_for_what_that_waits_for() -> None:
    inner, outer = Party("x"), Party("a")
    with inner.joined(outer):
        with outer.joined(Party("b")):
            assert set(inner.clients) == {"x", "a", "b"}
        assert set(inner.clients) == {"x", "a"}
    with outer.joined(Party("c")):
        assert set(inner.clients) == {"x"}


comings = st.tuples(st.sampled_from(["inner", "outer"]), st.sampled_from("abc"), st.booleans())


@given(st.lists(comings, max_size=30))
def test_whoever_waits_is_named_and_no_one_else(steps: list[tuple[str, str, bool]]) -> None:
    inner, outer = Party(), Party()
    told: set[Hashable] = set()
    waits: dict[tuple[str, str], list[ExitStack]] = {}

    def changed(client: Hashable) -> None:
        assert (client in told) != (client in inner.clients), "told only of what changed"
        told.symmetric_difference_update({client})

    with inner.watched(changed), inner.joined(outer):
        for name, client, comes in steps:
            own = waits.setdefault((name, client), [])
            if comes:
                own.append(ExitStack())
                own[-1].enter_context((inner if name == "inner" else outer).joined(Party(client)))
            elif own:
                own.pop().close()
            expected = {client for (_, client), stacks in waits.items() if stacks}
            assert set(inner.clients) == told == expected
        for stacks in waits.values():
            for stack in stacks:
                stack.close()
        assert not inner.clients
