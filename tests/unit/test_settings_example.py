"""The example file documents every setting with its default."""

import re
import tomllib

import pytest
from pydantic import SecretStr

from mlflow_proxy import settings

from .commands import ROOT, write

pytestmark = pytest.mark.usefixtures("_no_settings_around")

EXAMPLE = ROOT / "config.example.toml"
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
