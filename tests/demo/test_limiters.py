"""The limiters, with times in multiples of 1/1024 s so that the arithmetic is exact."""

from collections.abc import Callable
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.demo.limiters import (
    LIMITERS,
    BatchReported,
    FixedWindow,
    Limiter,
    SlidingWindow,
    TokenBucket,
    make_limiter,
)

TICK = 1 / 1024

limits = st.integers(1, 8)
times = st.lists(st.integers(0, 700).map(lambda ticks: ticks * TICK), max_size=80).map(
    lambda gaps: list(accumulate(gaps))
)
limiters = st.sampled_from([SlidingWindow, FixedWindow, lambda limit: TokenBucket(limit, limit)])


def admitted(limiter: Limiter, arrivals: list[float]) -> list[float]:
    return [now for now in arrivals if limiter.admit(now) is None]


@given(limits, times)
def test_sliding_window_never_admits_more_than_its_limit_in_any_second(
    limit: int, arrivals: list[float]
) -> None:
    passed = admitted(SlidingWindow(limit), arrivals)
    assert all(later - earlier >= 1 for earlier, later in zip(passed, passed[limit:], strict=False))


@given(limits, times)
def test_fixed_window_never_admits_more_than_its_limit_between_two_seconds(
    limit: int, arrivals: list[float]
) -> None:
    seconds = [int(now) for now in admitted(FixedWindow(limit), arrivals)]
    assert all(seconds.count(second) <= limit for second in seconds)


@given(limits, limits, times)
def test_token_bucket_never_admits_more_than_capacity_and_refill(
    rate: int, capacity: int, arrivals: list[float]
) -> None:
    passed = admitted(TokenBucket(rate, capacity), arrivals)
    for index, first in enumerate(passed):
        for count, last in enumerate(passed[index:], start=1):
            assert count <= capacity + (last - first) * rate + 1e-6


@given(limiters, limits, times)
def test_a_refusal_tells_when_a_call_is_admitted(
    make: Callable[[int], Limiter], limit: int, arrivals: list[float]
) -> None:
    limiter = make(limit)
    for now in arrivals:
        wait = limiter.admit(now)
        if wait is not None:
            assert wait > 0
            assert limiter.admit(now + wait + TICK) is None
            return


@given(limiters, limits, st.integers(0, 50))
def test_refused_calls_consume_nothing(make: Callable[[int], Limiter], limit: int, refusals: int) -> None:
    limiter = make(limit)
    assert admitted(limiter, [0.0] * (limit + refusals)) == [0.0] * limit
    assert limiter.admit(1.0) is None


def test_the_limit_may_be_spent_at_once() -> None:
    for name in LIMITERS:
        most = 60 if name == "batch-reported" else 40  # which hears of them later
        assert len(admitted(make_limiter(name, 40), [0.5] * 60)) == most


def test_what_is_reported_late_is_paid_for_later() -> None:
    limiter = BatchReported(40, 40, period=0.5)
    assert admitted(limiter, [0.0] * 80) == [0.0] * 80
    # At 0.5 s the 80 become known: 40 are owed, and a second pays for them.
    assert limiter.admit(0.5) == 1.0
    assert limiter.admit(1.5 - TICK) is not None
    assert limiter.admit(1.5) is None


def test_windows_differ_around_a_boundary() -> None:
    burst = [0.75] * 40 + [1.0] * 40
    assert len(admitted(SlidingWindow(40), burst)) == 40
    assert len(admitted(FixedWindow(40), burst)) == 80
    assert len(admitted(TokenBucket(40, 40), burst)) == 50


def test_capacity_is_the_token_buckets() -> None:
    assert len(admitted(make_limiter("token-bucket", 40, capacity=10), [0.0] * 60)) == 10


def test_unknown_limiter_names_the_choice() -> None:
    with pytest.raises(ValueError, match="sliding, fixed, token-bucket"):
        make_limiter("leaky", 40)


def test_a_limit_is_positive() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make_limiter("sliding", 0)
