"""The errors of the proxy's own: one small tree.

Foreign exceptions are turned into these at the edge where they arise (``upstream/``, ``settings``).
Those that reach a client do so in the shape of the API's own errors.
"""

import json
import math
from collections.abc import Hashable, Mapping
from typing import ClassVar


class MlflowProxyError(Exception):
    """Everything this package raises on purpose."""


class InvalidSettingsError(MlflowProxyError):
    """A setting is missing or wrong; the message is one line that names it and the remedy."""


class AnswerableError(MlflowProxyError):
    """An error with an answer for the client that caused or met it.

    ``error_code`` matters as much as ``status``: clients that go through the Databricks SDK rebuild the
    status from it, and one that they do not know becomes 500.
    """

    status = 500
    error_code = "INTERNAL_ERROR"
    fields: ClassVar[Mapping[str, str]] = {}
    """Header fields that every such answer has."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Header fields of this answer."""
        return self.fields

    def body(self) -> bytes:
        """Return the API's JSON error."""
        return json.dumps({"error_code": self.error_code, "message": str(self)}).encode()


class RetryLaterError(AnswerableError):
    """An error that will be over, in about ``retry_after`` seconds (RFC 9110 section 10.2.3)."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = max(1, math.ceil(retry_after))
        """Whole seconds, at least 1: urllib3 raises on a fraction, the Databricks SDK parses an int."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Tell the client when it is worth coming back."""
        return {"Retry-After": str(self.retry_after)}


class BadRequestError(AnswerableError):
    """The request cannot be meant for the one workspace behind this proxy, or is malformed."""

    status = 400
    error_code = "INVALID_PARAMETER_VALUE"


class ClientTimeoutError(AnswerableError):
    """The client did not send the rest of its request in time; the message names the limit."""

    status = 408
    error_code = "DEADLINE_EXCEEDED"


class TargetTooLongError(AnswerableError):
    """A request's target is longer than what is read of one; the message names the limit."""

    status = 414
    error_code = "INVALID_PARAMETER_VALUE"


class ExpectationFailedError(AnswerableError):
    """The request expects something other than 100-continue (RFC 9110 section 10.1.1)."""

    status = 417
    error_code = "INVALID_PARAMETER_VALUE"


class FieldsTooLargeError(AnswerableError):
    """A request's fields are too large or too many; the message names the limit (RFC 6585 section 5)."""

    status = 431
    error_code = "INVALID_PARAMETER_VALUE"


class UnauthenticatedError(AnswerableError):
    """A client that the proxy itself has to know is not known to it."""

    status = 401
    error_code = "UNAUTHENTICATED"
    fields: ClassVar = {"WWW-Authenticate": 'Bearer realm="mlflow-proxy"'}
    """A 401 names its scheme (RFC 9110 section 15.5.2, RFC 6750 section 3)."""


class CredentialUnavailableError(AnswerableError):
    """The proxy has no credential for the workspace at the moment. Nothing was asked of it."""

    status = 503
    error_code = "TEMPORARILY_UNAVAILABLE"


class CredentialRefusedError(AnswerableError):
    """The workspace refuses the proxy's own credential; not 401, since the client's credential is valid."""

    status = 502
    error_code = "TEMPORARILY_UNAVAILABLE"


class MethodNotAllowedError(AnswerableError):
    """The path is known, but not with this method; ``Allow`` names others (RFC 9110 section 15.5.6)."""

    status = 405
    error_code = "INVALID_PARAMETER_VALUE"


class ReadOnlyError(MethodNotAllowedError):
    """A write to the files that the proxy serves from the model registry."""

    fields: ClassVar = {"Allow": "GET, HEAD"}


class PermissionDeniedError(AnswerableError):
    """The request is understood and refused, whatever credential it brings."""

    status = 403
    error_code = "PERMISSION_DENIED"


class NoSuchEndpointError(AnswerableError):
    """There is nothing at this path."""

    status = 404
    error_code = "ENDPOINT_NOT_FOUND"


class PostOnlyError(MethodNotAllowedError):
    """A command that was not sent as one."""

    fields: ClassVar = {"Allow": "POST"}


class NotOfferedError(AnswerableError):
    """An optional part of the API is not offered; clients do without it after a 501."""

    status = 501
    error_code = "NOT_IMPLEMENTED"


class FileNotThereError(AnswerableError):
    """Storage has no file where the workspace says that it is."""

    status = 404
    error_code = "RESOURCE_DOES_NOT_EXIST"


class UnusableNameError(AnswerableError):
    """A file's name is such that no client can have it; the message names it.

    It will not get better: of all errors this is one that clients do not repeat.
    """

    status = 409
    error_code = "RESOURCE_CONFLICT"


class AmbiguousNameError(UnusableNameError):
    """A request may be for more than one file; the message names them."""


class OverBudgetError(RetryLaterError):
    """The workspace's budget has no place for this call within the client's patience."""

    status = 429
    error_code = "REQUEST_LIMIT_EXCEEDED"


class RefusedAloneError(MlflowProxyError):
    """The workspace refuses one client again and again, with 429, while it answers the others.

    Raised in every caller that waits for a call with this client's credential, so that each asks with its
    own. ``client`` is the client's fairness key.
    """

    def __init__(self, client: Hashable) -> None:
        super().__init__("the workspace refuses the client that asked for all")
        self.client = client


class BadGatewayError(AnswerableError):
    """The workspace or its storage could not be reached, or broke off before it answered.

    A client may not know whether its request was carried out.
    """

    status = 502
    error_code = "TEMPORARILY_UNAVAILABLE"


class ConnectionEndedError(BadGatewayError):
    """A connection that had been used before ended instead of bringing an answer.

    Servers close connections that have been idle. ``unread`` is whether the server provably closed it before
    it received any byte of the request, which was then not carried out.
    """

    def __init__(self, message: str, *, unread: bool) -> None:
        super().__init__(message)
        self.unread = unread


class RefusedDestinationError(BadGatewayError):
    """The workspace names a place for a file that the proxy does not ask. Nothing was connected to."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The place that the workspace names for this file was not asked: {reason}.")
        self.reason = reason


class RefusedRedirectError(BadGatewayError):
    """Storage redirects to a place that the proxy does not ask. Nothing there was connected to."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The place that storage redirects to for this file was not asked: {reason}.")


class GatewayTimeoutError(AnswerableError):
    """The workspace or its storage did not answer in time."""

    status = 504
    error_code = "DEADLINE_EXCEEDED"


class ServiceUnavailableError(RetryLaterError):
    """A read failed, or a call was not tried: it may be repeated, and the Databricks SDK repeats only 503."""

    status = 503
    error_code = "TEMPORARILY_UNAVAILABLE"


class OverloadedError(AnswerableError):
    """So much is going on that there is no room for this; the message names the limit."""

    status = 503
    error_code = "TEMPORARILY_UNAVAILABLE"
    fields: ClassVar = {"Retry-After": "2"}


class StoppingError(AnswerableError):
    """The proxy is stopping and could not answer in time; nothing was answered yet."""

    status = 503
    error_code = "TEMPORARILY_UNAVAILABLE"
    fields: ClassVar = {"Retry-After": "1"}
    """By then another proxy may be there."""


class FleetUnavailableError(MlflowProxyError):
    """Redis, which the proxies of a fleet share, could not be reached or answered with an error."""


class UnreadableError(MlflowProxyError):
    """What was read is not what should be there: in Redis, of a member of this fleet; in a file, its form."""


class TruncatedError(MlflowProxyError):
    """A response broke off in the middle of its body. The client's connection must be aborted."""


class NotShareableError(MlflowProxyError):
    """A response cannot be buffered and shared; each caller has to stream its own."""


class TooLargeToShareError(NotShareableError):
    """A response is larger than what the cache may hold."""


class UnknownCodingError(NotShareableError):
    """A response is in a content coding that was not asked for."""
