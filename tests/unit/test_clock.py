"""Time passes by whichever clock says more, and never goes back."""

import threading
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.clock import LEAP, Clock
from tests.machine import Hands

EXACT = 1e-3
"""Seconds: what floats lose in moments as far apart as these."""


PASSED = st.floats(0, 1e5) | st.floats(0, 3)
SET = st.just(0.0) | st.floats(-1e5, 1e5) | st.floats(-3, 3)
"""What the wall clock differs by from the monotonic one: it is set, or the machine slept."""


@given(st.lists(st.tuples(PASSED, SET), max_size=30))
def test_what_passes_is_what_either_clock_says(steps: list[tuple[float, float]]) -> None:
    hands = Hands()
    clock = hands.clock()
    looks = [(hands.monotonic, hands.wall, clock.now(), clock.latest_unix(), clock.leapt())]
    for passed, set_by in steps:
        hands.go(passed, passed + set_by)
        looks.append((hands.monotonic, hands.wall, clock.now(), clock.latest_unix(), clock.leapt()))
    for before, after in pairwise(looks):
        assert after[2] >= before[2]
        assert after[3] >= before[3] - LEAP - EXACT
        assert after[4] >= before[4]
    for index, (monotonic, wall, now, unix, leapt) in enumerate(looks):
        assert unix >= wall
        assert now == pytest.approx(monotonic + leapt, abs=EXACT)
        for earlier in looks[:index]:
            assert now - earlier[2] >= monotonic - earlier[0] - EXACT
            assert now - earlier[2] >= wall - earlier[1] - LEAP - EXACT


@given(st.lists(PASSED, max_size=30), st.floats(0, LEAP / 2), st.randoms(use_true_random=False))
def test_clocks_that_are_read_unevenly_make_nothing_old(
    steps: list[float], unevenly: float, random: Random
) -> None:
    hands = Hands()
    uneven = 0.0
    clock = Clock(lambda: hands.monotonic, lambda: hands.wall + uneven)
    for passed in steps:
        hands.go(passed, passed)
        uneven = random.uniform(-unevenly, unevenly)
        assert clock.now() == hands.monotonic
    assert clock.leapt() == 0.0


def test_a_sleep_passes_once() -> None:
    hands = Hands()
    clock = hands.clock()
    began = clock.now()
    hands.go(1, 1 + 1200)
    assert [clock.now() - began for _ in range(3)] == [pytest.approx(1201)] * 3
    hands.go(2, 2)
    assert clock.now() - began == pytest.approx(1203)
    assert clock.leapt() == pytest.approx(1200)


def test_a_step_back_changes_nothing_and_its_return_ends_things_early() -> None:
    hands = Hands()
    clock = hands.clock()
    began = clock.now()
    hands.go(1, -3600)
    assert clock.now() - began == pytest.approx(1)
    assert clock.latest_unix() == pytest.approx(1.7e9 + 1)
    hands.go(1, 1)
    assert clock.now() - began == pytest.approx(2)
    hands.go(1, 1 + 3601)
    assert clock.now() - began == pytest.approx(3 + 3601)


def test_a_sleep_after_a_step_back_passes() -> None:
    hands = Hands()
    clock = hands.clock()
    began = clock.now()
    hands.go(0, -3600)
    clock.now()
    hands.go(0, 1200)
    assert clock.now() - began == pytest.approx(1200)


@pytest.mark.parametrize("ahead", [0.0005, -0.0005])
def test_a_wall_clock_that_goes_unevenly_is_followed_when_it_is_fast(ahead: float) -> None:
    hands = Hands()
    clock = hands.clock()
    began, day = clock.now(), 86_400
    for _ in range(day):
        hands.go(1, 1 + ahead)
        clock.now()
    passed = clock.now() - began
    assert day * (1 + max(0.0, ahead)) - LEAP <= passed <= day * (1 + max(0.0, ahead)) + EXACT


def test_threads_that_see_a_leap_at_once_count_it_once() -> None:
    hands = Hands()
    together = threading.Barrier(8)
    meeting = False

    def wall() -> float:
        read = hands.wall
        if meeting:
            together.wait()  # all have read it before any goes on
        return read

    clock = Clock(lambda: hands.monotonic, wall)
    began = clock.now()
    hands.go(0, 1200)
    meeting = True
    found: list[float] = []
    threads = [threading.Thread(target=lambda: found.append(clock.now())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [began + 1200] * 8
