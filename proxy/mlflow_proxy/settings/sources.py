"""Where settings come from beside flags and the environment: the TOML file and the preset."""

import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from mlflow_proxy.errors import InvalidSettingsError
from mlflow_proxy.settings import wording

PRESETS: Mapping[str, Mapping[str, Mapping[str, object]]] = {
    "databricks": {},
    # An MLflow server counts no calls, may have permissions that a proof does not cover, and lets clients on
    # its own machine do more, so that it has to hear whose calls a proxy there passes on.
    "open-source": {
        "budget": {
            "registry_limit": 0,
            "runs_search_limit": 0,
            "experiments_limit": 0,
            "log_batch_limit": 0,
            "tracking_limit": 0,
        },
        "access": {"sharing": "credential"},
        "connections": {"forwarded_fields": "always"},
    },
}
"""The defaults, by section, that differ with each value of ``preset`` from those of the settings."""


def names(kind: type[BaseModel], above: wording.Name = ()) -> Iterator[tuple[wording.Name, FieldInfo]]:
    """Yield the name and the description of every setting, nested ones after their section's name."""
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from names(field.annotation, (*above, name))
        else:
            yield (*above, name), field


class _WholeSource(PydanticBaseSettingsSource):
    """A source that finds all settings together, looking at what the sources before it have found."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Find nothing for one field alone."""
        return None, field_name, False


class PresetSource(_WholeSource):
    """What the chosen preset sets, which is instead of defaults: the last source."""

    def __call__(self) -> dict[str, Any]:
        """Return the preset's sections; nothing for one that is not known, which is refused as a setting."""
        chosen = PRESETS.get(str(self.current_state.get("preset")), {})
        return {section: dict(values) for section, values in chosen.items()}


class TomlSource(_WholeSource):
    """The TOML file that a flag or the environment names."""

    def __call__(self) -> dict[str, Any]:
        """Return the file's settings. Raises InvalidSettingsError for one that cannot be used."""
        path = self.current_state.get("config")
        if not path:
            return {}
        found = _read(Path(path))
        self._check_names(found, path)
        return found

    def _check_names(self, found: Mapping[str, Any], path: str) -> None:
        """Refuse misspelt names before anything else: they explain why another setting is missing."""
        known = {name for name, _ in names(self.settings_cls)}
        sections = {name[0] for name in known if len(name) > 1}
        for each in _paths(found, sections):
            if each not in known:
                shown = ".".join(each)
                remedy = wording.suggestion(shown, map(".".join, known))
                raise InvalidSettingsError(f"{shown}: no such setting in {path}{remedy}")


def _paths(found: Mapping[str, Any], sections: Collection[str]) -> Iterator[wording.Name]:
    for name, value in found.items():
        if name not in sections:
            yield (name,)
        elif isinstance(value, dict):  # what else a section may be is refused with the values
            yield from ((name, each) for each in value)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSettingsError(
            f"config: {path} cannot be read ({error.strerror}); give --config a readable TOML file"
        ) from None
    except ValueError as error:
        problem = wording.one_line(str(error))
        raise InvalidSettingsError(f"config: {path} is not valid TOML: {problem}") from None
    except RecursionError:
        raise InvalidSettingsError(f"config: {path} is not usable: lists are nested too deeply") from None
