"""Error messages for requests without an answer: what failed, and which setting or machine to check.

Messages never show a URL: those of storage carry signatures.
"""

import ssl
from typing import NamedTuple

import aiohttp
from yarl import URL

from mlflow_proxy.descriptors import is_exhaustion, nearly_exhausted
from mlflow_proxy.upstream.forward_proxy import without_credentials


class Peer(NamedTuple):
    """The server: its name in messages, and the setting or answer that its host name comes from."""

    name: str
    named_by: str

    @property
    def subject(self) -> str:
        """Its name as a sentence begins with it."""
        return self.name[0].upper() + self.name[1:]


WORKSPACE = Peer("the workspace", "the proxy's setting upstream")
STORAGE = Peer("the workspace's storage", "the workspace's answer")


def ran_out(error: aiohttp.ClientError) -> bool:
    """Whether the connection failed because this machine has no file descriptor or memory left.

    Resolving a name and checking a certificate open files too, but report other errors when that fails.
    """
    cause = getattr(error, "os_error", error)
    if is_exhaustion(cause):
        return True
    unclear = isinstance(error, aiohttp.ClientConnectorDNSError | aiohttp.ClientConnectorCertificateError)
    # Of several addresses that failed differently, aiohttp makes one error without a number.
    return (unclear or getattr(cause, "errno", None) is None) and nearly_exhausted()


def no_descriptor(peer: str) -> str:
    """Return the message for a machine without file descriptors or memory for a connection."""
    return (
        f"This proxy can open no connection to {peer} at the moment: it has reached its limit of open files "
        "(ulimit -n), or this machine has no room for more."
    )


def no_connection(
    peer: Peer, proxy: URL | None, error: aiohttp.ClientOSError | aiohttp.ClientHttpProxyError
) -> str:
    """Return why there is no connection and, where there is one, the remedy."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"{peer.subject} is behind {_shown(proxy)}, which refused the connection: {error.status}."
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _no_trust(peer, error.certificate_error)
    # The alert that a certificate is missing comes after the handshake, from TLS 1.3 on.
    if isinstance(error.__cause__, ssl.SSLError):
        return _no_handshake(peer, error.__cause__.reason or "handshake failed")
    if not isinstance(error, aiohttp.ClientConnectorError):
        return f"The connection to {peer.name} broke: {type(error).__name__}."
    reason = error.os_error.strerror or "connection failed"
    if proxy is not None and error.host == proxy.host:
        variables = "HTTPS_PROXY, HTTP_PROXY and NO_PROXY say which"
        return f"{peer.subject} is behind {_shown(proxy)}, which could not be reached: {reason}; {variables}."
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return (
            f"The host name of {peer.name}, {error.host}, could not be resolved; it comes from "
            f"{peer.named_by}: check it, and DNS on the proxy's machine."
        )
    return f"{peer.subject} could not be reached: {reason}."


def _shown(proxy: URL | None) -> str:
    return "a proxy" if proxy is None else f"the proxy {without_credentials(proxy)}"


_HOST_MISMATCH = frozenset({62, 63, 64})
"""X509_V_ERR_HOSTNAME_MISMATCH, _EMAIL_MISMATCH and _IP_ADDRESS_MISMATCH (OpenSSL's x509_vfy.h)."""
_EXPIRED = 10
"""X509_V_ERR_CERT_HAS_EXPIRED."""


def _no_trust(peer: Peer, error: Exception) -> str:
    code = getattr(error, "verify_code", None)
    reason = getattr(error, "verify_message", None) or "verification failed"
    if code in _HOST_MISMATCH:
        remedy = "the URL must name the host that the certificate is for"
    elif code == _EXPIRED:
        remedy = "it has to be renewed there, unless this machine's clock is wrong"
    else:
        remedy = "set connections.ca_file to a PEM file with the certificate of its CA"
    return f"{peer.subject}'s certificate is not trusted: {reason}; {remedy}."


def _no_handshake(peer: Peer, reason: str) -> str:
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason or "HANDSHAKE" in reason):
        return (
            f"{peer.subject} refused this proxy's TLS certificate, or wants one ({reason}); "
            "set connections.client_certificate and connections.client_key."
        )
    return f"The TLS handshake with {peer.name} failed: {reason}; check the scheme and port of its URL."
