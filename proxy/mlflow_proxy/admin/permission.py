"""Which clients may send commands to the proxy, such as purge. Pure."""

import hmac

from multidict import MultiMapping

from mlflow_proxy.addresses import is_loopback, literal
from mlflow_proxy.errors import PermissionDeniedError, UnauthenticatedError

_OF_BROWSERS = ("Origin", "Sec-Fetch-Site", "Sec-Fetch-Mode")
"""Fields that browsers add to what a page makes them send, and that no page can take away (Fetch)."""
_OF_PROXIES = ("Forwarded", "Via", "X-Forwarded-For", "X-Real-IP")


def check(headers: MultiMapping[str], peer: str | None, token: str) -> None:
    """Raise UnauthenticatedError or PermissionDeniedError unless the request may give commands.

    ``peer`` is the address at the other end of the connection, ``token`` the admin token, empty for none.
    Header fields about the origin can only lead to a refusal: a web page in a browser on this machine, and a
    reverse proxy on it that forwards remote requests, have a loopback address as well.
    """
    if any(name in headers for name in _OF_BROWSERS):
        raise PermissionDeniedError("Commands are not taken from web pages.")
    if token:
        if not _bears(headers, token):
            raise UnauthenticatedError("Send the admin token (admin.token): `Authorization: Bearer ...`.")
        return
    if peer is None or literal(peer) is None or not is_loopback(peer):
        raise PermissionDeniedError("This is for the proxy's own machine only, unless admin.token is set.")
    if any(name in headers for name in _OF_PROXIES):
        raise PermissionDeniedError("This came through another proxy; set admin.token and send it.")


def _bears(headers: MultiMapping[str], token: str) -> bool:
    given = headers.getall("Authorization", [])
    if len(given) != 1:
        return False
    scheme, _, credential = given[0].partition(" ")
    # In a time that does not tell how much of it is right; in bytes, since only ASCII is compared as text.
    right = hmac.compare_digest(credential.strip().encode(errors="surrogateescape"), token.encode())
    return right and scheme.lower() == "bearer"
