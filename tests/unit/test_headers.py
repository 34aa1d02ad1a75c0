"""Which header fields cross the proxy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.mlflow_api import headers
from mlflow_proxy.mlflow_api.headers import HOP_BY_HOP, asks_for_fresh, end_to_end, without


def test_hop_by_hop_and_nominated_fields_stay_here() -> None:
    fields = [
        ("Accept", "a"),
        ("Connection", "close, X-One"),
        ("connection", "x-two"),
        ("X-One", "1"),
        ("x-TWO", "2"),
        ("Keep-Alive", "5"),
        ("Transfer-Encoding", "chunked"),
        ("Upgrade", "h2c"),
        ("Proxy-Authorization", "Basic a"),
        ("X-Three", "3"),
    ]
    assert end_to_end(fields) == [("Accept", "a"), ("X-Three", "3")]


def test_order_spelling_and_repetition_are_kept() -> None:
    fields = [("B", "1"), ("a", "2"), ("B", "3"), ("Set-Cookie", "x, y"), ("set-cookie", "z")]
    assert end_to_end(iter(fields)) == fields
    assert without(iter(fields), frozenset({"a"})) == [field for field in fields if field[0] != "a"]


def test_names_are_lower_case() -> None:
    assert all(name == name.lower() for name in HOP_BY_HOP)


@pytest.mark.parametrize(
    ("name", "value", "fresh"),
    [
        ("Cache-Control", "no-cache", True),
        ("cache-control", "max-age=0, No-Store", True),
        ("Pragma", "no-cache", True),
        ("Cache-Control", "max-age=60", False),
        ("X-Cache-Control", "no-cache", False),
    ],
)
def test_asking_for_fresh(name: str, value: str, fresh: bool) -> None:
    assert asks_for_fresh([("Accept", "a"), (name, value)]) is fresh


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("0", 0),
        ("17", 17),
        (" 17 ", 17),
        ("-1", 0),
        ("1.5", 0),
        ("\u0661", 0),
        ("9" * 20, 2**31),
        ("9" * 5000, 0),
    ],
)
def test_age(value: str | None, seconds: float) -> None:
    assert headers.age(value) == seconds


@pytest.mark.parametrize(
    ("value", "ours"),
    [
        ("mlflow-proxy; hit", True),
        ("mlflow-proxy", True),
        ("other; hit, mlflow-proxy; fwd=miss; stored", True),
        ("other; hit", False),
        ("other; detail=mlflow-proxy", False),
        ("mlflow-proxy-2; hit", False),
        ("", False),
    ],
)
def test_an_answer_by_a_proxy_of_this_kind(value: str, ours: bool) -> None:
    assert headers.from_proxy([("X", "mlflow-proxy"), ("cache-status", value)]) is ours


def test_the_first_field_of_a_name() -> None:
    fields = [("A", "1"), ("b", "2"), ("B", "3")]
    assert [headers.field(fields, name) for name in ("B", "b", "c")] == ["2", "2", ""]


def test_fields_for_storage() -> None:
    signed = [
        ("x-ms-version", "1"),
        ("X-Amz-Security-Token", "a/b+c=="),
        ("X-Tab", "a\tb"),
        ("X-Utf-8", "\u00fc"),
    ]
    unwanted = [
        ("AUTHORIZATION", "Bearer x"),
        ("cookie", "x"),
        ("Host", "x"),
        ("Content-Length", "1"),
        ("Connection", "X-Nominated"),
        ("X-Nominated", "1"),
        *((name, "x") for name in HOP_BY_HOP - {"connection"}),
    ]
    assert headers.for_storage([*unwanted, *signed]) == signed
    assert headers.for_storage([]) == []


@given(st.tuples(st.text(max_size=8), st.text(max_size=8)))
def test_what_goes_to_storage_is_one_field_on_one_line(field: tuple[str, str]) -> None:
    sent = headers.for_storage([field])
    if sent:
        assert sent == [field]
        line = f"{field[0]}: {field[1]}".encode()
        assert not set(line) & {0, 10, 13}
        assert line.partition(b":")[0] == field[0].encode()
