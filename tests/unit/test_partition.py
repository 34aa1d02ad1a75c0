"""Whose answers are whose."""

import string
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mlflow_proxy.access.partition import PUBLIC, Partitions, partitions
from mlflow_proxy.mlflow_api.caller_fields import WELL_KNOWN, Tells, names
from mlflow_proxy.mlflow_api.messages import StoredResponse
from mlflow_proxy.mlflow_api.reads import shareable
from mlflow_proxy.mlflow_api.routes import match
from mlflow_proxy.reading.store import Entry, MemoryStore

KEY = b"k" * 32
IGNORED = names(Tells.NEUTRAL)
LIST = "/api/2.0/mlflow/model-versions/list-artifacts"
LISTING = match("GET", LIST)

tokens = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=12)
spellings = st.one_of(
    st.sampled_from(
        ["Authorization", "authorization", "X-Forwarded-For", "x-real-ip", "X-Api-Key", "X-Databricks-Org-Id"]
    ),
    tokens,
)
# As aiohttp reads them: bytes that are not UTF-8 become lone surrogates.
values = st.binary(max_size=20).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
fields = st.lists(st.tuples(spellings, values), max_size=6)


def split(headers: list[tuple[str, str]]) -> Partitions:
    return partitions(WELL_KNOWN.identity(headers), KEY)


def partition(headers: list[tuple[str, str]], key: bytes) -> str:
    return partitions(WELL_KNOWN.identity(headers), key).own


def meaning(
    headers: list[tuple[str, str]],
    without: frozenset[Tells] = frozenset({Tells.NEUTRAL}),
) -> list[list[tuple[str, str]]]:
    """Return what counts of a request, class by class; a name that this test does not know counts."""
    known = {name: tells for tells in Tells for name in names(tells)}
    return [
        [(name.lower(), value) for name, value in headers if known.get(name.lower(), Tells.COUNTED) is tells]
        for tells in Tells
        if tells not in without
    ]


@given(fields, fields)
def test_partitions_are_equal_exactly_when_credentials_are(
    one: list[tuple[str, str]], other: list[tuple[str, str]]
) -> None:
    assert (partition(one, KEY) == partition(other, KEY)) == (meaning(one) == meaning(other))


@given(fields, fields)
def test_each_name_of_a_request_counts_what_it_should(
    one: list[tuple[str, str]], other: list[tuple[str, str]]
) -> None:
    found, compared = split(one), split(other)
    neutral, address, credential = Tells.NEUTRAL, Tells.ADDRESS, Tells.CREDENTIAL
    for name, without in (
        ("own", {neutral}),
        ("paced", {neutral, address}),
        ("common", {neutral, address, credential}),
    ):
        equal = meaning(one, frozenset(without)) == meaning(other, frozenset(without))
        assert (getattr(found, name) == getattr(compared, name)) == equal, name


def test_members_that_share_by_other_rules_never_meet() -> None:
    told = WELL_KNOWN.identity([("Authorization", "Bearer a")])
    one, other = (partitions(told, KEY, mode) for mode in ("proven", "credential"))
    assert {one.own, one.paced, one.common}.isdisjoint({other.own, other.paced, other.common})


@given(fields, st.lists(st.tuples(st.sampled_from(sorted(IGNORED)), values), max_size=5), st.randoms())
def test_neutral_fields_change_nothing_wherever_they_stand(
    headers: list[tuple[str, str]], neutral: list[tuple[str, str]], random: Random
) -> None:
    mixed = list(headers)
    for field in neutral:
        mixed.insert(random.randint(0, len(mixed)), field)
    assert partition(mixed, KEY) == partition(headers, KEY)


@given(fields, tokens, values)
def test_a_field_nobody_has_heard_of_separates(headers: list[tuple[str, str]], name: str, value: str) -> None:
    assume(name.lower() not in IGNORED | {"baggage", "cookie", "forwarded"})
    assert partition([*headers, (name, value)], KEY) != partition(headers, KEY)


@pytest.mark.parametrize(
    "other",
    [
        [("Authorization", "Bearer tOKEN"), ("X-Api-Key", "1"), ("X-Api-Key", "2")],
        [("Authorization", "Bearer Token"), ("X-Api-Key", "2"), ("X-Api-Key", "1")],
        [("Authorization", "Bearer Token"), ("X-Api-Key", "2")],
        [("Authorization", "Bearer Token"), ("X-Api-Key", "1"), ("X-Api-Key", "2"), ("X-Api-Key", "2")],
        [("Authorization", "Bearer Token"), ("X-Api-Key", "1, 2")],
    ],
)
def test_what_resembles_a_credential_is_another_one(other: list[tuple[str, str]]) -> None:
    one = [("Authorization", "Bearer Token"), ("X-Api-Key", "1"), ("X-Api-Key", "2")]
    assert partition(other, KEY) != partition(one, KEY)


def test_boundaries_between_names_and_values_count() -> None:
    assert partition([("ab", "c")], KEY) != partition([("a", "bc")], KEY)
    assert partition([("a", "b"), ("c", "d")], KEY) != partition([("a", "bcd")], KEY)


@given(fields)
def test_a_partition_tells_nothing_without_the_key(headers: list[tuple[str, str]]) -> None:
    name = partition(headers, KEY)
    assert name != partition(headers, b"x" * 32)
    assert len(name) == 32
    assert set(name) <= set("0123456789abcdef")
    assert name != PUBLIC


@given(st.lists(fields, min_size=1, max_size=8))
def test_no_stored_answer_crosses_credentials(requests: list[list[tuple[str, str]]]) -> None:
    store = MemoryStore(10**6)
    for number, headers in enumerate(requests):
        read = shareable(LISTING, "GET", f"{LIST}?name=m&version=1", (), b"", partition(headers, KEY))
        assert read is not None
        answer = StoredResponse(200, "OK", (), str(number).encode())
        found = store.get(read.key, 0.0)
        if found is None:
            store.put(read.key, Entry(answer, "m", "1", True, 0.0, 1.0))
        else:
            assert meaning(requests[int(found.response.body)]) == meaning(headers)
