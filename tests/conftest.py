"""What holds for every test: the machine's own settings have no say."""

import os
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings

# A machine that is slow for a moment has found no bug.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

_SPEAK_TO_PROXY_OR_CLIENTS = ("MLFLOW_", "DATABRICKS_")
_LEAD_ELSEWHERE = {"http_proxy", "https_proxy", "no_proxy"}


@pytest.fixture(autouse=True)
def no_inherited_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(_SPEAK_TO_PROXY_OR_CLIENTS) or name.lower() in _LEAD_ELSEWHERE:
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def logs_go_where_they_went(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a command that is run in this process from sending all later logs to one test's standard error."""
    monkeypatch.setattr("proxy.cli.logs", SimpleNamespace(configure=lambda level, form: None))
