"""Which errors the circuits are told of."""

import itertools

import pytest

from mlflow_proxy.errors import BadGatewayError, ConnectionEndedError
from mlflow_proxy.upstream.circuit import Circuit
from mlflow_proxy.upstream.circuit_breaker import FAILURES, State


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (BadGatewayError("no answer"), State.OPEN),
        (ConnectionEndedError("an idle connection", unread=False), State.CLOSED),
    ],
)
def test_an_idle_connection_that_ends_is_no_failure_of_the_way(
    error: BadGatewayError, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = itertools.count(1.0)
    monkeypatch.setattr("mlflow_proxy.upstream.circuit.time.monotonic", lambda: next(now))
    circuit = Circuit()
    for _ in range(FAILURES):
        with pytest.raises(BadGatewayError), circuit.through(None, telling=True):
            raise error
    assert circuit.state is state
