"""A service starts only if its settings let in nobody who is a stranger, and its files can be used."""

import sys
import tomllib
from pathlib import Path

import pytest

from mlflow_proxy import cli
from tests.integration.service import SERVICE


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["serve", "--upstream", "http://127.0.0.1:9", "--port", "0", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.0.2.1", "workspace.example", "127.0.0.1,::", "10.0.0.1,::1"]
)
def test_strangers_are_not_let_in(host: str, token_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(capsys, "--host", host, SERVICE, f"--access.token-file={token_file}")
    assert line.startswith("mlflow-proxy: access.clients_file: not set")
    assert "--host 127.0.0.1" in line


@pytest.mark.parametrize("name", ["token", "clients"])
@pytest.mark.parametrize("content", [None, "", "a b"])
def test_files_have_to_be_right_at_start(
    name: str, content: str | None, token_file: Path, clients_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = {"token": token_file, "clients": clients_file}[name]
    path.unlink()
    if content is not None:
        path.write_text(content)
    arguments = (f"--access.token-file={token_file}", f"--access.clients-file={clients_file}")
    line = complaint(capsys, SERVICE, *arguments)
    assert line.startswith(f"mlflow-proxy: access.{name}_file: {path} cannot be used: ")


@pytest.mark.parametrize("argument", ["token-file=x", "clients-file=x", "profile=x", "reach=everything"])
def test_settings_of_one_mode_are_refused_in_the_other(
    argument: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = complaint(capsys, f"--access.{argument}")
    assert "is for access.sharing service" in line


def test_one_credential_is_enough(token_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(capsys, SERVICE, f"--access.token-file={token_file}", "--access.profile=prod")
    assert line.startswith("mlflow-proxy: access.profile: access.token_file is set as well")


def requirement(extra: str) -> str:
    """Return what an extra of this package asks for: a name that an index knows."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    [found] = project["optional-dependencies"][extra]
    assert isinstance(found, str)
    return found


def test_databricks_sdk_is_optional(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "databricks.sdk.config", None)
    line = complaint(capsys, SERVICE)
    assert line.startswith("mlflow-proxy: access.sharing: ")
    assert f"pip install '{requirement('service')}'" in line
