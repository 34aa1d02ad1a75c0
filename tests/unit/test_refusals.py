"""What is remembered of refusals: every one, as itself or as one of everybody."""

from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.reading.refusals import Refusals

NAMES = st.sampled_from(["a", "b", "c"])
MODELS = st.sampled_from([None, "m", "M", "n"])


def test_a_refusal_is_of_one_credential_and_one_model() -> None:
    refusals = Refusals()
    refusals.note("a", "M", 5.0)
    assert refusals.last("a", "m") == 5.0
    assert refusals.last("a", "n") == refusals.last("b", "m") == float("-inf")
    refusals.note("a", None, 6.0)
    assert refusals.last("a", "n") == 6.0


@given(st.lists(st.tuples(NAMES, MODELS), max_size=30), st.integers(1, 4))
def test_no_refusal_is_forgotten(refused: list[tuple[str, str | None]], most: int) -> None:
    refusals = Refusals(most)
    for moment, (partition, model) in enumerate(refused):
        refusals.note(partition, model, moment)
        assert len(refusals._noted) <= most
    for moment, (partition, model) in enumerate(refused):
        for about in [model] if model is not None else ["m", "n", None]:
            assert refusals.last(partition, about) >= moment
