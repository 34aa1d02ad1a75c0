"""The command as a user meets it: its help, its version, and why it does not start."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest
from structlog.testing import capture_logs

from mlflow_proxy import cli, serving, settings
from mlflow_proxy.errors import InvalidSettingsError
from tests.ports import free_port

from .commands import ROOT, URL

pytestmark = pytest.mark.usefixtures("_no_settings_around")


def test_help_lists_every_setting_with_its_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["serve", "--help"])
    assert left.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for path, field in settings.names(settings.Settings):
        assert "--" + ".".join(path).replace("_", "-") in shown
        assert field.description is not None
        assert field.description in shown
    assert "(default: 127.0.0.1)" in shown
    assert not re.search(r"\(default: (?:None|\(.*?\))?\)", shown), "what is not set has no default to show"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(arguments) == 0
    assert "serve --upstream URL" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert re.fullmatch(r"mlflow-proxy \d+\.\d+\.\d+\n", capsys.readouterr().out)


def run_command(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "mlflow_proxy", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_process_without_upstream_says_so() -> None:
    done = run_command("serve")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "mlflow-proxy: upstream: not set; "
        "give --upstream, MLFLOW_PROXY_UPSTREAM or upstream in the TOML file\n"
    )


def test_a_process_whose_port_is_taken_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run_command("serve", "--upstream", URL, MLFLOW_PROXY_PORT=port)
    assert done.returncode == 2
    assert done.stderr == (
        f"mlflow-proxy: port: {port} is already in use on 127.0.0.1; choose another --port\n"
    )


@pytest.mark.parametrize(
    ("host", "admin_host"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        ("localhost", "127.0.0.1"),
        ("127.0.0.2,127.0.0.1", "127.0.0.3,127.0.0.1"),
    ],
)
@pytest.mark.parametrize("workers", [False, True])
def test_one_port_for_two_listeners_is_the_fault_of_the_second(
    host: str, admin_host: str, workers: bool
) -> None:
    port = str(free_port())
    arguments = ["--host", host, "--port", port, "--admin.host", admin_host, "--admin.port", port]
    if workers:
        arguments += ["--workers", "2", "--redis", "redis://127.0.0.1:1"]
    done = run_command("serve", "--upstream", URL, *arguments)
    assert done.returncode == 2
    assert done.stderr == (
        f"mlflow-proxy: admin.port: {port} is the clients' port as well; choose another --admin.port, "
        "or leave out --admin.host to serve both at one\n"
    )


async def test_an_upstream_that_ends_like_the_api_is_told_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a gateway's own path, so it is no error."""
    for path, doubted in (("/api", True), ("/ajax-api", True), ("/my-api", False), ("", False)):
        chosen = settings.load(
            [
                "--upstream",
                f"{URL}{path}",
                "--port",
                "0",
                "--connections.forwarded-fields",
                "never",
                "--access.sharing",
                "credential",
            ]
        )
        with capture_logs() as logs:
            await serving.run(chosen, lambda url: signal.raise_signal(signal.SIGTERM))
        told = [line for line in logs if line["log_level"] == "warning"]
        assert bool(told) is doubted, path
        assert all(path in line["event"] + str(line) for line in told)


@pytest.mark.parametrize("host", ["127.0.0.1,127.0.0.2", "127.0.0.1,127.2", "127.0.0.2,0.0.0.0"])
def test_an_upstream_that_is_the_proxy_itself(host: str) -> None:
    done = run_command("serve", "--upstream", "http://127.0.0.2:8089", "--host", host, "--port", "8089")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("mlflow-proxy: upstream: http://127.0.0.2:8089 is this proxy itself; give")


@pytest.mark.parametrize("host", ["192.0.2.1", "not a host"])
async def test_an_address_that_is_not_ours(host: str) -> None:
    chosen = settings.load(["--upstream", URL, "--host", f"127.0.0.1,{host}", "--port", "0"])
    with pytest.raises(InvalidSettingsError, match=re.escape(f"host: cannot listen on {host}")):
        async with serving.serving(chosen):
            pass
