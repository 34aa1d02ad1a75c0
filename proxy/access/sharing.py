"""How clients and the workspace know each other: one object for each value of ``access.sharing``.

What belongs here: the questions that the line asks of it, with the answers of ``credential`` and ``proven``,
where clients bring the workspace's own credentials and the workspace checks them.
"""

from collections.abc import Mapping

from proxy.access.partition import PUBLIC, common_partition, partition
from proxy.mlflow_api.headers import CLIENT, Fields, field
from proxy.mlflow_api.messages import UpstreamRequest
from proxy.mlflow_api.routes import Freshness, Route


class Access:
    """Clients' credentials go to the workspace as they are, and an answer is its credential's own.

    ``key`` is what credentials are hashed with: up to 64 random bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    async def admit(self, route: Route, target: str, headers: Fields) -> str:
        """Let a client in, whose name for the logs is returned: empty if it has none.

        ``target`` is the raw request target, ``headers`` are the request's fields. Raises AnswerableError.
        """
        return ""

    def partition(self, route: Route, headers: Fields) -> str:
        """Name whose stored answers a request may be served from. The request has been admitted."""
        return PUBLIC if route.freshness is Freshness.DISCOVERY else partition(headers, self._key)

    def common(self, headers: Fields, created: int) -> str:
        """Name the answers that those share who have proven that they may read what they are about.

        ``created`` is when that model was: another one of the same name has answers of its own.
        """
        return f"{common_partition(headers, self._key)}-{created}"

    def owns(self, partition: str) -> bool:
        """Whether what was fetched just now is what this partition's credential is answered."""
        return True

    def client(self, partition: str, headers: Fields) -> str:
        """Name whose share of the budget a request takes, before a colon; after it, for whom it is asked.

        ``partition`` is the request's own.
        """
        return f"{partition}:{field(headers, CLIENT)}"

    async def upstream_headers(self, request: UpstreamRequest) -> tuple[tuple[str, str], ...]:
        """Return the fields that the workspace gets for a request. Raises AnswerableError."""
        return request.headers

    async def renewed(
        self, request: UpstreamRequest, sent: Fields, status: int, answer: Fields, *, repeatable: bool
    ) -> bool:
        """Whether a call that the workspace refused (401, 403) is to be made again, with another credential.

        ``sent`` are the fields it was made with, ``answer`` those that came back. Raises AnswerableError if
        the client is not to blame.
        """
        return False

    def returned(self, fields: Fields) -> Fields:
        """Return the fields that a client gets of an answer that is passed through."""
        return fields

    async def close(self) -> None:
        """Stop what goes on in the background."""

    def condition(self) -> Mapping[str, object]:
        """Say for `/-/readyz` how the credential is that the proxy holds, if it holds one."""
        return {}
