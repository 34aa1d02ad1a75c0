"""What is refused before anything is opened: settings that are right each by itself and wrong together."""

from urllib.parse import urlsplit

from mlflow_proxy.addresses import canonical, in_common, is_loopback
from mlflow_proxy.errors import InvalidSettingsError
from mlflow_proxy.settings import Settings

_OF_THIS_MACHINE = frozenset({"127.0.0.1", "::1", "localhost"})
_LOCAL = _OF_THIS_MACHINE | {"0.0.0.0", "::"}  # noqa: S104 - compared with, not bound


def check(settings: Settings) -> None:
    """Raise InvalidSettingsError for settings that a proxy cannot be served with."""
    _refuse_itself(settings)
    refuse_one_port(settings)
    _refuse_strangers(settings)


def _refuse_itself(settings: Settings) -> None:
    upstream = urlsplit(settings.upstream)
    port = upstream.port or {"http": 80, "https": 443}[upstream.scheme]
    hosts = set(map(canonical, settings.host))
    if hosts & _LOCAL:
        hosts |= _OF_THIS_MACHINE
    if port == settings.port and canonical(upstream.hostname or "") in hosts:
        raise InvalidSettingsError(
            f"upstream: {settings.upstream} is this proxy itself; give --upstream the URL of the workspace"
        )


def refuse_one_port(settings: Settings) -> None:
    """Raise InvalidSettingsError if the two listeners want the same port of the same address."""
    admin = settings.admin
    if admin.port == settings.port != 0 and any(
        in_common(one, other) for one in admin.host for other in settings.host
    ):
        raise InvalidSettingsError(
            f"admin.port: {admin.port} is the clients' port as well; choose another --admin.port, or leave "
            "out --admin.host to serve both at one"
        )


def _refuse_strangers(settings: Settings) -> None:
    access = settings.access
    reachable = next((host for host in settings.host if not is_loopback(host)), None)
    if access.sharing == "service" and not access.clients_file and reachable is not None:
        raise InvalidSettingsError(
            f"access.clients_file: not set, but {reachable} is not loopback: all clients could use "
            "the workspace's credential; set --access.clients-file, or --host 127.0.0.1"
        )
