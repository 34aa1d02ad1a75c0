"""The proxy's own errors as clients get them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.errors import (
    AnswerableError,
    BadGatewayError,
    BadRequestError,
    ClientTimeoutError,
    ExpectationFailedError,
    FieldsTooLargeError,
    GatewayTimeoutError,
    NoSuchEndpointError,
    NotOfferedError,
    OverBudgetError,
    PermissionDeniedError,
    PostOnlyError,
    ReadOnlyError,
    TargetTooLongError,
    UnauthenticatedError,
)


@pytest.mark.parametrize(
    ("error", "status", "error_code"),
    [
        (AnswerableError("x"), 500, "INTERNAL_ERROR"),
        (BadRequestError("x"), 400, "INVALID_PARAMETER_VALUE"),
        (ClientTimeoutError("x"), 408, "DEADLINE_EXCEEDED"),
        (TargetTooLongError("x"), 414, "INVALID_PARAMETER_VALUE"),
        (ExpectationFailedError("x"), 417, "INVALID_PARAMETER_VALUE"),
        (FieldsTooLargeError("x"), 431, "INVALID_PARAMETER_VALUE"),
        (ReadOnlyError("x"), 405, "INVALID_PARAMETER_VALUE"),
        (UnauthenticatedError("x"), 401, "UNAUTHENTICATED"),
        (PermissionDeniedError("x"), 403, "PERMISSION_DENIED"),
        (NoSuchEndpointError("x"), 404, "ENDPOINT_NOT_FOUND"),
        (PostOnlyError("x"), 405, "INVALID_PARAMETER_VALUE"),
        (NotOfferedError("x"), 501, "NOT_IMPLEMENTED"),
        (OverBudgetError("x", 1.0), 429, "REQUEST_LIMIT_EXCEEDED"),
        (BadGatewayError("x"), 502, "TEMPORARILY_UNAVAILABLE"),
        (GatewayTimeoutError("x"), 504, "DEADLINE_EXCEEDED"),
    ],
)
def test_the_shape_of_the_api(error: AnswerableError, status: int, error_code: str) -> None:
    assert error.status == status
    assert json.loads(error.body()) == {"error_code": error_code, "message": "x"}


@given(st.text())
def test_any_message_is_json(message: str) -> None:
    assert json.loads(BadRequestError(message).body())["message"] == message


@given(st.floats(-1e6, 1e9))
def test_retry_after_is_an_integer_of_at_least_1_and_not_too_early(seconds: float) -> None:
    value = OverBudgetError("x", seconds).headers["Retry-After"]
    assert value.isascii()
    assert value.isdigit()
    assert int(value) >= max(1, seconds)
    assert int(value) < max(1, seconds) + 1


def test_other_headers() -> None:
    assert ReadOnlyError("x").headers == {"Allow": "GET, HEAD"}
    assert PostOnlyError("x").headers == {"Allow": "POST"}
    assert UnauthenticatedError("x").headers == {"WWW-Authenticate": 'Bearer realm="mlflow-proxy"'}
    assert BadRequestError("x").headers == {}
