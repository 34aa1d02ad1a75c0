"""When a refused call is tried again."""

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.upstream.retry import (
    FIRST_BACKOFF,
    LONGEST_BACKOFF,
    backoff,
    repeatable_after_failure,
    retry_after_seconds,
    within_limits,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0),
        ("7", 7),
        (" 7 ", 7),
        ("0000000000007", 7),
        ("9" * 5000, 1e9),
        ("Sun, 01 Mar 2026 12:00:09 GMT", 9),
        ("Sun, 01 Mar 2026 11:59:00 GMT", 0),
        ("Sunday, 01-Mar-26 12:00:09 GMT", 9),
        ("Sun Mar  1 12:00:09 2026", 9),
        ("Sun, 01 Mar 2026 12:00:09 -0000", 9),
        ("-5", None),
        ("0.5", None),
        ("²", None),
        ("", None),
        ("soon", None),
        ("1, 2", None),
        ("Mon, 1 Jan 99999 00:00:00 GMT", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value, NOW) == seconds


@pytest.mark.usefixtures("_far_from_greenwich")
def test_dates_are_in_utc_wherever_the_proxy_runs() -> None:
    assert retry_after_seconds("Sun Mar  1 12:00:09 2026", NOW) == 9


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("Sun, 01 Mar 2026 12:00:09 GMT", "Sun, 01 Mar 2026 12:00:02 GMT", 7),
        ("Sun, 01 Mar 2026 11:50:09 GMT", "Sun, 01 Mar 2026 11:50:00 GMT", 9),
        ("Sun, 01 Mar 2026 12:00:09 GMT", "Sun, 01 Mar 2026 12:00:10 GMT", 0),
        ("Thu, 01 Jan 1970 00:00:09 GMT", "Thu, 01 Jan 1970 00:00:00 GMT", 9),
        ("Sun, 01 Mar 2026 12:00:09 GMT", None, 9),
        ("Sun, 01 Mar 2026 12:00:09 GMT", "", 9),
        ("Sun, 01 Mar 2026 12:00:09 GMT", "today", 9),
        ("7", "Sun, 01 Mar 2026 12:00:02 GMT", 7),
        ("soon", "Sun, 01 Mar 2026 12:00:02 GMT", None),
        (None, "Sun, 01 Mar 2026 12:00:02 GMT", None),
    ],
)
def test_a_date_counts_from_the_answers_own(value: str | None, date: str | None, seconds: float) -> None:
    assert retry_after_seconds(value, NOW, date) == seconds


@given(st.text(max_size=40), st.none() | st.text(max_size=40))
def test_no_value_is_too_strange(value: str, date: str | None) -> None:
    seconds = retry_after_seconds(value, NOW, date)
    assert seconds is None or 0 <= seconds < 1e12


@given(st.datetimes(datetime(2026, 3, 1), datetime(2090, 1, 1), timezones=st.just(UTC)))
def test_any_date(moment: datetime) -> None:
    moment = moment.replace(microsecond=0)
    expected = max(0.0, moment.timestamp() - NOW)
    assert retry_after_seconds(format_datetime(moment, usegmt=True), NOW) == expected


@pytest.mark.parametrize(
    ("method", "repeatable"),
    [
        ("GET", True),
        ("HEAD", True),
        ("OPTIONS", True),
        ("POST", False),
        ("PATCH", False),
        ("PUT", False),
        ("DELETE", False),
        ("get", False),
        ("BREW", False),
    ],
)
def test_only_what_changes_nothing_is_repeated_after_it_may_have_been_done(
    method: str, repeatable: bool
) -> None:
    assert repeatable_after_failure(method, read=False) == repeatable
    assert repeatable_after_failure(method, read=True)


jitters = st.floats(0, 1, exclude_max=True)


@given(st.integers(1, 10_000), jitters)
def test_backoff_is_bounded_and_does_not_shrink(attempt: int, jitter: float) -> None:
    delay = backoff(attempt, None, jitter)
    assert FIRST_BACKOFF <= delay <= LONGEST_BACKOFF
    assert delay <= backoff(attempt + 1, None, jitter)


def test_backoff_doubles() -> None:
    assert [backoff(attempt, None, 0.0) for attempt in range(1, 7)] == [0.5, 1, 2, 4, 4, 4]


@given(st.integers(1, 100), st.floats(0, 1e6), jitters)
def test_what_the_workspace_asks_for_is_honoured(attempt: int, asked: float, jitter: float) -> None:
    assert asked <= backoff(attempt, asked, jitter) <= asked + FIRST_BACKOFF


def test_calls_refused_together_do_not_return_together() -> None:
    assert [backoff(1, 2.0, jitter) for jitter in (0.0, 0.5)] == [2.0, 2.0 + FIRST_BACKOFF / 2]


@pytest.mark.parametrize(
    ("status", "expected"),
    [(200, True), (304, True), (400, True), (404, True)]
    + [(status, False) for status in (401, 403, 429, 500, 502, 503, 504)],
)
def test_only_an_answer_of_the_registry_itself_says_that_its_limits_had_room(
    status: int, expected: bool
) -> None:
    assert within_limits(status) is expected
