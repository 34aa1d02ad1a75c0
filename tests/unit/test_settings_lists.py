"""Settings of several values: host names, addresses, and the names of fields and cookies."""

import pytest

from mlflow_proxy import settings

from .commands import URL, complaint, write

pytestmark = pytest.mark.usefixtures("_no_settings_around")


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


def test_neutral_names_from_flags_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_PROXY_ACCESS__NEUTRAL_FIELDS", "x-my-trace, X-Forwarded-For")
    found = settings.load(["--upstream", URL, "--access.neutral-cookies", "SERVERID,route"]).access
    assert found.neutral_fields == ("x-my-trace", "X-Forwarded-For")
    assert found.neutral_cookies == ("SERVERID", "route")


@pytest.mark.parametrize("name", ["neutral-fields", "neutral-cookies"])
def test_neutral_names_have_no_use_as_a_service(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["serve", "--upstream", URL, "--access.sharing", "service", f"--access.{name}", "x-trace"]
    assert "has no use with access.sharing service" in complaint(arguments, capsys)
