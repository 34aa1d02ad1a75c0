"""Headers that the parser lets through and the proxy does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.upstream.malformed import problem, reason_phrase

HTTP = (1, 1)


@pytest.mark.parametrize("status", [200, 204, 299, 304, 404, 503, 599, 600, 999])
@pytest.mark.parametrize("version", [(1, 0), (1, 1)])
def test_answers_as_they_should_be(status: int, version: tuple[int, int]) -> None:
    fields = [("Content-Length", "12"), ("x-!#$%&'*+.^_`|~9", "a\tb \u00fc\udcff"), ("X", "")]
    assert problem(status, version, fields) == ""
    assert problem(status, HTTP, [("Transfer-Encoding", "Chunked")]) == ""


@pytest.mark.parametrize(
    ("status", "version"), [(0, HTTP), (99, HTTP), (101, HTTP), (200, (2, 0)), (200, (0, 9)), (200, (1, 2))]
)
def test_status_and_version(status: int, version: tuple[int, int]) -> None:
    assert problem(status, version, [])


@pytest.mark.parametrize(
    "fields",
    [
        [("Content-Length ", "1")],
        [(" Content-Length", "1")],
        [("", "1")],
        [("X Y", "1")],
        [("X\u00fc", "1")],
        [("X\n", "1")],
        [("X:", "1")],
        [("X", "a\rSet-Cookie: b")],
        [("X", "a\nb")],
        [("X", "a\0b")],
        [("X", "a\x7f")],
        [("Content-Length", "-1")],
        [("Content-Length", "+1")],
        [("Content-Length", "1, 1")],
        [("Content-Length", "")],
        [("Content-Length", "\u00b2")],
        [("Content-Length", "0x1")],
        [("Content-Length", str(2**63))],
        [("Content-Length", str(2**64 - 1))],
        [("Content-Length", "9" * 10_000)],
        [("Content-Length", "0" * 20 + "9" * 20)],
        [("Content-Length", "1"), ("content-length", "1")],
        [("Content-Length", "1"), ("Transfer-Encoding", "chunked")],
        [("Transfer-Encoding", "chunked"), ("Content-Length", "1")],
        [("Transfer-Encoding", "gzip, chunked")],
        [("Transfer-Encoding", "gzip")],
        [("Transfer-Encoding", "xchunked")],
        [("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")],
    ],
)
def test_fields_that_another_reader_could_take_differently(fields: list[tuple[str, str]]) -> None:
    assert problem(200, HTTP, fields)


def test_chunks_are_no_part_of_http_1_0() -> None:
    assert problem(200, (1, 0), [("Transfer-Encoding", "chunked")])


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        (None, ""),
        ("", ""),
        ("Quite Good", "Quite Good"),
        ("caf\u00e9", "caf\u00e9"),
        ("a\0\x01\x7fb\udcff", "ab"),
    ],
)
def test_reasons(text: str | None, phrase: str) -> None:
    assert reason_phrase(text) == phrase


@given(st.text())
def test_a_reason_is_one_line_of_text(text: str) -> None:
    phrase = reason_phrase(text)
    assert len(f"HTTP/1.1 200 {phrase}".splitlines()) == 1
    assert phrase.encode().decode() == phrase
