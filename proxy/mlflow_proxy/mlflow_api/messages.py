"""The two messages that travel the line: a request on its way up, a complete response on its way back."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Self

from mlflow_proxy.mlflow_api.headers import of_another_body
from mlflow_proxy.mlflow_api.response_heads import has_body, status_and_fields


class Client(NamedTuple):
    """Whose share of the budget a call takes: a credential's, and of a proxy behind this one its client's."""

    credential: str
    behalf: str = ""


NO_CLIENT = Client("")
"""The proxy itself."""


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """A request as the workspace will get it.

    ``target`` is the origin-form request target (RFC 9112 section 3.2.1), path and query as they came
    over the wire. ``headers`` are end-to-end fields in order, without ``Host``. ``client`` is its fairness
    key in the budget. A ``public`` request carries no credential.
    """

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""
    client: Client = NO_CLIENT
    public: bool = False


@dataclass(frozen=True)  # without slots, for what is computed once
class StoredResponse:
    """A complete response: what one flight brings back and what the cache keeps.

    ``headers`` are end-to-end fields in order, without ``Content-Length``; ``body`` is in no coding.
    """

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def with_body(self, body: bytes) -> Self:
        """Return the same response with another body, without what its fields say of the bytes of this."""
        return replace(self, headers=tuple(of_another_body(self.headers)), body=body)

    def header(self, name: str) -> str | None:
        """Return the first field of that lower-case name."""
        return next((value for field, value in self.headers if field.lower() == name), None)

    @cached_property
    def head(self) -> bytes:
        """The head that all clients get alike: without HTTP version, age, and the line that ends it.

        Raises ValueError for a control character in a field.
        """
        length = (("Content-Length", str(len(self.body))),) if has_body(self.status) else ()
        return status_and_fields(self.status, self.reason, (*self.headers, *length))

    @cached_property
    def dated(self) -> bool:
        """Whether the server said when it made the response."""
        return self.header("date") is not None
