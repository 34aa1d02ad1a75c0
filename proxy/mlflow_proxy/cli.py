"""The command line: which command, with which settings; one line for what goes wrong."""

import asyncio
import os
import sys
from collections.abc import Callable, Sequence

from mlflow_proxy import __version__, logs, purge, serving, settings, workers
from mlflow_proxy.errors import InvalidSettingsError

_USAGE = """\
usage: mlflow-proxy COMMAND [OPTION ...]

commands:
  serve --upstream URL    serve MLflow clients on behalf of a workspace
  purge NAME[/VERSION]    let a running proxy drop what it has stored of a model
  demo                    emulated workspace + proxy + real MLflow clients, with and without the proxy

mlflow-proxy COMMAND --help lists a command's options; mlflow-proxy --version prints the version.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status, 2 for what the user can mend."""
    _open_missing_streams()
    command, *rest = (list(sys.argv[1:]) if arguments is None else list(arguments)) or ["--help"]
    if command in {"--help", "-h", "help"}:
        sys.stdout.write(_USAGE)
        return 0
    if command == "--version":
        sys.stdout.write(f"mlflow-proxy {__version__}\n")
        return 0
    run = _COMMANDS.get(command)
    try:
        if run is None:
            raise InvalidSettingsError(f"{command}: no such command; mlflow-proxy --help lists them")
        return run(rest)
    except InvalidSettingsError as problem:
        sys.stderr.write(f"mlflow-proxy: {problem}\n")
        return 2
    except KeyboardInterrupt:
        return 130


def _open_missing_streams() -> None:
    """Let standard streams that this process was started without (``2>&-``) lead nowhere.

    Else the next thing to be opened has their number, and what is written to standard error goes there: to a
    client, say.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free
    # Python has made no file of what was missing.
    if sys.__stdout__ is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.__stderr__ is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _serve(arguments: Sequence[str]) -> int:
    chosen = settings.load(arguments)
    logs.configure(chosen.log_level, chosen.log_format)
    if chosen.workers > 1:
        return workers.run(chosen)
    with logs.in_background():
        asyncio.run(serving.run(chosen))
    return 0


def _demo(arguments: Sequence[str]) -> int:
    # The demo's libraries are not needed to serve, nor installed with the proxy alone.
    try:
        import rich  # noqa: F401, PLC0415
    except ModuleNotFoundError:
        raise InvalidSettingsError(
            "demo: the library rich is missing; pip install 'mlflow-proxy[demo]' installs what the demo needs"
        ) from None
    from mlflow_proxy.demo import command  # noqa: PLC0415

    return command.run(arguments)


_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"serve": _serve, "purge": purge.run, "demo": _demo}

if __name__ == "__main__":
    sys.exit(main())
