"""The names door A gives to files of registered models: pure translation, both ways.

A workspace says ``dbfs:/databricks/...`` for where a version's files are, which clients with a plain http
tracking URI cannot follow. They can follow ``mlflow-artifacts:/mlflow-proxy/NAME/VERSION``.
"""

import json
import re
from dataclasses import dataclass

from mlflow_proxy.errors import BadRequestError
from mlflow_proxy.mlflow_api.answers import json_object
from mlflow_proxy.mlflow_api.client_names import shown, why_unusable
from mlflow_proxy.mlflow_api.messages import StoredResponse

RESERVED = "mlflow-proxy"
"""First segment of every artifact path that is ours; any other passes through to the upstream."""

_PLAIN = re.compile(r"[A-Za-z0-9_.-]")
_ENCODED = re.compile(r"(?:[A-Za-z0-9_.-]|~[0-9a-f]{2})+")
_VERSION = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file or directory of a model version; ``path`` is relative to the model, "" for its root."""

    model: str
    version: str
    path: str


def artifact_uri(model: str, version: str) -> str:
    """Return the URI that makes clients ask this proxy for the version's files."""
    return f"mlflow-artifacts:/{RESERVED}/{encode(model)}/{version}"


def is_ours(path: str) -> bool:
    """Whether a decoded artifact path lies under the reserved prefix."""
    return path == RESERVED or path.startswith(RESERVED + "/")


def parse(path: str) -> ModelFile:
    """Read a decoded artifact path under the reserved prefix. Raises BadRequestError for any other."""
    segments = path.removesuffix("/").split("/")
    if len(segments) < 3 or segments[0] != RESERVED:
        raise BadRequestError(f"An artifact path here is {RESERVED}/MODEL/VERSION[/FILE].")
    if (why := why_unusable(path)) is not None:
        raise BadRequestError(f"{shown(path)} is no artifact path: {why}.")
    if not _VERSION.fullmatch(segments[2]):
        raise BadRequestError("A model version is a number.")
    return ModelFile(decode(segments[1]), segments[2], "/".join(segments[3:]))


def encode(model: str) -> str:
    """Spell a model name in characters that no client, URL parser or shell changes.

    Others become ``~`` and two hexadecimal digits for each byte of UTF-8. Percent escapes would not do:
    clients decode them a different number of times.
    """
    plain = "" if set(model) <= {"."} else "."
    return "".join(
        character
        if _PLAIN.match(character) and (character != "." or plain)
        else "".join(f"~{byte:02x}" for byte in character.encode())
        for character in model
    )


def decode(segment: str) -> str:
    """Undo ``encode``. Raises BadRequestError for what it cannot have made."""
    if _ENCODED.fullmatch(segment):
        raw = re.sub(rb"~([0-9a-f]{2})", lambda escape: bytes.fromhex(escape[1].decode()), segment.encode())
        try:
            model = raw.decode()
        except UnicodeDecodeError:
            model = ""
        if model and encode(model) == segment:
            return model
    raise BadRequestError("This is not the name of a registered model as this proxy spells it.")


def rewrite_download_uri(response: StoredResponse, model: str, version: str) -> StoredResponse:
    """Point an answer of ``get-download-uri`` at this proxy if it names ``dbfs:``, else leave it alone."""
    answer = json_object(response.body) if response.status == 200 else None
    uri = answer.get("artifact_uri") if answer is not None else None
    if not isinstance(uri, str) or not uri.startswith("dbfs:") or not _VERSION.fullmatch(version):
        return response
    rewritten = {**(answer or {}), "artifact_uri": artifact_uri(model, version)}
    return response.with_body(json.dumps(rewritten).encode())
