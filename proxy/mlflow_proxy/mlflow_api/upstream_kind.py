"""What kind of server the upstream is: a Databricks workspace or another one, by its name or by what it says.

What belongs here: what a name and an answer prove, and the current result. ``discovery`` sends the request.
"""

from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from mlflow_proxy.mlflow_api.answers import json_object
from mlflow_proxy.term import Term

DOCUMENT = "/.well-known/databricks-config"
"""The document by which the Databricks SDK knows a workspace, too. It is given without a credential."""

_DOMAINS = (
    ".cloud.databricks.com",
    ".cloud.databricks.us",
    ".dev.databricks.com",
    ".azuredatabricks.net",
    ".databricks.azure.us",
    ".databricks.azure.cn",
    ".gcp.databricks.com",
)
"""Where workspaces are, as databricks-sdk has it (``databricks.sdk.environments``, read from 0.156)."""

_SAYS_NOTHING = frozenset({407, 408, 429})
"""Statuses that are about the way or the moment, not about the document; so is everything from 500 on."""


class Kind(StrEnum):
    """Of what kind the upstream is known to be."""

    DATABRICKS = "databricks"
    OTHER = "other"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class UpstreamKind:
    """What is known of the upstream; ``reason`` tells people why, and continues "because"."""

    kind: Kind
    reason: str

    @property
    def is_databricks(self) -> bool:
        """Whether it is known to be a Databricks workspace."""
        return self.kind is Kind.DATABRICKS


_NOT_YET = UpstreamKind(Kind.UNKNOWN, f"it has not answered {DOCUMENT} yet")
NOT_ASKED = UpstreamKind(Kind.UNKNOWN, "no setting depends on it, so it is not asked")


class KnownUpstream:
    """What is known of one upstream by now: ``current`` may be read at any moment."""

    def __init__(self, begin: UpstreamKind) -> None:
        self._current = begin
        self.term = Term()
        """Until when the upstream is known to be of the kind that it is now."""

    @property
    def current(self) -> UpstreamKind:
        """What is known now."""
        return self._current

    def learn(self, found: UpstreamKind) -> bool:
        """Take over what was found; returns whether the kind is another one now."""
        before, self._current = self._current.kind, found
        if found.kind is before:
            return False
        self.term = self.term.followed()
        return True


def at_first(origin: str, *, asks: bool) -> UpstreamKind:
    """Return what is known of an upstream that has said nothing; ``asks`` if it is going to be asked."""
    return by_name(origin) or (_NOT_YET if asks else NOT_ASKED)


def by_name(origin: str) -> UpstreamKind | None:
    """Return what the URL of an upstream proves, None if nothing.

    The vendor's names prove it with a certificate only: over plain http any machine on the way may answer.
    """
    parts = urlsplit(origin)
    host = (parts.hostname or "").removesuffix(".")
    domain = next((each for each in _DOMAINS if host.endswith(each) and host != each), None)
    if parts.scheme != "https" or domain is None:
        return None
    return UpstreamKind(Kind.DATABRICKS, f"its name ends in {domain}")


def by_document(status: int, body: bytes) -> UpstreamKind | None:
    """Return what an answer to ``GET DOCUMENT`` proves, None if nothing. ``body`` is in no coding.

    A workspace serves the document without a credential. So any other definite answer (a login page, a
    redirect to one, a refusal) is another server's, even one in front of a workspace.
    """
    if status >= 500 or status in _SAYS_NOTHING:
        return None
    if 300 <= status < 400:
        return _other(f"it answers {status} to {DOCUMENT}, a redirect, perhaps to sign in")
    if status != 200:
        return _other(f"it answers {status} to {DOCUMENT}")
    document = json_object(body)
    if document is None:
        return _other(f"what it answers to {DOCUMENT} is no JSON object, perhaps a login page")
    endpoint = document.get("oidc_endpoint")
    if not (isinstance(endpoint, str) and endpoint):
        return _other(f"what it answers to {DOCUMENT} has no oidc_endpoint")
    return UpstreamKind(Kind.DATABRICKS, f"it answers {DOCUMENT} as workspaces do")


def _other(reason: str) -> UpstreamKind:
    return UpstreamKind(Kind.OTHER, reason)
