"""The JSON shapes of MLflow's registry API: parameters in, errors, pages and documents out.

What belongs here: what several endpoints share of the wire format. Empty lists are left out and 64-bit
numbers are plain ones, as the API does.
"""

import base64
import binascii
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from mlflow_proxy.demo.answers import ApiError
from mlflow_proxy.demo.models import Model, Stage

Json = dict[str, Any]
Item = TypeVar("Item")

STAGES: dict[str, Stage] = {
    "none": "None",
    "staging": "Staging",
    "production": "Production",
    "archived": "Archived",
}
"""The stages by their name in lower case: the API does not mind the case."""

_CONDITION = re.compile(r"""\s*(name|run_id)\s*(=|LIKE|ILIKE)\s*(['"])(.*)\3\s*""", re.IGNORECASE)


def invalid(message: str) -> ApiError:
    """Return the error for a parameter that makes no sense."""
    return ApiError(400, "INVALID_PARAMETER_VALUE", message)


def missing(message: str) -> ApiError:
    """Return the error for something that does not exist."""
    return ApiError(404, "RESOURCE_DOES_NOT_EXIST", message)


class Call:
    """One call: its token and its parameters, whether they came in the query or in the JSON body."""

    def __init__(self, parameters: Mapping[str, Any], token: str | None) -> None:
        self._parameters = parameters
        self.token = token

    def text(self, name: str, default: str | None = None) -> str:
        """Return a string; without `default` it has to be there and not be empty."""
        value = self._parameters.get(name)
        if value not in (None, ""):
            return str(value)
        if default is None:
            raise invalid(f"Missing value for required parameter '{name}'.")
        return default

    def number(self, name: str, default: int) -> int:
        """Return a positive number."""
        value = self.text(name, str(default))
        if not value.isdecimal() or int(value) == 0:
            raise invalid(f"Invalid value {value!r} for parameter '{name}'.")
        return int(value)

    def flag(self, name: str) -> bool:
        """Return a boolean, false when absent."""
        return self.text(name, "false").lower() == "true"

    def texts(self, name: str) -> list[str]:
        """Return a list of strings; a query with the name once gives a list of one."""
        value = self._parameters.get(name, [])
        return [str(item) for item in value] if isinstance(value, list) else [str(value)]

    def tags(self) -> dict[str, str]:
        """Return the tags of something to be created."""
        return {tag["key"]: tag.get("value", "") for tag in self._parameters.get("tags", [])}


def stage_named(name: str) -> Stage:
    """Return the stage called `name`."""
    if name.lower() not in STAGES:
        raise invalid(f"Invalid Model Version stage: {name}.")
    return STAGES[name.lower()]


def matcher(text: str) -> Callable[[str, str], bool]:
    """Return the predicate on (name, run_id) that a search's `filter` of one condition states."""
    if not text:
        return lambda name, run_id: True
    condition = _CONDITION.fullmatch(text)
    if condition is None:
        raise invalid(f"Invalid filter: {text}")
    field, operator, _, operand = condition.groups()
    pattern = re.escape(operand) if operator == "=" else re.escape(operand).replace("%", ".*")
    accepts = re.compile(pattern, re.IGNORECASE if operator.upper() == "ILIKE" else 0).fullmatch
    if field.lower() == "name":
        return lambda name, run_id: accepts(name) is not None
    return lambda name, run_id: accepts(run_id) is not None


def paginate(items: list[Item], size: int, token: str) -> tuple[list[Item], str]:
    """Return a page and the opaque token of the next one, "" after the last."""
    try:
        start = int(base64.urlsafe_b64decode(token)) if token else 0
    except (binascii.Error, ValueError):
        raise invalid("Invalid page token.") from None
    stop = start + size
    following = base64.urlsafe_b64encode(str(stop).encode()).decode() if stop < len(items) else ""
    return items[start:stop], following


def model_json(model: Model) -> Json:
    """Return a RegisteredModel as the API sends it."""
    return {
        "name": model.name,
        "creation_timestamp": model.creation_timestamp,
        "last_updated_timestamp": model.last_updated_timestamp,
        "description": model.description,
        **without_empty(
            latest_versions=latest_json(model, STAGES.values()),
            tags=_pairs(model.tags),
            aliases=[{"alias": alias, "version": number} for alias, number in model.aliases.items()],
        ),
    }


def version_json(model: Model, number: str) -> Json:
    """Return a ModelVersion as the API sends it."""
    version = model.versions[number]
    return {
        "name": model.name,
        "version": number,
        "creation_timestamp": version.creation_timestamp,
        "last_updated_timestamp": version.last_updated_timestamp,
        "current_stage": version.stage,
        "description": version.description,
        "source": version.source or version.uri,
        "run_id": version.run_id,
        "status": version.status,
        **without_empty(
            tags=_pairs(version.tags),
            aliases=[alias for alias, target in model.aliases.items() if target == number],
        ),
    }


def latest_json(model: Model, stages: Collection[Stage]) -> list[Json]:
    """Return the newest version in each of `stages`."""
    newest = {model.versions[number].stage: number for number in sorted(model.versions, key=int)}
    return [version_json(model, number) for stage, number in newest.items() if stage in stages]


def _pairs(tags: Mapping[str, str]) -> list[Json]:
    return [{"key": key, "value": value} for key, value in tags.items()]


def without_empty(**fields: Any) -> Json:
    """Return the fields that have something in them."""
    return {name: value for name, value in fields.items() if value}
