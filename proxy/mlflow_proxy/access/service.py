"""``access.sharing = "service"``: the proxy has its own workspace credential, and authenticates clients.

What belongs here: which header fields pass in either direction. The credential goes to the workspace only; of
a client's fields, only those that cannot be a credential go there.
"""

import asyncio
from collections.abc import Mapping

from mlflow_proxy.access.clients import UNNAMED, Clients
from mlflow_proxy.access.credential import Credentials
from mlflow_proxy.access.files import WatchedFile
from mlflow_proxy.access.partition import PUBLIC, partitions
from mlflow_proxy.access.reach import is_mlflow
from mlflow_proxy.access.sharing import Access, Caller
from mlflow_proxy.errors import (
    AnswerableError,
    CredentialRefusedError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from mlflow_proxy.mlflow_api.caller_fields import ANONYMOUS, CallerIdentity, Tells, names
from mlflow_proxy.mlflow_api.forwarded import FORWARDED
from mlflow_proxy.mlflow_api.headers import (
    CLIENT,
    HOP_BY_HOP,
    Fields,
    asks_for_fresh,
    field,
    without,
)
from mlflow_proxy.mlflow_api.messages import Client, UpstreamRequest
from mlflow_proxy.mlflow_api.routes import Freshness, Route
from mlflow_proxy.term import Terms

_NOT_PASSED = HOP_BY_HOP | {"host", "referer", "expect", CLIENT.lower()}
_PASSED = (names(Tells.NEUTRAL) - _NOT_PASSED) | {"content-encoding"} | FORWARDED
"""Request fields that reach the workspace: about content, caching and traces, none of them a credential.

The forwarded fields pass whole, as in every mode (``forwarding``), or not at all: with only the last hop, a
client behind a load balancer on this machine would look like a local one.
"""
_KEPT = frozenset({"set-cookie", "set-cookie2", "authentication-info", "www-authenticate"})
"""Response fields about the proxy's credential, such as its session: clients do not get them."""


class ServiceAccess(Access):
    """One credential for all, one set of stored answers for all.

    ``clients`` of None admits every client without a token, for a proxy that listens on loopback, where
    ``listener/hosts.py`` refuses requests of web pages; ``everything`` lets clients use the credential for
    other APIs than MLflow's.
    """

    def __init__(
        self,
        key: bytes,
        credentials: Credentials,
        clients: WatchedFile[Clients] | None,
        *,
        everything: bool,
    ) -> None:
        super().__init__(key)
        self._credentials = credentials
        self._clients = clients
        self._everything = everything
        self._identity = ""
        self._problem = ""

    async def admit(self, route: Route, target: str, fields: Fields) -> Caller:
        """Return the caller of a request, if its token is known. Raises AnswerableError.

        All callers have the same partition, derived from the credential's principal. A shared call carries
        the credential and no field of a client. The client's own ``CLIENT`` field is ignored: it would only
        get the client more than its share of the budget.
        """
        fresh = asks_for_fresh(fields)
        if route.freshness is Freshness.DISCOVERY and "?" not in target:
            # Clients ask for these before they show a credential.
            return Caller(fields, PUBLIC, Client(PUBLIC), ANONYMOUS, fresh, many=True)
        terms: Terms = (self._credentials.term,)
        name = UNNAMED
        if self._clients is not None:
            # The term first: the file may be read again, in its thread, at any moment.
            terms = (self._clients.term, *terms)
            name = _name(await self._clients.current(), fields)
        try:
            credential = await self._credentials.current()
        except AnswerableError as error:
            self._problem = str(error)
            raise
        self._problem, self._identity = "", credential.identity
        partition = PUBLIC if route.freshness is Freshness.DISCOVERY else self._partition()
        return Caller(fields, partition, Client(name), ANONYMOUS, fresh, name=name, many=True, terms=terms)

    def owns(self, partition: str) -> bool:
        """Whether the partition is that of the current credential's principal, or public."""
        return partition in {PUBLIC, self._partition()}

    async def upstream_headers(self, request: UpstreamRequest) -> tuple[tuple[str, str], ...]:
        """Return the client's fields that may pass, and the credential's. Raises AnswerableError."""
        passed = tuple((name, value) for name, value in request.headers if name.lower() in _PASSED)
        if request.public:
            return passed
        if not (self._everything or is_mlflow(request.target)):
            raise PermissionDeniedError(
                "This proxy lends its credential to calls of the MLflow API only (access.reach)."
            )
        credential = await self._credentials.current()
        self._identity = credential.identity
        return (*passed, *credential.headers)

    async def renewed(
        self, request: UpstreamRequest, sent: Fields, status: int, answer: Fields, *, repeatable: bool
    ) -> bool:
        """Return whether to repeat the call with a renewed credential. Raises CredentialRefusedError."""
        if request.public or not refuses_credential(status, answer):
            return False
        current = await self._credentials.current()
        refused = set(current.headers) <= set(sent)
        found = await self._credentials.renewed(current) if refused else current
        if found is not None and repeatable:
            return True
        self._problem = (
            f"The workspace refuses this proxy's own credential ({status}): {self._credentials.remedy}."
        )
        raise CredentialRefusedError(self._problem)

    def returned(self, fields: Fields) -> Fields:
        """Return the fields without those about the proxy's credential."""
        return without(fields, _KEPT)

    def condition(self) -> Mapping[str, object]:
        """Return the last problem with the credential, or "ok", for `/-/readyz`."""
        return {"credential": self._problem or ("ok" if self._identity else "not needed yet")}

    async def close(self) -> None:
        """Stop looking at files and fetching."""
        await asyncio.gather(
            self._credentials.close(), *([self._clients.close()] if self._clients is not None else [])
        )

    def _partition(self) -> str:
        # No client of a fleet member in another mode can get this partition: its names lack the prefix.
        return "service-" + partitions(CallerIdentity((("service", self._identity),)), self._key).own


def _name(clients: Clients, fields: Fields) -> str:
    name = clients.identify(fields)
    if name is None:
        raise UnauthenticatedError(
            "This proxy does not know the token that came with this request, or none came: use one that "
            "its operator gave out, as MLFLOW_TRACKING_TOKEN or DATABRICKS_TOKEN."
        )
    return name


def refuses_credential(status: int, answer: Fields) -> bool:
    """Whether an answer refuses the credential itself, rather than one of its permissions.

    Workspaces also answer 403 to tokens that are revoked or about to expire, and mark that by a header field
    of their own (databricks-sdk-go issue 873, databricks-vscode issue 583).
    """
    reason = field(answer, "X-Databricks-Reason-Phrase").lower()
    return status == 401 or (status == 403 and "token" in reason)
