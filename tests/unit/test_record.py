"""What members of a fleet hand on to each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.errors import (
    BadGatewayError,
    GatewayTimeoutError,
    OverBudgetError,
    TooLargeToShareError,
    UnknownCodingError,
    UnreadableError,
)
from mlflow_proxy.fleet.record import Record, pack, pack_error, unpack
from mlflow_proxy.mlflow_api.messages import StoredResponse
from mlflow_proxy.reading.store import Entry

# Header values as aiohttp gives them: bytes that are no UTF-8 are lone surrogates.
TEXTS = st.text(st.characters() | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF))
RECORDS = st.builds(
    Record,
    st.builds(
        StoredResponse,
        st.integers(100, 599),
        TEXTS,
        st.lists(st.tuples(TEXTS, TEXTS)).map(tuple),
        st.binary(),
    ),
    st.none() | TEXTS,
    st.none() | TEXTS,
    st.booleans(),
    st.floats(0, 2e9),
    st.floats(0, 1e6),
)


@given(RECORDS)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    assert unpack(pack(record)) == record


@pytest.mark.parametrize(
    "error", [BadGatewayError("gone"), TooLargeToShareError("8 MiB"), UnknownCodingError("in br")]
)
def test_an_error_that_is_everyones_comes_back(error: Exception) -> None:
    packed = pack_error(error)
    assert packed is not None
    with pytest.raises(type(error), match=str(error)):
        unpack(packed)


@pytest.mark.parametrize(
    "error", [OverBudgetError("late", 1), GatewayTimeoutError("late"), ValueError("bug")]
)
def test_an_error_of_ones_own_is_not_handed_on(error: Exception) -> None:
    assert pack_error(error) is None


@given(st.binary())
def test_anything_else_is_unreadable(data: bytes) -> None:
    with pytest.raises(UnreadableError):
        unpack(data)


@pytest.mark.parametrize(
    "head", [b"{}", b"[]", b"1", b'{"error": "other"}', b'{"error": []}', b'{"status": 200}']
)
def test_what_another_version_wrote_is_unreadable(head: bytes) -> None:
    with pytest.raises(UnreadableError):
        unpack(len(head).to_bytes(4, "big") + head)


@given(
    stored=st.floats(0, 1e6),
    lifetime=st.floats(0, 1e5),
    server=st.floats(0, 2e9),
    passed=st.floats(0, 1e5),
    there=st.floats(0, 1e6),
)
def test_an_entry_lives_as_long_elsewhere_whatever_the_clocks_say(
    stored: float, lifetime: float, server: float, passed: float, there: float
) -> None:
    response = StoredResponse(200, "OK", (), b"")
    entry = Entry(response, "m", "1", True, stored, stored + lifetime)
    found = Record.of(entry, server).entry(server + passed, there)
    assert there - found.stored_at == pytest.approx(passed, abs=1e-3)
    assert found.expires_at - found.stored_at == pytest.approx(lifetime, abs=1e-3)
    assert (found.response, found.model, found.version, found.survives_metadata_writes) == (
        response,
        "m",
        "1",
        True,
    )


LASTING = Record(StoredResponse(200, "OK", (), b""), None, None, False, stored_at=100.0, lifetime=10.0)


def test_clocks_that_go_unevenly_make_nothing_younger_than_now() -> None:
    assert LASTING.entry(99.5, 7.0).stored_at == 7.0


@pytest.mark.parametrize("server_now", [98.9, 50.0, -1e6])
def test_what_was_stored_in_the_future_is_of_unknown_age(server_now: float) -> None:
    with pytest.raises(UnreadableError, match="in the future"):
        LASTING.entry(server_now, 7.0)
