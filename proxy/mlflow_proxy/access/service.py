"""``access.sharing = "service"``: the proxy holds the workspace's credential, and clients are known to it.

What belongs here: what passes in either direction. The credential goes to the workspace and nowhere else;
of a client's fields only those go there that cannot be a credential.
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
from mlflow_proxy.mlflow_api.caller_fields import NOBODY, Tells, Told, names
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

_NOT_PASSED = HOP_BY_HOP | {"host", "referer", "expect", CLIENT.lower()}
_PASSED = (names(Tells.NEUTRAL) - _NOT_PASSED) | {"content-encoding"} | FORWARDED
"""Request fields that reach the workspace: about content, caching and traces, none of them a credential.

Where a request came from is told in full, as in every mode (``forwarding``), or not at all: by its last
step alone, a client that came through a load balancer on this machine would look like one on it.
"""
_KEPT = frozenset({"set-cookie", "set-cookie2", "authentication-info", "www-authenticate"})
"""Response fields that are for whoever holds the credential: a session of it, or news of it."""


class ServiceAccess(Access):
    """One credential for all, one set of stored answers for all.

    ``clients`` of None lets everyone in who reaches this machine, for a proxy that listens on loopback, where
    ``listener/hosts.py`` keeps out the pages of its browsers; ``everything`` lets clients use the credential
    for other APIs than MLflow's.
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
        """Return who makes a request, if its token is known. Raises AnswerableError.

        All callers have the one partition, which is another when the credential is another principal's.
        Nothing of a client's goes out with a call that all share; the credential is added to it. What a
        client says of others that it asks for would only get it more than its share.
        """
        fresh = asks_for_fresh(fields)
        if route.freshness is Freshness.DISCOVERY and "?" not in target:
            # Clients ask for these before they show a credential.
            return Caller(fields, PUBLIC, Client(PUBLIC), NOBODY, fresh, many=True)
        name = UNNAMED if self._clients is None else _name(await self._clients.current(), fields)
        try:
            credential = await self._credentials.current()
        except AnswerableError as error:
            self._problem = str(error)
            raise
        self._problem, self._identity = "", credential.identity
        partition = PUBLIC if route.freshness is Freshness.DISCOVERY else self._partition()
        return Caller(fields, partition, Client(name), NOBODY, fresh, name=name, many=True)

    def owns(self, partition: str) -> bool:
        """Whether the credential is still the principal's that a question was asked for."""
        return partition in {PUBLIC, self._partition()}

    async def upstream_headers(self, request: UpstreamRequest) -> tuple[tuple[str, str], ...]:
        """Return what passes of the client's fields, and the credential. Raises AnswerableError."""
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
        """Get another credential in place of a refused one. Raises CredentialRefusedError without one."""
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
        """Drop the fields that concern whoever holds the credential."""
        return without(fields, _KEPT)

    def condition(self) -> Mapping[str, object]:
        """Say what was wrong with the credential last, if anything was."""
        return {"credential": self._problem or ("ok" if self._identity else "not needed yet")}

    async def close(self) -> None:
        """Stop looking at files and fetching."""
        await asyncio.gather(
            self._credentials.close(), *([self._clients.close()] if self._clients is not None else [])
        )

    def _partition(self) -> str:
        # Not to be reached where a proxy of the same fleet takes partitions from what clients send.
        return "service-" + partitions(Told((("service", self._identity),)), self._key).own


def _name(clients: Clients, fields: Fields) -> str:
    name = clients.identify(fields)
    if name is None:
        raise UnauthenticatedError(
            "This proxy does not know the token that came with this request, or none came: use one that "
            "its operator gave out, as MLFLOW_TRACKING_TOKEN or DATABRICKS_TOKEN."
        )
    return name


def refuses_credential(status: int, answer: Fields) -> bool:
    """Whether an answer is about the credential itself, not about what it may do.

    Workspaces say 403 to tokens that are revoked or about to expire as well, and tell by a field of their own
    (databricks-sdk-go issue 873, databricks-vscode issue 583).
    """
    reason = field(answer, "X-Databricks-Reason-Phrase").lower()
    return status == 401 or (status == 403 and "token" in reason)
