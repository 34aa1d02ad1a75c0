"""How settings are called, and how values are shown, in what the operator reads."""

import difflib
from collections.abc import Iterable

PREFIX = "MLFLOW_PROXY_"

Name = tuple[str, ...]
"""The name of a setting, after that of its section if it is in one."""


def flag(name: Name) -> str:
    """Return the option of the command line that sets it."""
    return "--" + ".".join(name).replace("_", "-")


def variable(name: Name) -> str:
    """Return the environment's variable that sets it."""
    return PREFIX + "__".join(name).upper()


def suggestion(name: str, known: Iterable[str], prefix: str = "", listed: str = "config.example.toml") -> str:
    """Return the end of an error about a name that is not known: the closest one that is, if any is close.

    ``prefix`` is what all of them begin with, ``listed`` where else the operator finds them.
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {prefix}{close[0]}?" if close else f"; {listed} lists them all"


def short(value: object) -> str:
    """Return a value as it is shown in an error: 60 characters at most."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def one_line(text: str) -> str:
    """Return a text without its line breaks."""
    return " ".join(text.split())
