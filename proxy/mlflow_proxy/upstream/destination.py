"""Which signed URLs of the workspace are followed. Pure.

Signed URLs are untrusted input: check them before connecting (SSRF). Otherwise a server in the workspace's
place, or a user that can set a storage location there, could have the proxy call services that trust its
machine or network. Host names are checked twice: as written, and by the address that is connected to, so
that DNS rebinding gains nothing. Through a forward proxy only the first check is possible: the forward proxy
resolves the name, and has to refuse forbidden addresses.
"""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, ip_address
from typing import Self

from yarl import URL

from mlflow_proxy.addresses import Address, effective, is_loopback, literal
from mlflow_proxy.errors import RefusedDestinationError

_METADATA = frozenset(
    ip_address(each)
    for each in (
        "100.100.100.200",  # Alibaba Cloud
        "168.63.129.16",  # Azure's virtual public address of the host
        "192.0.0.192",  # Oracle Cloud
        "fd00:ec2::254",  # AWS
        "fd20:ce::254",  # Google Cloud
        "fd00:42::42",  # Scaleway
    )
)
"""Addresses of clouds' metadata services, which hold credentials, beside 169.254.0.0/16 and fe80::/10."""
_METADATA_NAMES = frozenset({"metadata.google.internal", "metadata.goog"})
_THIS_NETWORK = IPv4Network("0.0.0.0/8")
"""Not a destination (RFC 1122 section 3.2.1.3); Linux takes 0.0.0.0 for itself."""


@dataclass(frozen=True, slots=True)
class Destinations:
    """The allowed destinations: ``http`` allows those without TLS, ``local`` those on this machine.

    Private networks are always allowed: storage is commonly behind a private endpoint.
    """

    http: bool
    local: bool

    @classmethod
    def of(cls, upstream: str, *, local: bool) -> Self:
        """Allow http if the upstream's URL is http, and this machine if the upstream is on it."""
        url = URL(upstream, encoded=True)
        return cls(http=url.scheme == "http", local=local or is_loopback(url.raw_host or ""))

    def checked(self, text: str) -> URL:
        """Return the URL if it may be followed. Raises RefusedDestinationError, which does not show it."""
        if not text.isascii() or any(c <= " " or c in "\\\x7f" for c in text):
            raise RefusedDestinationError("its URL holds characters that no URL may")
        try:
            url = URL(text, encoded=True)
            host, _ = url.raw_host, url.port
        except ValueError:
            host, url = None, URL()
        if not host or "%" in host or url.scheme not in {"http", "https"}:
            raise RefusedDestinationError("its URL is not one of https://HOST/...")
        if url.scheme == "http" and not self.http:
            raise RefusedDestinationError("its URL is http, while the workspace's (upstream) is https")
        if "@" in url.raw_authority:
            raise RefusedDestinationError("its URL holds a user name or password")
        if "#" in text:
            raise RefusedDestinationError("its URL has a fragment, which cannot be sent")
        self._check_host(host)
        return url

    def check_address(self, address: str) -> None:
        """Check an address that is about to be connected to. Raises RefusedDestinationError."""
        found = literal(address.partition("%")[0])
        if found is None:
            raise RefusedDestinationError("its host has no address")
        self._check(found)

    def _check_host(self, host: str) -> None:
        address = literal(host)
        if address is not None:
            self._check(address)
        elif host.rstrip(".").lower() in _METADATA_NAMES:
            raise RefusedDestinationError("it is a cloud's metadata service, which is never asked")
        elif is_loopback(host) and not self.local:
            raise RefusedDestinationError(_LOCAL)

    def _check(self, address: Address) -> None:
        address = effective(address)
        if address.is_loopback:
            if not self.local:
                raise RefusedDestinationError(_LOCAL)
            return
        if address in _METADATA or address.is_link_local:
            raise RefusedDestinationError("it is link-local or a cloud's metadata service, never asked")
        if (
            address.is_unspecified
            or address.is_multicast
            or address.is_reserved
            or (not isinstance(address, IPv6Address) and address in _THIS_NETWORK)
        ):
            raise RefusedDestinationError("it is not an address that a server can have")


_LOCAL = "it is on the proxy's own machine; if storage really is there, set artifacts.local_storage"
