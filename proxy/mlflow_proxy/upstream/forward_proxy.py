"""Which forward proxy a request takes: HTTPS_PROXY, HTTP_PROXY and NO_PROXY.

They are read here and not by aiohttp (``trust_env``), which adds credentials from ``~/.netrc`` to requests
that bring none, and knows neither address ranges nor ports in NO_PROXY. Pure.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from yarl import URL

from mlflow_proxy.addresses import is_loopback
from mlflow_proxy.errors import InvalidSettingsError

_VARIABLES = {"http": "HTTP_PROXY", "https": "HTTPS_PROXY"}


@dataclass(frozen=True)
class ForwardProxies:
    """The forward proxies, by the scheme of the requested URL.

    The URLs may hold credentials, so they are kept out of ``repr``.
    """

    by_scheme: Mapping[str, URL] = field(default_factory=dict, repr=False)
    direct: tuple[str, ...] = ()
    """Hosts that are asked directly, as in NO_PROXY."""

    @classmethod
    def named_in(cls, environment: Mapping[str, str]) -> Self:
        """Read the variables; in lower case they come first. Raises InvalidSettingsError."""
        named = {scheme: _value(environment, variable) for scheme, variable in _VARIABLES.items()}
        return cls(
            {scheme: _proxy(_VARIABLES[scheme], value) for scheme, value in named.items() if value},
            tuple(re.split(r"[,\s]+", _value(environment, "NO_PROXY"))),
        )

    def towards(self, url: URL) -> URL | None:
        """Return the proxy for a URL, None for the direct way.

        Loopback hosts are always asked directly, as Go's clients do: another machine's loopback is not ours.
        """
        proxy = self.by_scheme.get(url.scheme)
        if proxy is None or url.host is None:
            return None
        host = url.host.rstrip(".").lower()
        if is_loopback(host) or any(_covers(each, host, url.port) for each in self.direct):
            return None
        return proxy


def without_credentials(proxy: URL) -> str:
    """Return a proxy's URL as it may be shown."""
    return str(proxy.with_user(None))


def _value(environment: Mapping[str, str], variable: str) -> str:
    return environment.get(variable.lower(), environment.get(variable, "")).strip()


def _proxy(variable: str, value: str) -> URL:
    try:
        url = URL(value if "://" in value else f"http://{value}")
    except ValueError:
        url = URL()
    if url.scheme != "http" or not url.host:
        # Without the value, which may hold a password.
        raise InvalidSettingsError(
            f"{variable}: only proxies at http://HOST:PORT are supported; correct the variable or unset it"
        )
    return url


def _covers(entry: str, host: str, port: int | None) -> bool:
    """Whether an entry of NO_PROXY (``*``, name, .suffix, address or range, each with :PORT) means a host."""
    if entry == "*":
        return True
    name, wanted = _split_port(entry.lower())
    if not name or (wanted is not None and wanted != port):
        return False
    address = _address(host)
    if address is None:
        name = name.removeprefix("*").strip(".")
        return bool(name) and (host == name or host.endswith("." + name))
    try:
        network = ipaddress.ip_network(name, strict=False)
    except ValueError:
        return False
    return address in network


def _split_port(entry: str) -> tuple[str, int | None]:
    if found := re.fullmatch(r"\[(.+)\](?::(\d+))?", entry) or re.fullmatch(r"([^:]*):(\d+)", entry):
        return found[1], int(found[2]) if found[2] else None
    return entry, None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
