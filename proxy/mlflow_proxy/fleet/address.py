"""Where Redis is: what the setting ``redis`` says. No connections here.

Nothing of a URL is repeated in an error: what looks like a port may be half a password.
"""

import re
from dataclasses import dataclass, field
from typing import Any, NoReturn
from urllib.parse import unquote

from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection, parse_url
from redis.exceptions import RedisError

from mlflow_proxy.errors import InvalidSettingsError

SCHEMES = (
    *("redis", "rediss", "unix"),
    *("redis+sentinel", "rediss+sentinel"),
    *("redis+cluster", "rediss+cluster"),
)
EXAMPLES = {
    "": "redis://HOST:6379/0",
    "sentinel": "redis+sentinel://HOST:26379,HOST:26379/SERVICE/0",
    "cluster": "redis+cluster://HOST:6379,HOST:6379",
}
"""By kind."""
DEFAULT_PORTS = {"": 6379, "sentinel": 26379, "cluster": 6379}
OPTIONS = frozenset({"username", "password", "db", "max_connections", "health_check_interval"})
"""Those of redis-py that may follow the ?; the others are the proxy's own affair."""
TLS_OPTIONS = frozenset(
    {
        *("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_cert_reqs", "ssl_check_hostname"),
        *("ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_min_version", "ssl_ciphers"),
        *("ssl_include_verify_flags", "ssl_exclude_verify_flags"),
    }
)
UNKNOWN_TO_CLUSTERS = frozenset({"ssl_ca_path", "ssl_password"})
SENTINEL_OPTIONS = {"sentinel_username": "username", "sentinel_password": "password"}
"""Ours, for Sentinels that want a password: it is not that of their Redis."""

_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\[\]:\s]+)(?::([0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class Address:
    """A Redis, or those that know where it is: ``kind`` is "", "sentinel" or "cluster"."""

    kind: str
    tls: bool
    hosts: list[tuple[str, int]]
    """None of them for a socket of this machine."""
    service: str
    """What Sentinel calls its Redis."""
    options: dict[str, Any] = field(repr=False)
    """For redis-py's connections to Redis."""
    sentinel_options: dict[str, Any] = field(repr=False)
    """The same for connections to Sentinels."""

    def secrets(self) -> set[str]:
        """Return what must not be shown."""
        known = (*self.options.items(), *self.sentinel_options.items())
        return {value for name, value in known if name.endswith("password") and value}


def parse(url: str) -> Address:
    """Read a URL. Raises InvalidSettingsError if it makes no sense, in one line and without a password."""
    scheme, separator, rest = url.strip().partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in SCHEMES:
        _wrong("", f"the URL begins with none of {', '.join(each + '://' for each in SCHEMES)}")
    kind = scheme.partition("+")[2]
    tls = scheme.startswith("rediss")
    authority, path, query = _split(kind, rest)
    credentials, _, hosts = authority.rpartition("@")
    options = {**_options(kind, tls, query), **_credentials(credentials)}
    sentinel_options = {
        SENTINEL_OPTIONS[name]: options.pop(name) for name in SENTINEL_OPTIONS if name in options
    }
    if tls:
        sentinel_options.update((name, options[name]) for name in TLS_OPTIONS if name in options)
    service = ""
    if scheme == "unix":
        if hosts or not path:
            _wrong(kind, "the path of the socket is missing (unix:///PATH)")
        options["path"] = unquote(path)
    elif kind == "sentinel":
        service, path = _service(path)
    if scheme != "unix":
        _choose_database(kind, options, path)
    parsed = Address(
        kind=kind,
        tls=tls,
        hosts=[] if scheme == "unix" else _hosts(kind, hosts),
        service=service,
        options=options,
        sentinel_options=sentinel_options,
    )
    _check(parsed)
    return parsed


def _wrong(kind: str, what: str) -> NoReturn:
    raise InvalidSettingsError(f"redis: {what}; give --redis a URL such as {EXAMPLES[kind]}") from None


def _split(kind: str, rest: str) -> tuple[str, str, str]:
    """Return the authority, the path and the query."""
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    tail = rest[len(authority) :]
    if "@" in tail or "#" in tail:
        _wrong(kind, "a / ? # or @ in a password has to be percent-encoded")
    path, _, query = tail.partition("?")
    return authority, path, query


def _credentials(text: str) -> dict[str, str]:
    username, _, password = text.partition(":")
    known = {"username": unquote(username), "password": unquote(password)}
    return {name: value for name, value in known.items() if value}


def _options(kind: str, tls: bool, query: str) -> dict[str, Any]:
    try:
        options: dict[str, Any] = dict(parse_url(f"redis://?{query}"))
    except ValueError as error:
        _wrong(kind, str(error).rstrip("."))
    known = OPTIONS | TLS_OPTIONS
    if kind == "sentinel":
        known |= SENTINEL_OPTIONS.keys()
    elif kind == "cluster":
        known -= UNKNOWN_TO_CLUSTERS
    if not options.keys() <= known:
        _wrong(kind, f"an option is none of {', '.join(sorted(known))}")
    if not tls and not options.keys().isdisjoint(TLS_OPTIONS):
        _wrong(kind, "options for TLS come with rediss")
    return options


def _hosts(kind: str, text: str) -> list[tuple[str, int]]:
    hosts = text.split(",")
    if not all(hosts):
        _wrong(kind, "a host is missing")
    if len(hosts) > 1 and not kind:
        _wrong("sentinel", "several hosts need to be Sentinels or a Cluster")
    return [_host(kind, host) for host in hosts]


def _host(kind: str, text: str) -> tuple[str, int]:
    match = _HOST.fullmatch(text)
    port = int(match[2] or DEFAULT_PORTS[kind]) if match else 0
    if match is None or not 0 < port < 65536:
        _wrong(kind, "a host is not of the form NAME, NAME:PORT or [IPv6]:PORT, ports being 1 to 65535")
    return match[1].strip("[]"), port


def _service(path: str) -> tuple[str, str]:
    """Return the name of the service, and the path that is left."""
    service, separator, database = path.removeprefix("/").partition("/")
    if not service:
        _wrong("sentinel", "the name of Sentinel's service is missing")
    return unquote(service), separator + database


def _choose_database(kind: str, options: dict[str, Any], path: str) -> None:
    number = path.removeprefix("/")
    if number and not re.fullmatch("[0-9]{1,9}", number):
        _wrong(kind, "the database is not a number")
    database = options.setdefault("db", int(number or 0))
    if kind == "cluster" and database != 0:
        _wrong(kind, "a Cluster has no database but 0")


def _check(address: Address) -> None:
    """Make what connections are made of: no file of a certificate is found missing later."""
    options = {name: value for name, value in address.options.items() if name != "max_connections"}
    try:
        if address.tls:
            SSLConnection(**options).ssl_context.get()
        elif address.hosts:
            Connection(**options)
        else:
            UnixDomainSocketConnection(**options)
    except (TypeError, ValueError, OSError, RedisError) as error:
        _wrong(address.kind, f"its options make no sense ({type(error).__name__}: {error})")
