"""Admission of callers, by ``access.sharing``.

What belongs here: the interface, implemented for the modes ``credential`` and ``proven``, in which clients
send credentials of the workspace and the workspace checks them. Mode ``service`` is in ``service``.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from mlflow_proxy.access.partition import PUBLIC, partitions
from mlflow_proxy.mlflow_api.caller_fields import ANONYMOUS, WELL_KNOWN, CallerFields, CallerIdentity
from mlflow_proxy.mlflow_api.headers import CLIENT, Fields, asks_for_fresh, field
from mlflow_proxy.mlflow_api.messages import Client, UpstreamRequest
from mlflow_proxy.mlflow_api.routes import Freshness, Route
from mlflow_proxy.term import Terms


class Caller(NamedTuple):
    """The caller of a request, derived from its credential once, when it is admitted.

    Attributes:
        fields: the request's end-to-end fields, sent as they are if it is passed through.
        partition: names the stored answers that it may be served.
        client: the fairness key of its calls in the budget.
        identity: the fields that distinguish callers. Its shared calls carry these and no others.
        fresh: whether it refuses stored answers.
        name: its name in logs; empty if it has none.
        many: whether the partition is that of many clients, which all get the same answers.
        common: names the callers with which it shares answers about models that it has a proof for; empty
            if it shares none.
        terms: until when another request with the same fields has the same caller; empty for ever.

    """

    fields: Fields
    partition: str
    client: Client
    identity: CallerIdentity
    fresh: bool
    name: str = ""
    many: bool = False
    common: str = ""
    terms: Terms = ()

    def common_partition(self, created: int) -> str:
        """Return the partition that callers with a proof for a model share.

        ``created`` is the model's creation timestamp: a later model of the same name has other answers.
        """
        return f"common-{self.common}-{created}"


class Access:
    """Passes clients' credentials to the workspace; each credential has its own answers.

    ``key`` is up to 64 random bytes, with which credentials are hashed. ``proven`` returns whether callers
    with proofs share answers, which may change while the proxy runs.
    """

    def __init__(
        self, key: bytes, caller_fields: CallerFields = WELL_KNOWN, proven: Callable[[], bool] = lambda: False
    ) -> None:
        self._key = key
        self._caller_fields = caller_fields
        self._proven = proven

    async def admit(self, route: Route, target: str, fields: Fields) -> Caller:
        """Return the caller of a request. Raises AnswerableError if the request is refused.

        ``target`` is the raw request target, ``fields`` are the request's end-to-end fields.
        """
        behalf, fresh = field(fields, CLIENT), asks_for_fresh(fields)
        if route.freshness is Freshness.DISCOVERY:
            # All clients share the public documents, which are fetched without a credential.
            return Caller(fields, PUBLIC, Client(PUBLIC, behalf), ANONYMOUS, fresh, many=True)
        proven = self._proven()
        identity = self._caller_fields.identity(fields)
        names = partitions(identity, self._key, "proven" if proven else "credential")
        return Caller(
            fields,
            names.own,
            Client(names.paced, behalf),
            identity,
            fresh,
            common=names.common if proven else "",
        )

    def owns(self, partition: str) -> bool:
        """Whether an answer fetched now may be stored in this partition."""
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
