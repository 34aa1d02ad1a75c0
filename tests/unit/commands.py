"""What tests of settings give the command, and the one line that it complains with."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from mlflow_proxy import cli

ROOT = Path(__file__).parents[2]
URL = "https://workspace.example"


def write(text: str | bytes) -> str:
    path = Path("some.toml")
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def complaint(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run the command, which must fail with one line and status 2; return the line."""
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    assert err.startswith("mlflow-proxy: ")
    assert "Traceback" not in err
    return err
