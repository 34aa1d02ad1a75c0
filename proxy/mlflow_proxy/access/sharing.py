"""How clients and the workspace know each other, which ``access.sharing`` decides.

What belongs here: the questions that the pipeline asks of it, with the answers of the modes ``credential``
and ``proven``, where clients bring the workspace's own credentials and the workspace checks them. Those of
``service`` are in a module of their own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mlflow_proxy.access.partition import PUBLIC, partitions
from mlflow_proxy.mlflow_api.caller_fields import NOBODY, WELL_KNOWN, CallerFields, Told
from mlflow_proxy.mlflow_api.headers import CLIENT, Fields, asks_for_fresh, field
from mlflow_proxy.mlflow_api.messages import Client, UpstreamRequest
from mlflow_proxy.mlflow_api.routes import Freshness, Route


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request, as far as it matters: what is made of its credentials once, when it is admitted.

    Attributes:
        fields: the request's end-to-end fields, as they go out if it is passed through.
        partition: whose stored answers it may be served from.
        client: whose share of the budget its calls take.
        told: the fields that count. Its shared calls carry them and no others.
        fresh: whether it refuses stored answers.
        name: what logs call it; empty if it has no name.
        many: whether the partition is that of many clients, who are all served the same.
        common: the name of all callers with whom it shares answers about what it has proven that it may
            read; empty if it shares none.

    """

    fields: Fields
    partition: str
    client: Client
    told: Told
    fresh: bool
    name: str = ""
    many: bool = False
    common: str = ""

    def common_partition(self, created: int) -> str:
        """Name the answers about a model that those share who have proven that they may read it.

        ``created`` is when the model was: another one of the same name has answers of its own.
        """
        return f"common-{self.common}-{created}"


class Access:
    """Clients' credentials go to the workspace as they are, and an answer is its credential's own.

    ``key`` is what credentials are hashed with: up to 64 random bytes. ``proven`` says whether callers share
    what they have proven that they may read, which may change while the proxy runs.
    """

    def __init__(
        self, key: bytes, caller_fields: CallerFields = WELL_KNOWN, proven: Callable[[], bool] = lambda: False
    ) -> None:
        self._key = key
        self._caller_fields = caller_fields
        self._proven = proven

    async def admit(self, route: Route, target: str, fields: Fields) -> Caller:
        """Return who makes a request, if it may be answered at all. Raises AnswerableError.

        ``target`` is the raw request target, ``fields`` are the request's end-to-end fields.
        """
        behalf, fresh = field(fields, CLIENT), asks_for_fresh(fields)
        if route.freshness is Freshness.DISCOVERY:
            # Everyone shares the public documents, so they are asked for without any credential.
            return Caller(fields, PUBLIC, Client(PUBLIC, behalf), NOBODY, fresh, many=True)
        proven = self._proven()
        told = self._caller_fields.told(fields)
        names = partitions(told, self._key, "proven" if proven else "credential")
        return Caller(
            fields,
            names.own,
            Client(names.paced, behalf),
            told,
            fresh,
            common=names.common if proven else "",
        )

    def owns(self, partition: str) -> bool:
        """Whether what was fetched just now is what this partition's credential is answered."""
        return True

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
