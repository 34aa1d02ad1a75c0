"""Which hosts a listener answers to: the ``Host`` field of requests, against DNS rebinding. Pure.

A page in a browser may call the host that it came from, and the owner of that name may let it lead to another
address afterwards: one of the reader's own machine. The browser then shows the page what a listener there
answers. All that gives such a request away is its ``Host``, which is the page's own name. MLflow's server
refuses foreign ones for that reason (3.5 and later), but sees the requests of this proxy, not of the page.

On a loopback listener all that keeps others out is that they are not on the machine, which the browser is. So
only loopback names and addresses are answered there, and what the operator lists in ``allowed_hosts``.

Elsewhere any host is answered unless ``allowed_hosts`` lists some: clients call a service by names that it
cannot know, and what guards it are TLS and the clients' credentials. The page has neither: this proxy shows
no certificate for the page's name, and the browser sends no client's credential along with its requests.
Where hosts are listed, addresses are answered beside them: Kubernetes and load balancers probe by address. A
page that calls an address came from there itself, since rebinding takes a name.

A request without a ``Host`` is answered: browsers always send one, but probes by HTTP/1.0 may not. Fields
such as ``X-Forwarded-Host`` count for nothing: a page can send them too.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Self

from mlflow_proxy.addresses import canonical, is_loopback, literal
from mlflow_proxy.errors import PermissionDeniedError

_PORT = re.compile(r":[0-9]*\Z")
_LONGEST = 300
"""Characters of a Host that is looked at: a name has 253 at most (RFC 1035 section 2.3.4), and a port."""
_SHOWN = 60
"""Characters of a foreign Host that are repeated."""


class _Host(NamedTuple):
    """What a ``Host`` field says, without its port, which is whatever leads to the listener."""

    name: str
    address: bool
    loopback: bool


@dataclass(frozen=True, slots=True)
class Hosts:
    """The hosts that one listener answers to.

    Attributes:
        names: those listed, in canonical form; None for any host at all.
        addresses: whether any IP address is answered as well, or loopback ones only.

    """

    names: frozenset[str] | None
    addresses: bool

    @classmethod
    def of(cls, listener: Iterable[str], allowed: Iterable[str], *, loopback: bool) -> Self:
        """Return the hosts of a listener at addresses or names, ``loopback`` if only this machine reaches it.

        Its own names, if it has some, are answered like those ``allowed``: the operator gave them.
        """
        names = frozenset(map(canonical, allowed))
        if not (names or loopback):
            return cls(None, addresses=True)
        return cls(names.union(map(canonical, listener)), addresses=not loopback)

    def check(self, field: str | None) -> None:
        """Raise PermissionDeniedError for a ``Host`` field that names another host; None is for no field."""
        if field is None or self.names is None:
            return
        if len(field) <= _LONGEST:
            host = _read(field)
            if host.loopback or host.name in self.names or (host.address and self.addresses):
                return
        shown = field if len(field) <= _SHOWN else field[: _SHOWN - 3] + "..."
        raise PermissionDeniedError(
            f"This proxy does not answer to the host {shown!a}: a web page could call it by a name of its "
            "own (DNS rebinding). If clients are to call it so, list the name in the proxy's allowed_hosts."
        )


LOOPBACK_ONLY = Hosts(frozenset(), addresses=False)
"""The hosts of a listener for other processes of this machine."""


@lru_cache(maxsize=256)
def _read(field: str) -> _Host:
    host = _PORT.sub("", field)
    return _Host(canonical(host), literal(host) is not None, is_loopback(host))
