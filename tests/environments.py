"""The interpreters of the real MLflow clients and of the open-source server, one environment each."""

from pathlib import Path
from typing import Final

_ROOT = Path(__file__).resolve().parent.parent


class MissingEnvironmentError(RuntimeError):
    """An environment that the tests need has not been built, or not to the end."""


def _python(name: str) -> Path:
    environment = _ROOT / f".venv-{name}"
    if not (environment / ".installed").exists():
        msg = f"{environment.name} is missing: run `make environments`"
        raise MissingEnvironmentError(msg)
    return environment / "bin" / "python"


# By the client's version, newest first.
CLIENTS: Final[dict[str, Path]] = {
    version: _python(f"mlflow-{version}") for version in ("3", "2.22", "2.9", "1.30")
}

# The whole of mlflow 3: `SERVER -m mlflow server`.
SERVER: Final[Path] = _python("mlflow-server")
