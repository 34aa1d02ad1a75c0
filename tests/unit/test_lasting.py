"""Until when values of a cache hold, as those see it who rest on them."""

from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.reading.lasting import Lasting
from mlflow_proxy.term import Term, together


def lasting(size: int = 3) -> Lasting[str, float]:
    """Return a cache whose values are the times until which they hold."""
    return Lasting(size, lambda value: value)


def test_a_value_holds_until_its_time() -> None:
    cache = lasting()
    cache["a"] = 7.0
    assert cache.term("a").until == 7.0


def test_what_leaves_holds_no_longer() -> None:
    cache = lasting()
    for name in "abc":
        cache[name] = 7.0
    deleted, replaced, evicted = (cache.term(name) for name in "abc")
    del cache["a"]
    cache["b"] = 8.0
    cache["d"], cache["e"] = 7.0, 7.0
    assert {term.until for term in (deleted, replaced, evicted)} == {float("-inf")}
    assert cache.term("b").until == 8.0


def test_a_touch_is_a_use() -> None:
    cache = lasting()
    for name in "abc":
        cache[name] = 7.0
    touch = cache.term("a").touch
    assert touch is not None
    touch()
    cache["d"] = 7.0
    assert set(cache) == {"a", "c", "d"}


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from(["set", "get", "del", "pop"]))))
def test_the_terms_of_values_that_are_there_hold_and_no_others(steps: list[tuple[str, str]]) -> None:
    cache = lasting()
    terms: list[tuple[str, Term]] = []
    for name, step in steps:
        if step == "set":
            cache[name] = 7.0
            terms.append((name, cache.term(name)))
        elif step == "get":
            cache.get(name)
        elif step == "del" and name in cache:
            del cache[name]
        elif step == "pop":
            cache.pop(name, None)
    holding = [(name, term) for name, term in terms if term.until == 7.0]
    assert sorted(name for name, _ in holding) == sorted(cache)
    assert all(cache.term(name) is term for name, term in holding)


def test_what_rests_on_something_unknown_is_unknown() -> None:
    one, other = Term(), Term(3.0)
    assert together((one,), (other,)) == (one, other)
    assert together((one,), None) is None is together(None, (other,))
