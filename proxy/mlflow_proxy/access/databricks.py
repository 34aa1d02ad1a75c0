"""The workspace credential by databricks-sdk: tokens, OAuth, Azure's and Google's identities, profiles.

The edge to that library, which is optional: it takes 2 s and 70 MB to import. It blocks, so all of it runs
in threads. Each fetch reads environment and profile anew, so that what was rotated there is found.
"""

import configparser
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from mlflow_proxy import __version__
from mlflow_proxy.access.credential import Credential
from mlflow_proxy.errors import CredentialUnavailableError, InvalidSettingsError

_ANSWER_LIMIT = 5
"""Seconds that the library may wait for an answer about the workspace, and go on asking for one."""
_LONGEST_REASON = 300
_SHORTEST_SECRET = 6
_SHOWN = re.compile(r"\b(Basic|Bearer)\s+\S+", re.IGNORECASE)
_SECRETIVE = re.compile(r"secret|token|password|credential|key", re.IGNORECASE)


def fetcher(host: str, profile: str) -> Callable[[], Credential]:
    """Return a function that fetches a credential for ``host``: of a profile, or of the environment.

    The function blocks; it raises CredentialUnavailableError with the reason, for the log. Raises
    InvalidSettingsError if the library is not installed.
    """
    try:
        from databricks.sdk.config import Config  # noqa: PLC0415 - optional, and slow to import
    except ImportError:
        raise InvalidSettingsError(
            "access.sharing: service needs access.token_file, or databricks-sdk for other credentials; "
            "set the one, or pip install 'databricks-sdk>=0.156' for the other"
        ) from None

    # What it warns of by itself either does not matter or comes back as an error.
    logging.getLogger("databricks.sdk").setLevel(logging.ERROR)

    def fetch() -> Credential:
        try:
            config = Config(
                host=host,
                profile=profile or None,
                product="mlflow-proxy",
                product_version=__version__,
                http_timeout_seconds=_ANSWER_LIMIT,
                retry_timeout_seconds=_ANSWER_LIMIT,
                disable_async_token_refresh=True,
            )
            found = Credential(tuple(config.authenticate().items()))
            return found if found.expires_at is not None else Credential(found.headers, _expiry(config))
        except Exception as error:  # noqa: BLE001 - it raises whatever its libraries do
            raise CredentialUnavailableError(_reason(error)) from None

    def _expiry(config: Config) -> float | None:
        try:
            expiry = config.oauth_token().expiry
        except ValueError:
            return None  # tokens that are not OAuth's do not say
        return expiry.timestamp() if expiry is not None else None

    return fetch


def _reason(error: Exception) -> str:
    """Return the library's message in one short line, without the settings it adds and without secrets."""
    text = " ".join(str(error).partition(". Config: ")[0].split())
    for secret in _secrets():
        text = text.replace(secret, "[redacted]")
    text = _SHOWN.sub(r"\1 [redacted]", text)
    return f"{type(error).__name__}: {text[:_LONGEST_REASON]}"


def _secrets() -> Iterator[str]:
    """Yield the secrets that the library may have read, which its error messages could repeat."""
    path = Path(os.environ.get("DATABRICKS_CONFIG_FILE") or "~/.databrickscfg").expanduser()
    profiles = configparser.RawConfigParser()
    try:
        profiles.read(path)
        given = [item for section in profiles for item in profiles[section].items()]
    except (configparser.Error, OSError, UnicodeDecodeError):
        given = []
    for name, value in (*os.environ.items(), *given):
        if _SECRETIVE.search(name) and len(value) >= _SHORTEST_SECRET:
            yield value
