"""The circuit breaker: when it opens, how it finds out that the way is free, and what callers are told."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.upstream import circuit_breaker
from mlflow_proxy.upstream.circuit_breaker import (
    FAILURES,
    FIRST_PROBE,
    LEAST_RETRY_AFTER,
    LONGEST_PROBE,
    MOST_RETRY_AFTER,
    PROBE_PATIENCE,
    SPAN,
    WINDOW,
    CircuitBreaker,
    Circuits,
    Leave,
    Permit,
    Said,
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


# -- the way and the endpoints ---------------------------------------------------------------------

MINUTE = [number / 2 for number in range(120)]
LATER = SPAN + LONGEST_PROBE


def leave(circuits: Circuits, endpoint: str | None, now: float) -> Leave:
    given = circuits.admit(endpoint, now)
    assert isinstance(given, Leave), f"{endpoint} is refused at {now}"
    return given


def fail(circuits: Circuits, endpoint: str | None, moments: list[float]) -> None:
    """Let the workspace answer 503 to all calls of an endpoint that are let through."""
    for moment in moments:
        given = circuits.admit(endpoint, moment)
        if isinstance(given, Leave):
            circuits.answered(given, Said.FAILED, moment, 0.0)


def failing(*endpoints: str) -> Circuits:
    """Return circuits of a workspace that has answered 503 to calls of some endpoints until 0."""
    circuits = Circuits()
    for endpoint in endpoints:
        fail(circuits, endpoint, [-SPAN, -1.0, -0.5, 0.0, 0.0])
    return circuits


def test_failing_answers_of_one_endpoint_refuse_that_one_only() -> None:
    circuits = Circuits()
    fail(circuits, "gateway", MINUTE)
    assert circuits.state is State.OPEN
    assert not isinstance(circuits.admit("gateway", MINUTE[-1]), Leave)
    for endpoint in ("runs/create", "runs/search", None):
        assert circuits.refusing(endpoint, MINUTE[-1]) is None
        leave(circuits, endpoint, MINUTE[-1])
    assert not circuits.refuses_all(MINUTE[-1])


def test_failing_answers_of_no_endpoint_refuse_nothing() -> None:
    circuits = Circuits()
    fail(circuits, None, MINUTE)
    assert circuits.state is State.CLOSED


def test_failing_answers_do_not_count_while_anything_succeeds() -> None:
    circuits = Circuits()
    for moment in MINUTE:
        circuits.answered(leave(circuits, "signing", moment), Said.FAILED, moment, 0.0)
        circuits.answered(leave(circuits, "signing", moment), Said.FAILED, moment, 0.0)
        circuits.answered(leave(circuits, None, moment), Said.SUCCEEDED, moment, 0.0)
    assert circuits.state is State.CLOSED


def test_a_workspace_that_refuses_everything_is_called_for_probes_only() -> None:
    circuits, calls = failing("a", "b"), 0
    for moment in MINUTE:
        for endpoint in ("a", "b"):
            given = circuits.admit(endpoint, moment)
            if isinstance(given, Leave):
                calls += 1
                circuits.answered(given, Said.FAILED, moment, 0.999)
    assert 2 * len(MINUTE) / 2 / LONGEST_PROBE <= calls <= 2 * (len(MINUTE) / 2 / LONGEST_PROBE + 4)
    assert failing("a", "b").refuses_all(0.0)


def test_a_success_elsewhere_closes_the_circuits_of_endpoints() -> None:
    circuits = failing("a", "b")
    assert circuits.answered(leave(circuits, "c", 0.1), Said.SUCCEEDED, 0.2, 0.0)
    assert leave(circuits, "a", 0.2)
    assert leave(circuits, "b", 0.2)


def test_a_success_of_a_call_from_before_does_not() -> None:
    circuits = Circuits()
    before = leave(circuits, "c", -10.0)
    fail(circuits, "a", [-SPAN, -1.0, -0.5, 0.0, 0.0])
    assert not circuits.answered(before, Said.SUCCEEDED, 0.1, 0.0)
    assert circuits.refusing("a", 0.1)


def test_calls_without_an_answer_refuse_all() -> None:
    circuits = Circuits()
    for number, endpoint in enumerate(("a", "b", None, "c", "d")):
        moment = number * SPAN / (FAILURES - 1)
        opened_it = circuits.unanswered(leave(circuits, endpoint, moment), moment, 0.0)
        assert opened_it == (number == FAILURES - 1)
    assert circuits.refuses_all(SPAN)
    for endpoint in ("a", "e", None):
        assert not isinstance(circuits.admit(endpoint, SPAN), Leave)


@pytest.mark.parametrize("said", Said)
def test_any_answer_says_that_the_way_is_free(said: Said) -> None:
    circuits = Circuits()
    for moment in (0.0, 0.5, 1.0, 1.5, SPAN):
        circuits.unanswered(leave(circuits, "a", moment), moment, 0.0)
    assert circuits.refusing(None, SPAN)
    assert circuits.answered(leave(circuits, "a", LATER), said, LATER, 0.0)
    assert circuits.state is State.CLOSED


def test_the_probe_of_the_way_is_not_spent_on_an_endpoint_that_is_refused() -> None:
    circuits = failing("a")
    for moment in (0.5, 1.0, 1.5, 2.0):
        circuits.unanswered(leave(circuits, "b", moment), moment, 0.0)
    slow = leave(circuits, "a", 2.0)  # the endpoint's probe, which is out while the way's circuit opens
    assert circuits.unanswered(leave(circuits, "b", 2.5), 2.5, 0.0)
    due = 2.5 + FIRST_PROBE
    assert not isinstance(circuits.admit("a", due), Leave)
    assert circuits.answered(leave(circuits, "b", due), Said.FAILED, due, 0.0)
    assert slow.endpoint is not None
    assert slow.endpoint.probe


ENDPOINTS = st.sampled_from(["a", "b", "c", None])
ENDS = st.sampled_from([*Said, "unanswered", "gave up"])


@given(st.lists(st.tuples(st.floats(0, 3), ENDPOINTS, ENDS, st.floats(0, 0.999)), max_size=200))
def test_only_what_failed_since_the_last_success_is_refused(
    steps: list[tuple[float, str | None, Said | str, float]],
) -> None:
    circuits, now = Circuits(), 0.0
    failed: dict[str, int] = {}
    unanswered = 0
    for passed, endpoint, end, jitter in steps:
        now += passed
        given = circuits.admit(endpoint, now)
        if not isinstance(given, Leave):
            refused = 0 if endpoint is None else failed.get(endpoint, 0)
            assert refused >= FAILURES or unanswered >= FAILURES
            continue
        if end == "unanswered":
            circuits.unanswered(given, now, jitter)
            unanswered += 1
        elif end == "gave up":
            circuits.gave_up(given, now)
        else:
            said = Said(end)
            circuits.answered(given, said, now, jitter)
            unanswered = 0
            if said is Said.SUCCEEDED:
                failed.clear()
                assert circuits.state is State.CLOSED
            elif said is Said.FAILED and endpoint is not None:
                failed[endpoint] = failed.get(endpoint, 0) + 1
        assert not circuits.refuses_all(now) or unanswered or len(failed) > 1
        for each in ("a", "b", "c", None):
            assert circuits.refusing(each, now + PROBE_PATIENCE) is None
