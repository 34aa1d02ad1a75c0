"""The circuit breaker: when it opens, how it finds out that the way is free, and what callers are told."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.upstream import circuit_breaker
from proxy.upstream.circuit_breaker import (
    FAILURES,
    FIRST_PROBE,
    LEAST_RETRY_AFTER,
    LONGEST_PROBE,
    MOST_RETRY_AFTER,
    PROBE_PATIENCE,
    SPAN,
    WINDOW,
    CircuitBreaker,
    Permit,
    State,
)


def state(circuit: CircuitBreaker) -> State:
    return circuit.state


def admitted(circuit: CircuitBreaker, now: float) -> Permit:
    permit = circuit.admit(now)
    assert permit is not None
    return permit


def opened(now: float = 0.0) -> CircuitBreaker:
    """Return a circuit that opened at ``now``, with the shortest interval to its first probe."""
    circuit = CircuitBreaker()
    for failure in range(FAILURES):
        moment = now - SPAN * (1 - failure / (FAILURES - 1))
        assert state(circuit) is State.CLOSED
        circuit.failed(admitted(circuit, moment), moment, 0.0)
    assert state(circuit) is State.OPEN
    return circuit


def test_it_opens_after_consecutive_failures_only() -> None:
    circuit = CircuitBreaker()
    for moment in range(100):
        permit = admitted(circuit, moment)
        if moment % FAILURES == FAILURES - 1:
            circuit.succeeded(permit)
        else:
            circuit.failed(permit, moment, 0.0)
    assert state(circuit) is State.CLOSED


def test_what_is_over_soon_does_not_open_it() -> None:
    circuit = CircuitBreaker()
    for _ in range(100):
        assert not circuit.failed(admitted(circuit, 0.0), SPAN * 0.99, 0.0)
    assert circuit.failed(admitted(circuit, 0.0), SPAN * 1.99, 0.0)


def test_failures_of_long_ago_do_not_count() -> None:
    circuit = CircuitBreaker()
    for number in range(FAILURES * 3):
        moment = number * (WINDOW + 1)
        assert not circuit.failed(admitted(circuit, moment), moment, 0.0)


def test_one_probe_at_a_time_and_an_answer_closes_it() -> None:
    circuit = opened()
    assert circuit.admit(FIRST_PROBE / 2 - 0.01) is None
    probe = admitted(circuit, FIRST_PROBE / 2)
    assert state(circuit) is State.HALF_OPEN
    assert circuit.refuses(FIRST_PROBE)
    assert circuit.admit(FIRST_PROBE) is None
    assert circuit.succeeded(probe)
    assert state(circuit) is State.CLOSED
    assert admitted(circuit, FIRST_PROBE)


@pytest.mark.parametrize("jitter", [0.0, 0.999])
def test_probes_come_at_growing_intervals(jitter: float) -> None:
    circuit, now, intervals = opened(), 0.0, []
    for _ in range(8):
        while (probe := circuit.admit(now)) is None:
            now += 0.001
        intervals.append(now)
        circuit.failed(probe, now, jitter)
        now += 0.001
    gaps = [later - earlier for earlier, later in pairwise(intervals)]
    share = (1 + jitter) / 2
    expected = [min(LONGEST_PROBE, FIRST_PROBE * 2 ** (number + 1)) * share for number in range(len(gaps))]
    assert gaps == pytest.approx(expected, abs=0.01)


def test_a_probe_that_hears_nothing_does_not_lock_everyone_out() -> None:
    circuit = opened()
    slow = admitted(circuit, 1.0)
    assert circuit.admit(1.0 + PROBE_PATIENCE - 0.01) is None
    second = admitted(circuit, 1.0 + PROBE_PATIENCE)
    circuit.failed(slow, 12.0, 0.0)
    assert state(circuit) is State.HALF_OPEN, "the second is still out"
    assert circuit.succeeded(slow) or circuit.succeeded(second)
    assert state(circuit) is State.CLOSED


def test_a_probe_that_nobody_waits_for_any_more_makes_room() -> None:
    circuit = opened()
    circuit.gave_up(admitted(circuit, 1.0), 1.5)
    assert state(circuit) is State.OPEN
    assert admitted(circuit, 1.5)


def test_calls_from_before_do_not_count() -> None:
    circuit = CircuitBreaker()
    before = admitted(circuit, -10.0)
    for moment in (-SPAN, 0.0, 0.0, 0.0, 0.0):
        circuit.failed(admitted(circuit, moment), moment, 0.0)
    assert state(circuit) is State.OPEN
    assert not circuit.succeeded(before)
    assert state(circuit) is State.OPEN
    probe = admitted(circuit, 1.0)
    circuit.succeeded(probe)
    for moment in (2.0, 5.0, 6.0, 7.0, 8.0, 9.0):
        assert not circuit.failed(before, moment, 0.0)
        assert not circuit.failed(probe, moment, 0.0)
    assert state(circuit) is State.CLOSED


@pytest.mark.parametrize(("lasted", "told"), [(0.0, 2.0), (8.0, 10.0), (100.0, 30.0)])
def test_a_refused_caller_waits_as_long_again_as_it_has_lasted(lasted: float, told: float) -> None:
    assert opened().retry_after(lasted, 0.0) == told
    assert opened().retry_after(lasted, 0.999) == pytest.approx(told * 1.25, rel=0.01)


ACTIONS = st.sampled_from(["call", "success", "failure", "gave up"])


@given(st.lists(st.tuples(st.floats(0, 8), ACTIONS, st.integers(0, 100), st.floats(0, 0.999)), max_size=200))
def test_whatever_happens(steps: list[tuple[float, str, int, float]]) -> None:
    circuit, now = CircuitBreaker(), 0.0
    out: list[Permit] = []
    issued: list[Permit] = []
    probes: dict[Permit, float] = {}
    in_a_row = 0
    for passed, action, which, jitter in steps:
        now += passed
        was_open = state(circuit) is not State.CLOSED
        if action == "call":
            permit = circuit.admit(now)
            assert permit is not None or was_open, "a closed circuit refuses nobody"
            if permit is not None:
                out.append(permit)
                issued.append(permit)
                assert permit.probe is was_open
                if permit.probe:
                    young = [each for each, sent in probes.items() if now - sent < PROBE_PATIENCE]
                    assert not young, "one probe at a time"
                    probes[permit] = now
        elif out:
            permit = out.pop(which % len(out))
            probes.pop(permit, None)
            newest = permit.outage == max(each.outage for each in issued)
            if action == "success":
                closed = circuit.succeeded(permit)
                assert closed == (was_open and state(circuit) is State.CLOSED)
                assert not closed or permit.probe
                in_a_row = 0 if newest and not was_open else in_a_row
            elif action == "failure":
                in_a_row += 1
                if circuit.failed(permit, now, jitter):
                    assert in_a_row >= FAILURES
                    assert not was_open
            else:
                circuit.gave_up(permit, now)
        if was_open and state(circuit) is State.CLOSED:
            probes.clear()
            in_a_row = 0
        least, most = LEAST_RETRY_AFTER, MOST_RETRY_AFTER * 1.25
        assert least <= circuit.retry_after(now, jitter) <= most
        # However it stands, someone gets through before long.
        assert not circuit.refuses(now + max(LONGEST_PROBE, PROBE_PATIENCE))


def test_the_numbers_fit_together() -> None:
    assert LONGEST_PROBE < circuit_breaker.PROBE_PATIENCE < WINDOW
