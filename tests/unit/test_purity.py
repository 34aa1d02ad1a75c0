"""A module that calls itself pure is held to it by the import contract."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "proxy"


def modules_that_call_themselves_pure() -> dict[str, str]:
    """Return the docstrings of those modules by the module's dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if re.search(r"\bpure\b", docstring, re.IGNORECASE):
            parts = path.relative_to(PACKAGE).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = docstring
    return found


def held_to_it() -> list[str]:
    """Return the modules and packages that the contract names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (contract,) = (each for each in contracts if each["name"].startswith("Policies are pure"))
    return list(contract["source_modules"])


PURE = modules_that_call_themselves_pure()


def test_the_search_finds_modules() -> None:
    assert {"mlflow_proxy.budget.pacer", "mlflow_proxy.mlflow_api.model_names"} <= PURE.keys()


@pytest.mark.parametrize("module", PURE)
def test_a_module_that_calls_itself_pure_is_in_the_contract(module: str) -> None:
    assert any(module == named or module.startswith(f"{named}.") for named in held_to_it()), (
        f"{module} says that it is pure: name it in pyproject.toml, in the contract 'Policies are pure'"
    )
