"""What the fleet's secret keeps to itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.errors import UnreadableError
from mlflow_proxy.fleet.sealing import Sealing

ONE = Sealing("a secret of the whole fleet", "https://workspace.test")


@given(content=st.binary(), place=st.text())
def test_what_was_sealed_can_be_opened_in_its_place(content: bytes, place: str) -> None:
    assert ONE.open(ONE.seal(content, place), place) == content


@given(content=st.binary(), place=st.text(), other=st.text())
def test_and_nowhere_else(content: bytes, place: str, other: str) -> None:
    if place != other:
        with pytest.raises(UnreadableError):
            ONE.open(ONE.seal(content, place), other)


@given(content=st.binary(min_size=1), position=st.integers(min_value=0), bit=st.integers(0, 7))
def test_any_bit_that_was_changed_shows(content: bytes, position: int, bit: int) -> None:
    sealed = bytearray(ONE.seal(content, "place"))
    sealed[position % len(sealed)] ^= 1 << bit
    with pytest.raises(UnreadableError):
        ONE.open(bytes(sealed), "place")


@given(planted=st.binary())
def test_nothing_can_be_planted(planted: bytes) -> None:
    with pytest.raises(UnreadableError):
        ONE.open(planted, "place")


@pytest.mark.parametrize(
    "other",
    [
        Sealing("another secret", "https://workspace.test"),
        Sealing("a secret of the whole fleet", "https://other.test"),
    ],
)
def test_secrets_and_workspaces_have_nothing_in_common(other: Sealing) -> None:
    with pytest.raises(UnreadableError):
        other.open(ONE.seal(b"content", "place"), "place")
    assert other.name("read", "x") != ONE.name("read", "x")
    assert other.partition_key != ONE.partition_key
    assert other.fingerprint != ONE.fingerprint


def test_all_members_derive_the_same() -> None:
    same = Sealing("a secret of the whole fleet", "https://workspace.test")
    assert same.open(ONE.seal(b"content", "place"), "place") == b"content"
    assert same.name("read", "a", [["b", "c"]]) == ONE.name("read", "a", [["b", "c"]])
    assert (same.partition_key, same.fingerprint) == (ONE.partition_key, ONE.fingerprint)


def test_the_same_content_is_sealed_differently_each_time() -> None:
    assert ONE.seal(b"content", "place") != ONE.seal(b"content", "place")


@given(st.lists(st.text()), st.lists(st.text()))
def test_names_are_as_different_as_what_they_name(one: list[str], other: list[str]) -> None:
    assert (ONE.name(*one) == ONE.name(*other)) == (one == other)


def test_the_keys_are_independent() -> None:
    """So that a name or a fingerprint gives nothing else away."""
    assert ONE.partition_key[:8].hex() != ONE.fingerprint
