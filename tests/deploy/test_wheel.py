"""The wheel, installed beside a distribution that has a package called `proxy`."""

import os
import subprocess
import sys
from importlib.metadata import files
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BESIDE = "proxy.py"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and install it in a directory of its own; returns that."""
    wheels, target = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index"]
    build = ["wheel", *offline, "--no-build-isolation", "--wheel-dir", str(wheels)]
    subprocess.run([*pip, *build, ROOT], check=True, timeout=100)
    [wheel] = wheels.glob("mlflow_proxy-*.whl")
    subprocess.run([*pip, "install", *offline, "--target", target, wheel], check=True, timeout=100)
    return target


def test_no_file_is_of_both(installed: Path) -> None:
    ours = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    others = {str(path) for path in files(BESIDE) or ()}
    assert "mlflow_proxy/cli.py" in ours
    assert "mlflow_proxy/fleet/cache.lua" in ours
    assert "proxy/__init__.py" in others, "it is what gets in the way"
    assert not ours & others
    assert {path.split("/")[0].partition("-")[0] for path in ours} == {"mlflow_proxy", "bin"}


def test_both_can_be_used(installed: Path) -> None:
    code = (
        "import proxy, mlflow_proxy, mlflow_proxy.cli;"
        "assert proxy.Proxy.__module__.startswith('proxy.');"
        "print(mlflow_proxy.__file__);"
        "mlflow_proxy.cli.main(['--version'])"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    result = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", code],
        env=environment,
        cwd=installed,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    where, version = result.stdout.splitlines() or ("", result.stderr)
    assert (result.stderr, result.returncode) == ("", 0)
    assert Path(where).is_relative_to(installed)
    assert version.startswith("mlflow-proxy ")
