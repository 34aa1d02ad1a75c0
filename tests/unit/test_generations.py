"""What a write outdates."""

from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.reading.generations import Generations
from mlflow_proxy.reading.store import Invalidation

MODELS = ("m", "M", "Straße", "STRASSE", "other")

writes = st.builds(
    Invalidation,
    models=st.one_of(st.none(), st.frozensets(st.sampled_from(MODELS), min_size=1)),
    files=st.booleans(),
)


@given(st.lists(writes, max_size=10), st.lists(writes, max_size=10), st.integers(1, 3))
def test_a_write_outdates_what_it_concerns(
    before: list[Invalidation], after: list[Invalidation], most: int
) -> None:
    """However few models are remembered, what a write concerns no longer holds; with room, all else does."""
    for generations, exact in ((Generations(), True), (Generations(most), False)):
        for what in before:
            generations.note(what)
        asked = generations.moment
        for what in after:
            generations.note(what)
        for model in (*MODELS, None):
            concerned = any(what.concerns(model) for what in after)
            if concerned or exact:
                assert generations.holds(asked, model) is not concerned
        assert generations.files_hold(asked) is not any(what.files for what in after)
