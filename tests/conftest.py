"""What holds for every test: the machine's own settings have no say."""

import gc
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog
from hypothesis import HealthCheck, settings

# A machine that is slow for a moment has found no bug.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

ROOT = Path(__file__).parents[1]
_LONG = (
    "tests/chaos",
    "tests/demo/test_command.py",
    "tests/differential",
    "tests/fleet/test_budget.py",
    "tests/fleet/test_failover.py",
    "tests/fleet/test_storm.py",
    "tests/integration/test_open_source_server.py",
    "tests/simulation/test_fleet.py",
)
"""Where most of the tests are that take ten seconds or more."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each worker begin with its part of the long tests: one that is last keeps all others waiting.

    ``--dist worksteal`` gives each worker a part of the list, in order, and lets those that are done take
    over what is at the end of another's.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long = [item for item in items if item.path.relative_to(ROOT).as_posix().startswith(_LONG)]
    first = set(long)
    others = [item for item in items if item not in first]
    ordered: list[pytest.Item] = []
    for worker in range(workers):
        end = len(items) * (worker + 1) // workers
        ordered += long[worker::workers]
        left = end - len(ordered)
        ordered, others = ordered + others[:left], others[left:]
    items[:] = ordered + others


_SPEAK_TO_PROXY_OR_CLIENTS = ("MLFLOW_", "DATABRICKS_")
_LEAD_ELSEWHERE = {"http_proxy", "https_proxy", "no_proxy"}


@pytest.fixture(autouse=True)
def what_is_left_open_goes_with_its_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Collect what a test leaves open that may do so, by its marks: in a later one it would be an error."""
    yield
    marks = request.node.iter_markers("filterwarnings")
    if any("ignore::ResourceWarning" in mark.args for mark in marks):
        gc.collect()


@pytest.fixture(autouse=True)
def no_inherited_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(_SPEAK_TO_PROXY_OR_CLIENTS) or name.lower() in _LEAD_ELSEWHERE:
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def logs_go_where_they_went() -> Iterator[None]:
    """Keep what a test does to the logs from all later tests."""
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    yield
    if structlog.get_config() == before:
        return
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()
    # A logger that was used meanwhile has kept what it was told then.
    for module in [each for name, each in sys.modules.items() if name.startswith("mlflow_proxy.")]:
        vars(getattr(module, "log", None) or SimpleNamespace()).pop("bind", None)
