"""Where settings come from: flags before the environment before the file, and all of them before a preset."""

from collections.abc import Sequence

import pytest

from mlflow_proxy import settings
from mlflow_proxy.mlflow_api.routes import Group

from .commands import URL, write

pytestmark = pytest.mark.usefixtures("_no_settings_around")


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


def test_a_floor_is_above_no_limit_that_there_is_not() -> None:
    chosen = settings.load(["--upstream", URL, "--budget.floor", "7", "--budget.runs-search-limit", "0"])
    assert (chosen.budget.floor, Group.RUNS_SEARCH in chosen.budget.limits) == (7, False)
