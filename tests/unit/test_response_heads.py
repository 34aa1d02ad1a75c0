"""The head of a response as bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.mlflow_api.messages import StoredResponse
from mlflow_proxy.mlflow_api.response_heads import complete, has_body, status_and_fields
from mlflow_proxy.outcome import Outcome


def test_a_head_has_its_fields_in_order() -> None:
    fields = (("B", "1"), ("a", "2"), ("B", "3"))
    assert status_and_fields(200, "OK", fields) == b"200 OK\r\nB: 1\r\na: 2\r\nB: 3\r\n"


@pytest.mark.parametrize("odd", ["\r", "\n", "\0", "\x7f", "a\r\nSet-Cookie: b"])
@pytest.mark.parametrize("place", ["reason", "name", "value"])
def test_nothing_begins_another_field(odd: str, place: str) -> None:
    reason, name, value = (odd if place == each else "a" for each in ("reason", "name", "value"))
    with pytest.raises(ValueError, match="control character"):
        status_and_fields(200, reason, ((name, value),))


@given(st.text())
def test_a_value_is_refused_or_stays_one_line(value: str) -> None:
    try:
        head = status_and_fields(200, "OK", (("A", value),))
    except ValueError:
        return
    assert head.count(b"\r\n") == head.count(b"\n") == head.count(b"\r") == 2


def test_bytes_that_were_not_decoded_are_left_out() -> None:
    assert status_and_fields(200, "OK", (("A", "b\udcffc"),)) == b"200 OK\r\nA: bc\r\n"


@pytest.mark.parametrize(("minor", "last"), [(1, False), (1, True), (0, False), (0, True)])
def test_what_a_version_says_by_itself_is_not_said(minor: int, last: bool) -> None:
    head = complete(b"200 OK\r\n", Outcome.MISS, None, None, date=None, minor=minor, last=last)
    said = {(1, True): b"Connection: close\r\n", (0, False): b"Connection: keep-alive\r\n"}
    expected = b"200 OK\r\nCache-Status: mlflow-proxy; fwd=miss\r\n" + said.get((minor, last), b"") + b"\r\n"
    assert head == b"HTTP/1.%d " % minor + expected


@pytest.mark.parametrize("status", [101, 204, 304])
def test_some_statuses_have_neither_body_nor_length(status: int) -> None:
    assert not has_body(status)
    assert b"Content-Length" not in StoredResponse(status, "", (), b"").head


def test_what_was_stored_says_how_old_it_is() -> None:
    hit = complete(b"", Outcome.HIT, 3.9, 7.9, date=None)
    assert hit == b"HTTP/1.1 Age: 3\r\nCache-Status: mlflow-proxy; hit; ttl=7\r\n\r\n"
    assert complete(b"", Outcome.STALE, 3.0, -0.5, date=None).endswith(b"ttl=-1\r\n\r\n")
    miss = complete(b"", Outcome.MISS, None, None, date=None)
    assert miss == b"HTTP/1.1 Cache-Status: mlflow-proxy; fwd=miss\r\n\r\n"


def test_a_date_is_that_of_http_and_a_coding_that_of_the_body() -> None:
    head = complete(b"", Outcome.MISS, None, None, date=784111777.9, chunked=True)
    assert head.endswith(b"\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nTransfer-Encoding: chunked\r\n\r\n")


def test_a_response_is_dated_by_its_server() -> None:
    assert StoredResponse(200, "OK", (("date", "then"),), b"").dated
    assert not StoredResponse(200, "OK", (), b"").dated
