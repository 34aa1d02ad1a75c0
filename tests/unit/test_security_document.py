"""SECURITY.md names the test that holds each promise: they are all there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_tests_that_are_named_exist() -> None:
    named = re.findall(r"`(test_\w+\.py)::(\w+)`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 60
    sources: dict[str, str] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        sources[path.name] = sources.get(path.name, "") + path.read_text()
    missing = [
        f"{file}::{name}" for file, name in named if not re.search(rf"def {name}\b", sources.get(file, ""))
    ]
    assert not missing
