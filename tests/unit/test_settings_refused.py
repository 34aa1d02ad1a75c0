"""Settings that are wrong are named in one line, together with what would put them right."""

import gc

import pytest

from mlflow_proxy import cli, settings
from mlflow_proxy.errors import InvalidSettingsError

from .commands import URL, complaint, write

pytestmark = pytest.mark.usefixtures("_no_settings_around")


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


def test_a_floor_above_a_limit_names_both() -> None:
    told = r"budget.floor: 8 is above runs_search_limit, which is 7; .*--budget.floor"
    with pytest.raises(InvalidSettingsError, match=told):
        settings.load(["--upstream", URL, "--budget.floor", "8"])


def test_a_redis_that_is_no_url_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--upstream", URL, "--port", "0", "--redis", "http://h"]) == 2
    gc.collect()  # what was left open complains when it goes
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "give --redis a URL such as redis://HOST:6379/0" in told
