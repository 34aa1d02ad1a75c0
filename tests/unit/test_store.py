"""The memory store against a plain model of what it promises."""

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mlflow_proxy.mlflow_api.messages import StoredResponse
from mlflow_proxy.mlflow_api.reads import Key
from mlflow_proxy.reading.store import Entry, Invalidation, MemoryStore

OVERHEAD = 1024
MODELS = ["m", "M", "other", "Straße", "STRASSE"]


def key(name: str, partition: str = "p") -> Key:
    return Key(partition, "GET", "/path", (("name", name),))


def entry(
    size: int = 0,
    *,
    model: str | None = "m",
    version: str | None = "1",
    survives: bool = False,
    expires_at: float = 100.0,
) -> Entry:
    response = StoredResponse(200, "OK", (("a", "b"),), b"x" * size)
    return Entry(response, model, version, survives, 0.0, expires_at)


def test_an_entry_is_there_until_it_expires() -> None:
    store = MemoryStore(10_000)
    assert store.get(key("k"), 0.0) is None
    kept = entry(expires_at=5.0)
    assert store.put(key("k"), kept)
    assert store.get(key("k"), 4.9) is kept
    assert store.get(key("k"), 5.0) is None


def test_size_counts_body_headers_question_and_overhead() -> None:
    store = MemoryStore(10_000)
    store.put(key("k" * 500), entry(100))
    assert store.bytes == 100 + len("ab") + len("name") + 500 + OVERHEAD


def test_what_is_larger_than_the_store_is_not_kept() -> None:
    store = MemoryStore(2000)
    assert not store.put(key("k"), entry(1000))
    assert not store.put(key("k" * 1000), entry(0))
    assert (len(store), store.bytes) == (0, 0)


def test_least_recently_used_goes_first() -> None:
    store = MemoryStore(3 * (OVERHEAD + 100))
    for name in "abc":
        store.put(key(name), entry(50))
    store.get(key("a"), 0.0)
    store.put(key("d"), entry(50))
    assert [name for name in "abcd" if store.get(key(name), 0.0)] == ["a", "c", "d"]


def test_a_replaced_entry_is_indexed_by_what_it_is_now() -> None:
    store = MemoryStore(10_000)
    store.put(key("k"), entry(model="m"))
    store.put(key("k"), entry(model="other", version=None))
    assert store.invalidate(Invalidation(frozenset({"m"}), files=True)) == 0
    assert store.invalidate(Invalidation(frozenset({"other"}), files=True)) == 1


def test_only_the_answer_that_proved_wrong_is_discarded() -> None:
    store = MemoryStore(10_000)
    wrong, right = entry(1), entry(2)
    store.discard(key("k"), wrong.response)
    store.put(key("k"), wrong)
    store.discard(key("k"), wrong.response)
    assert store.get(key("k"), 0.0) is None
    store.put(key("k"), right)
    store.discard(key("k"), wrong.response)
    assert store.get(key("k"), 0.0) is right


@given(st.sampled_from([None, *MODELS]), st.sets(st.sampled_from(MODELS)))
def test_an_invalidation_concerns_its_models_in_any_case_and_what_is_about_any(
    model: str | None, written: set[str]
) -> None:
    folded = {name.casefold() for name in written}
    concerned = model is None or model.casefold() in folded
    assert Invalidation(frozenset(written), files=False).concerns(model) == concerned
    assert Invalidation(None, files=False).concerns(model)


class StoreMachine(RuleBasedStateMachine):
    """Whatever is put, asked and written, the store holds what a plain dictionary would."""

    keys = st.builds(key, st.sampled_from("abcdefgh"), st.sampled_from(["p", "q"]))
    capacity = 5 * (OVERHEAD + 100)

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore(self.capacity)
        self.model: OrderedDict[Key, tuple[Entry, int]] = OrderedDict()
        self.now = 0.0

    @rule(
        at=keys,
        size=st.integers(0, 7000),
        model=st.sampled_from([None, *MODELS]),
        version=st.sampled_from([None, "1", "2"]),
        survives=st.booleans(),
        lasts=st.integers(1, 20),
    )
    def put(
        self, at: Key, size: int, model: str | None, version: str | None, survives: bool, lasts: int
    ) -> None:
        new = entry(size, model=model, version=version, survives=survives, expires_at=self.now + lasts)
        cost = size + 2 + sum(len(name) + len(value) for name, value in at.asked) + OVERHEAD
        assert self.store.put(at, new) == (cost <= self.capacity)
        if cost <= self.capacity:
            self.model.pop(at, None)
            while cost + sum(costs for _, costs in self.model.values()) > self.capacity:
                self.model.popitem(last=False)
            self.model[at] = new, cost

    @rule(at=keys)
    def get(self, at: Key) -> None:
        kept = self.model.get(at)
        if kept is not None:
            self.model.move_to_end(at)
        expected = kept[0] if kept is not None and self.now < kept[0].expires_at else None
        assert self.store.get(at, self.now) is expected

    @rule(seconds=st.integers(1, 10))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(models=st.one_of(st.none(), st.frozensets(st.sampled_from(MODELS))), files=st.booleans())
    def invalidate(self, models: frozenset[str] | None, files: bool) -> None:
        folded = None if models is None else {name.casefold() for name in models}
        wrong = []
        for at, (kept, _) in self.model.items():
            if kept.model is None:
                gone = not kept.survives_metadata_writes
            else:
                about = folded is None or kept.model.casefold() in folded
                gone = about and (files or not kept.survives_metadata_writes)
            if gone:
                wrong.append(at)
        assert self.store.invalidate(Invalidation(models, files)) == len(wrong)
        for at in wrong:
            del self.model[at]

    @invariant()
    def is_bounded_and_counts_exactly(self) -> None:
        assert self.store.bytes == sum(costs for _, costs in self.model.values()) <= self.capacity
        assert len(self.store) == len(self.model)


TestStoreMachine = StoreMachine.TestCase
