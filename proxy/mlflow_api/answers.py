"""What the workspace's JSON answers say: pages of files, signed URLs, versions and their status."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

READY = "READY"

_MILLISECONDS = re.compile("[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """What an answer says about one model version."""

    model: str
    version: str
    status: str | None
    creation_timestamp: int | None
    """Milliseconds; tells a version from one that was later created under the same name."""


@dataclass(frozen=True, slots=True)
class SignedUrl:
    """Where the bytes of one file are, and the header fields that must be sent to fetch them."""

    url: str
    headers: tuple[tuple[str, str], ...]


def json_object(body: bytes) -> dict[str, Any] | None:
    """Parse a JSON object; None if it is anything else."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def versions(answer: Mapping[str, Any]) -> Iterator[VersionStatus]:
    """Yield every model version that an answer describes, wherever it stands in it.

    Covers ``model-versions/get`` and ``alias`` (``model_version``), ``get-latest-versions`` and
    ``search`` (``model_versions``), ``registered-models/get`` and ``search`` (``latest_versions``).
    """
    described = [answer.get("model_version"), *_list(answer, "model_versions")]
    for model in [answer, answer.get("registered_model"), *_list(answer, "registered_models")]:
        if isinstance(model, dict):
            described += _list(model, "latest_versions")
    for item in described:
        if not isinstance(item, dict):
            continue
        name, version, status = item.get("name"), item.get("version"), item.get("status")
        created = str(item.get("creation_timestamp"))
        if isinstance(name, str) and isinstance(version, str | int):
            yield VersionStatus(
                model=name,
                version=str(version),
                status=status if isinstance(status, str) else None,
                creation_timestamp=int(created) if _MILLISECONDS.fullmatch(created) else None,
            )


def registered_model(answer: Mapping[str, Any]) -> str | None:
    """Return the name of the model that a ``registered-models/get`` answer is about, None if it has none."""
    model = answer.get("registered_model")
    name = model.get("name") if isinstance(model, dict) else None
    return name if isinstance(name, str) else None


def signed_url(answer: Mapping[str, Any]) -> SignedUrl | None:
    """Read a ``get-signed-download-uri`` answer; None if it is not shaped like one."""
    url = answer.get("signed_uri")
    if not isinstance(url, str):
        return None
    headers = []
    for item in _list(answer, "headers"):
        if not isinstance(item, dict):
            return None
        name, value = item.get("name"), item.get("value")
        if not isinstance(name, str) or not isinstance(value, str):
            return None
        headers.append((name, value))
    return SignedUrl(url, tuple(headers))


def _list(answer: Mapping[str, Any], member: str) -> list[Any]:
    value = answer.get(member)
    return value if isinstance(value, list) else []
