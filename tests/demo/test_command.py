"""`mlflow-proxy demo`: its options, and one small run with real clients."""

import os
import re
import sys
import tomllib
from pathlib import Path

import pytest

from mlflow_proxy.cli import main


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--clients", "0"], "clients:"),
        (["--files", "2"], "directories:"),
        (["--tokens", "0"], "tokens:"),
        (["--tokens", "many"], "tokens:"),
        (["--clients", "2", "--tokens", "3"], "tokens: 3 tokens need as many clients, and there are 2"),
        (["--limiter", "leaky"], "limiter:"),
        (["--clinets", "2"], "--clinets"),
        (["--client-python", "/nowhere/python"], "client-python: /nowhere/python cannot be run"),
    ],
)
def test_wrong_options_are_told_in_one_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert told in output.err


def test_an_interpreter_without_mlflow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -I "$@"\n')
    python.chmod(0o755)
    assert main(["demo", "--client-python", str(python)]) == 2
    told = capsys.readouterr().err
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    [requirement] = (
        each for each in project["optional-dependencies"]["demo"] if each.startswith("mlflow-skinny")
    )
    assert f"pip install '{requirement}'" in told
    assert "--client-python" in told


def test_a_proxy_installed_without_what_the_demo_needs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python treats a module that is None in sys.modules like one that is not installed."""
    monkeypatch.setitem(sys.modules, "rich", None)
    assert main(["demo"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == (
        "mlflow-proxy: demo: the library rich is missing; "
        "pip install 'mlflow-proxy[demo]' installs what the demo needs\n"
    )


@pytest.mark.parametrize(
    ("door", "options", "told"),
    [("a", [], "2 tokens"), ("b", [], "2 tokens"), ("b", ["--tokens", "1"], "1 token")],
)
def test_demo(
    door: str,
    options: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tests.environments import CLIENTS

    # What the user has set is for his own work, not for the clients of the demo.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    model = ["--files", "5", "--directories", "2", "--limit", "1000", "--clients", "2", "--latency", "0"]
    python = ["--client-python", os.path.relpath(CLIENTS["3"])]  # as one types it
    assert main(["demo", *model, *python, "--door", door, "--outside-qps", "5", *options]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "0 of 2" in shown
    assert f"2 clients with {told} download one model at once" in shown
    calls = re.search(r"calls to the workspace +│ +\d+ │ +(\d+) │", shown)
    assert calls is not None
    # Files and directories once, a proof for each token; by door A clients also ask where the model is.
    assert int(calls[1]) <= 5 + 2 + 2 + 1
    assert "with proxy: done" in shown
    assert "MLFLOW_TRACKING_URI=databricks" in shown
