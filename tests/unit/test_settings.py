"""Settings from everywhere, and what is said when they are wrong."""

import gc
import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from mlflow_proxy import cli, serving, settings
from mlflow_proxy.errors import InvalidSettingsError
from mlflow_proxy.mlflow_api.routes import Group
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "config.example.toml"
URL = "https://workspace.example"

pytestmark = pytest.mark.usefixtures("_no_settings_around")


@pytest.fixture
def _no_settings_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in list(os.environ):
        if variable.upper().startswith(settings.PREFIX):
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["other", "--not-for-us"])


def write(text: str | bytes) -> str:
    path = Path("some.toml")
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


# -- precedence ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("by_toml", "by_environment", "by_flag"), [(True,) * 3, (True, True, False)])
def test_flags_come_before_environment_before_file(
    by_toml: bool, by_environment: bool, by_flag: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--upstream", URL]
    expected_port, expected_ttl = 8080, 5.0
    if by_toml:
        arguments += ["--config", write("port = 1\n[cache]\nmutable_ttl = 1")]
        expected_port, expected_ttl = 1, 1.0
    if by_environment:
        monkeypatch.setenv("MLFLOW_PROXY_PORT", "2")
        monkeypatch.setenv("MLFLOW_PROXY_CACHE__MUTABLE_TTL", "2")
        expected_port, expected_ttl = 2, 2.0
    if by_flag:
        arguments += ["--port", "3", "--cache.mutable-ttl", "3"]
        expected_port, expected_ttl = 3, 3.0
    chosen = settings.load(arguments)
    assert (chosen.port, chosen.cache.mutable_ttl) == (expected_port, expected_ttl)
    assert chosen.cache.pending_ttl == 5, "the rest of the section keeps its defaults"


def test_sources_are_mixed_within_a_section(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_PROXY_CONFIG", write(f'upstream = "{URL}/"\n[cache]\nlisting_ttl = 7'))
    monkeypatch.setenv("MLFLOW_PROXY_CACHE__PENDING_TTL", "8")
    chosen = settings.load(["--cache.mutable-ttl=9", "--cache.max-bytes", "1 MiB"])
    cache = chosen.cache
    assert chosen.upstream == URL
    assert (cache.listing_ttl, cache.pending_ttl, cache.mutable_ttl) == (7, 8, 9)
    assert cache.max_bytes == 2**20


def test_the_flag_names_the_file_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_PROXY_CONFIG", "does-not-exist.toml")
    assert settings.load(["--config", write(f'upstream = "{URL}"')]).upstream == URL


def test_other_peoples_variables_are_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "x")
    monkeypatch.setenv("PORT", "x")
    monkeypatch.setenv("UPSTREAM", "x")
    assert settings.load(["--upstream", URL]).port == 8080


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("http://h", "http://h"),
        ("HTTPS://h:8443/", "HTTPS://h:8443"),
        ("https://h/base/", "https://h/base"),
        ("http://[::1]:5000", "http://[::1]:5000"),
    ],
)
def test_upstreams(given: str, kept: str) -> None:
    assert settings.load(["--upstream", given]).upstream == kept


# -- presets -------------------------------------------------------------------------------------------


def loaded_how(how: str, monkeypatch: pytest.MonkeyPatch, rest: Sequence[str] = ()) -> settings.Settings:
    """Load settings whose preset is open-source, by a flag, the environment or a file."""
    arguments = ["--upstream", URL, *rest]
    match how:
        case "flag":
            arguments += ["--preset", "open-source"]
        case "environment":
            monkeypatch.setenv("MLFLOW_PROXY_PRESET", "open-source")
        case _:
            arguments += ["--config", write("preset = 'open-source'")]
    return settings.load(arguments)


@pytest.mark.parametrize("how", ["flag", "environment", "file"])
def test_the_preset_of_an_open_source_server(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = loaded_how(how, monkeypatch)
    assert chosen.budget.limits == {}
    assert (chosen.access.sharing, chosen.connections.forwarded_fields) == ("credential", "always")
    defaults = settings.load(["--upstream", URL, "--preset", "databricks"])
    dumped, expected = chosen.model_dump(exclude={"config"}), defaults.model_dump(exclude={"config"})
    same = {name for name in expected if dumped[name] == expected[name]}
    assert set(expected) - same == {"preset", "budget", "access", "connections"}
    assert chosen.budget.patience == defaults.budget.patience


@pytest.mark.parametrize("how", ["flag", "environment", "file"])
@pytest.mark.parametrize("explicitly", ["flag", "environment", "file"])
def test_what_is_set_comes_before_a_preset(
    how: str, explicitly: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the one and the other come from, and even if it is the default."""
    arguments = []
    text = "preset = 'open-source'\n" if how == "file" else ""
    match explicitly:
        case "flag":
            arguments = ["--budget.registry-limit", "40", "--connections.forwarded-fields", "auto"]
        case "environment":
            monkeypatch.setenv("MLFLOW_PROXY_BUDGET__REGISTRY_LIMIT", "40")
            monkeypatch.setenv("MLFLOW_PROXY_CONNECTIONS__FORWARDED_FIELDS", "auto")
        case _:
            text += "[budget]\nregistry_limit = 40\n[connections]\nforwarded_fields = 'auto'"
    if text:
        arguments += ["--config", write(text)]
    if how == "flag":
        arguments += ["--preset", "open-source"]
    elif how == "environment":
        monkeypatch.setenv("MLFLOW_PROXY_PRESET", "open-source")
    chosen = settings.load(["--upstream", URL, *arguments])
    assert chosen.budget.limits == {Group.REGISTRY: 40}
    assert (chosen.access.sharing, chosen.connections.forwarded_fields) == ("credential", "auto")


def test_no_preset_is_the_one_of_databricks() -> None:
    assert settings.load(["--upstream", URL]).preset == "databricks"


# -- errors --------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("arguments", "name", "remedy"),
    [
        ([], "upstream: not set", "give --upstream, MLFLOW_PROXY_UPSTREAM or upstream in the TOML file"),
        (
            ["--upstream", "workspace"],
            "upstream: 'workspace' is not a URL such as https://",
            "set --upstream",
        ),
        (["--upstream", "ftp://h"], "upstream: 'ftp://h' is not a URL", "set --upstream"),
        (["--upstream", "https://"], "upstream: 'https://' is not a URL", "set --upstream"),
        (
            ["--upstream", URL, "--admin.port", "1"],
            "admin.port: a port is of no use without admin.host",
            "set --admin.port",
        ),
        (
            ["--upstream", URL, "--admin.token", "short"],
            "admin.token: 5 characters are too few",
            "set --admin.token",
        ),
        (["--upstream", ""], "upstream: '' is not a URL", "set --upstream"),
        (["--upstream", "http://[::1"], "upstream: 'http://[::1' is not a URL", "set --upstream"),
        (["--upstream", "http://h:99999"], "upstream: 'http://h:99999' is not a URL", "set --upstream"),
        (["--upstream", "http://u:pw@h"], "upstream: only scheme, host, port", "set --upstream"),
        (["--upstream", "http://h?"], "upstream: leave out the '?': only scheme", "set --upstream"),
        (["--upstream", "http://h#"], "upstream: leave out the '#': only scheme", "set --upstream"),
        (
            ["--upstream", "https://w.example/?o=123#ml/models"],
            "upstream: leave out '?o=123' and what follows: only scheme, host",
            "set --upstream",
        ),
        (["--upstream", "https://w.example?o=123"], "upstream: leave out '?o=123': only scheme", ""),
        (
            ["--upstream", "https://w.example/?token=secret"],
            "upstream: leave out the '?' and what follows: only",
            "",
        ),
        (["--upstream", "https://w.example/#ml"], "upstream: leave out the '#' and what follows: only", ""),
        (
            ["--upstream", "https://w.example/api/2.0/mlflow/"],
            "upstream: leave out '/api/2.0/mlflow', which clients add themselves",
            "set --upstream",
        ),
        (
            ["--upstream", "https://w.example/base/ajax-api/3.0"],
            "upstream: leave out '/ajax-api/3.0', which",
            "",
        ),
        (["--upstream", "http://a b"], "upstream: only scheme, host, port", "set --upstream"),
        (["--upstream"], "--upstream: expected one argument", ""),
        (["--upstrem", URL], "--upstrem: no such option", "did you mean --upstream?"),
        (["--upstrem=" + URL], "--upstrem: no such option", "did you mean --upstream?"),
        (["--cache.max-byte", "1"], "--cache.max-byte: no such option", "did you mean --cache.max-bytes?"),
        (["--up", URL], "--up: no such option", ""),
        (["--frobnicate"], "--frobnicate: no such option", "--help lists them all"),
        (["--upstream", URL, "extra"], "extra: no such option", "--help lists them all"),
        (["--config"], "--config: expected one argument", "(TOML file to read settings from)"),
        (
            ["--cache.max-bytes", "1", "2"],
            "2: no such option",
            "--help lists them all",
        ),
        (["--config", "no.toml"], "config: no.toml cannot be read", "give --config a readable TOML file"),
        (["--config", "."], "config: . cannot be read", "give --config a readable TOML file"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], name: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = complaint(["serve", *arguments], capsys)
    assert line.startswith(f"mlflow-proxy: {name}")
    assert remedy in line


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--port", "abc"),
        ("--port", "-1"),
        ("--port", "65536"),
        ("--workers", "0"),
        ("--workers", "two"),
        ("--host", ""),
        ("--log-level", "loud"),
        ("--log-format", "xml"),
        ("--preset", "opensource"),
        ("--shutdown-grace", "-1"),
        ("--cache.max-bytes", "lots"),
        ("--cache.max-bytes", "0"),
        ("--cache.max-entry-bytes", "-5"),
        ("--cache.listing-ttl", "-1"),
        ("--cache.mutable-ttl", "inf"),
        ("--cache.signed-url-margin", "soon"),
        ("--cache.signed-url-ttl", "-1"),
        ("--cache.signed-url-ttl", "inf"),
        ("--budget.registry-limit", "-1"),
        ("--budget.registry-limit", "1.5"),
        ("--budget.runs-search-limit", "-7"),
        ("--budget.experiments-limit", "-1"),
        ("--budget.log-batch-limit", "none"),
        ("--budget.tracking-limit", ""),
        ("--budget.floor", "0"),
        ("--budget.floor", "inf"),
        ("--budget.background-share", "0"),
        ("--budget.background-share", "1.5"),
        ("--budget.queue-per-client", "0"),
        ("--budget.queue-total", "0"),
        ("--budget.jitter-margin", "1.1"),
        ("--budget.jitter-margin", "-0.1"),
        ("--budget.patience", "0"),
        ("--budget.patience", "nan"),
        ("--connections.connect-timeout", "0"),
        ("--connections.read-timeout", "x"),
        ("--connections.max-connections", "0"),
        ("--artifacts.rewrite-dbfs", "maybe"),
        ("--allowed-hosts", ""),
        ("--allowed-hosts", "a,,b"),
        ("--allowed-hosts", "a b"),
        ("--access.neutral-fields", "a b"),
        ("--access.neutral-fields", "x-trace,"),
        ("--access.neutral-fields", "Authorization"),
        ("--access.neutral-fields", "x-mlflow-workspace"),
        ("--access.neutral-fields", "X-Forwarded-User"),
        ("--access.neutral-fields", "x-trace-*"),
        ("--access.neutral-cookies", "a=b"),
        ("--access.neutral-cookies", "BIGipServer*"),
    ],
)
def test_wrong_values(
    flag: str, value: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = flag.removeprefix("--").replace("-", "_")
    variable = settings.PREFIX + name.replace(".", "__").upper()
    remedy = f"; set {flag}, {variable} or {name} in the TOML file\n"
    by_flag = complaint(["serve", "--upstream", URL, flag, value], capsys)
    monkeypatch.setenv(variable, value)
    by_environment = complaint(["serve", "--upstream", URL], capsys)
    for line in (by_flag, by_environment):
        assert line.startswith(f"mlflow-proxy: {name}: ")
        assert line.endswith(remedy)


@pytest.mark.parametrize(
    ("variable", "remedy"),
    [
        ("MLFLOW_PROXY_UPSTREM", "did you mean MLFLOW_PROXY_UPSTREAM?"),
        ("MLFLOW_PROXY_CACHE_MAX_BYTES", "did you mean MLFLOW_PROXY_CACHE__MAX_BYTES?"),
        ("MLFLOW_PROXY_Q", "config.example.toml lists them all"),
    ],
)
def test_unknown_variables(
    variable: str, remedy: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    line = complaint(["serve", "--upstream", URL], capsys)
    assert line == f"mlflow-proxy: {variable}: no such setting; {remedy}\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("upstrem = 1", "upstrem: no such setting in some.toml; did you mean upstream?"),
        (
            "[cache]\nmax_byte = 1",
            "cache.max_byte: no such setting in some.toml; did you mean cache.max_bytes?",
        ),
        ("log-level = 'info'", "log-level: no such setting in some.toml; did you mean log_level?"),
        ("[kache]\nx = 1", "kache: no such setting in some.toml; "),
        ("upstream = 3", "upstream: Input should be a valid string, got 3; set --upstream"),
        ("port = 'x'", "port: Input should be a valid integer"),
        ("port = [1]", "port: Input should be a valid integer, got [1]; set --port"),
        ("cache = 3", "cache: a section with settings of its own; write [cache] in the TOML file"),
        ("[budget]\npatience = 'long'", "budget.patience: Input should be a valid number"),
        ("[artifacts]\nrewrite_dbfs = 7", "artifacts.rewrite_dbfs: Input should be a valid boolean"),
        ("host = '" + "\\n" * 3 + "'\nport = '" + "x" * 500 + "'", "port: "),
        ("upstream =", "config: some.toml is not valid TOML: "),
        ("a = 1\na = 2", "config: some.toml is not valid TOML: "),
        (b"\xff", "config: some.toml is not valid TOML: "),
        ("a = " + "[" * 2000, "config: some.toml is not usable: lists are nested too deeply"),
    ],
)
def test_wrong_files(text: str | bytes, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    if isinstance(text, str) and "upstr" not in text:
        text = f"upstream = '{URL}'\n{text}"
    line = complaint(["serve", "--config", write(text)], capsys)
    assert line.startswith(f"mlflow-proxy: {problem}")
    assert len(line) < 400


def test_a_misspelt_variable_in_lower_case(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which pydantic-settings takes for one of ours."""
    monkeypatch.setenv("mlflow_proxy_cache__mutable_tt", "1")
    line = complaint(["serve", "--upstream", URL], capsys)
    assert line == "mlflow-proxy: cache.mutable_tt: no such setting; did you mean cache.mutable_ttl?\n"


def test_wrong_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert "serv: no such command; mlflow-proxy --help lists them" in complaint(["serv"], capsys)


# -- the command ---------------------------------------------------------------------------------------


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


def test_a_floor_above_a_limit_names_both() -> None:
    told = r"budget.floor: 8 is above runs_search_limit, which is 7; .*--budget.floor"
    with pytest.raises(InvalidSettingsError, match=told):
        settings.load(["--upstream", URL, "--budget.floor", "8"])


def test_a_floor_is_above_no_limit_that_there_is_not() -> None:
    chosen = settings.load(["--upstream", URL, "--budget.floor", "7", "--budget.runs-search-limit", "0"])
    assert (chosen.budget.floor, Group.RUNS_SEARCH in chosen.budget.limits) == (7, False)


def test_a_redis_that_is_no_url_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--upstream", URL, "--port", "0", "--redis", "http://h"]) == 2
    gc.collect()  # what was left open complains when it goes
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "give --redis a URL such as redis://HOST:6379/0" in told


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("[]", ()),
        ('["mlflow-proxy.internal", "Caf.Example."]', ("mlflow-proxy.internal", "Caf.Example.")),
        ('"a, b_c"', ("a", "b_c")),
        ('["192.0.2.1", "[2001:db8::1]", "2001:db8::1"]', ("192.0.2.1", "[2001:db8::1]", "2001:db8::1")),
    ],
)
def test_hosts_from_a_file(text: str, hosts: tuple[str, ...]) -> None:
    path = write(f"upstream = '{URL}'\nallowed_hosts = {text}")
    assert settings.load(["--config", path]).allowed_hosts == hosts


@pytest.mark.parametrize("name", ["neutral-fields", "neutral-cookies"])
def test_neutral_names_have_no_use_as_a_service(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["serve", "--upstream", URL, "--access.sharing", "service", f"--access.{name}", "x-trace"]
    assert "has no use with access.sharing service" in complaint(arguments, capsys)


def test_neutral_names_from_flags_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_PROXY_ACCESS__NEUTRAL_FIELDS", "x-my-trace, X-Forwarded-For")
    found = settings.load(["--upstream", URL, "--access.neutral-cookies", "SERVERID,route"]).access
    assert found.neutral_fields == ("x-my-trace", "X-Forwarded-For")
    assert found.neutral_cookies == ("SERVERID", "route")


def test_hosts_from_flags_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--upstream", URL]
    monkeypatch.setenv("MLFLOW_PROXY_ALLOWED_HOSTS", "a.example, b.example")
    assert settings.load(arguments).allowed_hosts == ("a.example", "b.example")
    arguments += ["--allowed-hosts", "c.example,d.example"]
    assert settings.load(arguments).allowed_hosts == ("c.example", "d.example")
    arguments += ["--allowed-hosts", "e.example"]
    assert settings.load(arguments).allowed_hosts == ("c.example", "d.example", "e.example")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("3", "must be a list of host names, got 3"),
        ("['a', 3]", "must be a list of host names, got ['a', 3]"),
        ("['']", "an empty string is no host name; leave allowed_hosts out to name none"),
        ("['https://proxy.example/']", "'https://proxy.example/' is a URL; give the name of its host only"),
        (
            "['proxy.example:99999']",
            "'proxy.example:99999' has a port, or is no address; give the host",
        ),
        ("['proxy.example:8080']", "'proxy.example:8080' has a port, or is no address; give the host alone"),
        ("['[::1]:8080']", "'[::1]:8080' has a port, or is no address; give the host alone"),
        ("['*.example']", "'*.example' has a wildcard, but names are compared whole; give each of them"),
        (
            "['caf\u00e9.example']",
            "'caf\u00e9.example' is not in ASCII; give the name as clients send it",
        ),
        ("['a..b']", "'a..b' is not a host name such as mlflow-proxy.internal"),
        ("['user@proxy.example']", "'user@proxy.example' is not a host name"),
        ("['-a']", "'-a' is not a host name"),
        (f"['{'a' * 64}']", f"'{'a' * 56}... is not a host name"),
        (f"['{'a.' * 127}a']", f"'{'a.' * 28}... is not a host name"),
    ],
)
def test_hosts_that_are_none(text: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(["serve", "--config", write(f"upstream = '{URL}'\nallowed_hosts = {text}")], capsys)
    assert line.startswith(f"mlflow-proxy: allowed_hosts: {problem}"), line
    assert line.endswith(
        "; set --allowed-hosts, MLFLOW_PROXY_ALLOWED_HOSTS or allowed_hosts in the TOML file\n"
    )


def test_addresses_from_flags_the_environment_and_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--upstream", URL]
    assert settings.load(arguments).host == ("127.0.0.1",)
    assert settings.load(arguments).admin.host == ()
    for text in ("'0.0.0.0'", "['0.0.0.0', '::']", "'0.0.0.0, ::'"):
        found = settings.load([*arguments, "--config", write(f"host = {text}\n[admin]\nhost = {text}")])
        assert found.host == found.admin.host
        assert found.host in {("0.0.0.0",), ("0.0.0.0", "::")}
    monkeypatch.setenv("MLFLOW_PROXY_HOST", "127.0.0.1,[::1]")
    monkeypatch.setenv("MLFLOW_PROXY_ADMIN__HOST", "")
    assert settings.load(arguments).host == ("127.0.0.1", "[::1]")
    assert settings.load(arguments).admin.host == ()
    arguments += ["--host", "localhost", "--host", "10.0.0.1"]
    assert settings.load(arguments).host == ("localhost", "10.0.0.1")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("3", "must be a list of addresses, got 3"),
        ("''", "an empty string is no address; 0.0.0.0 is every interface"),
        ("'127.0.0.1,'", "an empty string is no address; 0.0.0.0 is every interface"),
        ("[]", "Tuple should have at least 1 item"),
        ("'*'", "'*' is no address to listen on; 0.0.0.0 is every interface"),
        ("'http://0.0.0.0'", "'http://0.0.0.0' is no address to listen on"),
        ("'0.0.0.0:8080'", "'0.0.0.0:8080' has a port, or is no address; give the address alone"),
        ("['::', '[::1]:80']", "'[::1]:80' has a port, or is no address; give the address alone"),
    ],
)
def test_addresses_that_are_none(text: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(["serve", "--config", write(f"upstream = '{URL}'\nhost = {text}")], capsys)
    assert line.startswith(f"mlflow-proxy: host: {problem}"), line
    assert line.endswith("; set --host, MLFLOW_PROXY_HOST or host in the TOML file\n")


# -- the example ---------------------------------------------------------------------------------------

SETTING = re.compile(r"^# (?=[a-z_]+ = )", re.MULTILINE)


def shown_as_toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case float() if value.is_integer():
            return str(int(value))
        case SecretStr():
            return f'"{value.get_secret_value()}"'
        case str():
            return f'"{value}"'
        case tuple():
            return f"[{', '.join(map(shown_as_toml, value))}]"
        case _:
            return str(value)


def test_the_example_documents_every_setting_with_its_default() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    section = ""
    documented = {}
    for line in text.splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1] + "."
        elif setting := re.fullmatch(r"(?:# )?([a-z_]+) = (.+)", line):
            documented[section + setting[1]] = setting[2]
    expected = {
        ".".join(path): shown_as_toml(field.default)
        for path, field in settings.names(settings.Settings)
        if path not in {("config",), ("upstream",)}
    }
    assert documented.pop("upstream")
    assert documented == expected
    assert "`config`" in text


def test_the_example_with_all_comments_enabled_is_the_defaults() -> None:
    enabled = SETTING.sub("", EXAMPLE.read_text(encoding="utf-8"))
    upstream = tomllib.loads(enabled)["upstream"]
    loaded = settings.load(["--config", write(enabled)])
    defaults = settings.load(["--upstream", upstream])
    assert loaded.model_dump(exclude={"config"}) == defaults.model_dump(exclude={"config"})
    assert settings.load(["--config", str(EXAMPLE)]).model_dump(exclude={"config"}) == defaults.model_dump(
        exclude={"config"}
    )


def test_every_setting_in_the_example_has_a_comment() -> None:
    blocks = EXAMPLE.read_text(encoding="utf-8").split("\n\n")
    for block in blocks:
        lines = block.splitlines()
        if any(re.match(r"(?:# )?[a-z_]+ = ", line) for line in lines):
            assert re.match(r"# [A-Z0-9]", lines[0]), block
