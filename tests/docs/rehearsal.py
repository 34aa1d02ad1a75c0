"""Commands that are too long for a test: whether their targets, modules and options exist."""

import importlib.util
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from unittest.mock import patch

from mlflow_proxy import cli
from tests.docs.harness import ROOT

_PYTHONS = {".venv/bin/python", "python"}
_COMMANDS = {".venv/bin/mlflow-proxy", "mlflow-proxy"}
_WIDE = {"COLUMNS": "200"}
"""So that a help text breaks no option into two lines."""


def commands(text: str) -> list[list[str]]:
    """Return the words of each simple command of a block, without comments."""
    lines = text.replace("\\\n", " ").splitlines()
    found = [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]
    return [words for words in found if words]


def rehearse(words: list[str]) -> None:
    """Check one command. Raises AssertionError with what does not exist."""
    if words[0] == "make":
        _rehearse_make(words)
        return
    known = help_of(tuple(words[: _named(words)]))
    option = ""
    for word in words[_named(words) :]:
        if word.startswith("-"):
            option = word.partition("=")[0]
            assert option in options(known), f"{shlex.join(words)}: --help does not list {option}"
        elif choice := options(known).get(option):
            assert word in choice, f"{shlex.join(words)}: {option} is one of {', '.join(choice)}"


def _rehearse_make(words: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    making = ["make", "--dry-run", *words[1:]]
    done = subprocess.run(making, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    passed_on = [word.removeprefix("ARGS=") for word in words if word.startswith("ARGS=--")]
    for arguments in passed_on:
        [made] = [line for line in done.stdout.splitlines() if line.endswith(arguments)]
        rehearse(shlex.split(made))


def _named(words: list[str]) -> int:
    """Return how many words name the program and its command."""
    if words[0] in _PYTHONS and words[1:2] == ["-m"]:
        return 3
    if words[0] in _COMMANDS:
        return 1 if words[1].startswith("-") else 2
    raise AssertionError(f"tests/docs/rehearsal.py does not know how to rehearse {shlex.join(words)}")


@cache
def help_of(program: tuple[str, ...]) -> str:
    """Run a program with --help in this process; return what it says, nothing if it takes no options."""
    output = io.StringIO()
    status: int | str | None = None
    with redirect_stdout(output), patch.dict(os.environ, _WIDE):
        try:
            if program[0] in _COMMANDS:
                status = cli.main([*program[1:], "--help"])
            elif _reads_arguments(program[2]):
                with warnings.catch_warnings(), patch.object(sys, "argv", [program[2], "--help"]):
                    warnings.simplefilter("ignore", RuntimeWarning)  # that it is imported already
                    runpy.run_module(program[2], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            status = end.code
    assert not status, f"{shlex.join(program)} --help ended with {status}"
    return output.getvalue()


def _reads_arguments(module: str) -> bool:
    found = importlib.util.find_spec(module)
    assert found is not None, f"there is no module {module}"
    assert found.origin is not None, f"{module} cannot be run"
    origin = Path(found.origin)
    if origin.name == "__init__.py":
        origin = origin.with_name("__main__.py")
    assert origin.exists(), f"{module} cannot be run"
    return "argparse" in origin.read_text()


def options(help_text: str) -> dict[str, list[str]]:
    """Return the options that a help text lists, and the values of those that have a choice."""
    found: dict[str, list[str]] = {"--version": [], "--help": []}
    for option, choice in re.findall(r"(?<![\w-])(--[a-z][a-z0-9._-]*)(?: \{([^}]*)\})?", help_text):
        found[option] = choice.split(",") if choice else found.get(option, [])
    return found
