"""What the workspace's JSON answers say: pages of files, signed URLs, versions and their status."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

READY = "READY"

_DIGITS = re.compile("[0-9]{1,18}")


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
        value = json.loads(body, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number too large to be written again")
    return number


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
        if isinstance(name, str) and isinstance(version, str | int):
            yield VersionStatus(
                model=name,
                version=str(version),
                status=status if isinstance(status, str) else None,
                creation_timestamp=_count(item.get("creation_timestamp")),
            )


def model_created(answer: Mapping[str, Any], name: str) -> int | None:
    """Return when the registered model was created that an answer describes under this name, in milliseconds.

    It tells a model from another one that has its name later. None if the answer does not say.
    """
    model = answer.get("registered_model")
    if not isinstance(model, dict) or model.get("name") != name:
        return None
    return _count(model.get("creation_timestamp"))


@dataclass(frozen=True, slots=True)
class Listed:
    """One entry of a listing; ``size`` in bytes, None for a directory or if the workspace does not say."""

    path: str
    is_dir: bool
    size: int | None

    @property
    def name(self) -> str:
        """The last segment of its path, which is relative to the model."""
        return self.path.rstrip("/").rpartition("/")[2]


def listed(file: object) -> Listed | None:
    """Read one of the ``files`` of ``list-artifacts``, None if it is not shaped like one."""
    if not isinstance(file, dict):
        return None
    path, is_dir = file.get("path"), file.get("is_dir", False)
    if not isinstance(path, str) or not isinstance(is_dir, bool | None):
        return None
    return Listed(path, bool(is_dir), None if is_dir else _count(file.get("file_size")))


def next_page(answer: Mapping[str, Any]) -> str | None:
    """Return the token of the next page, "" if this is the last, None for what is no token."""
    token = answer.get("next_page_token")
    return token if isinstance(token, str) else "" if token is None else None


def _count(value: object) -> int | None:
    """Read a number of 64 bits, which JSON of protocol buffers writes as text."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    text = value if isinstance(value, str) else str(value) if abs(value) < 10**18 else ""
    return int(text) if _DIGITS.fullmatch(text) else None


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
