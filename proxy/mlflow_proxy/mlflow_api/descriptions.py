"""Whether an answer is one of its endpoint at all, and whether it describes what was asked.

A gateway can answer anything with 200: a login page, another question's answer. Such an answer is passed on
to the client whose call it was, and goes no further.
"""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from mlflow_proxy.mlflow_api.answers import json_object, next_page, signed_url
from mlflow_proxy.mlflow_api.messages import StoredResponse
from mlflow_proxy.mlflow_api.reads import Read
from mlflow_proxy.mlflow_api.routes import Freshness, Route

Answer = Mapping[str, Any]


def is_of(route: Route, response: StoredResponse) -> bool:
    """Whether a response is a success whose body is what ``route`` answers with."""
    return _answer(route, response) is not None


def describes(read: Read, response: StoredResponse) -> bool:
    """Whether a response is a success whose body is about just what ``read`` asks for."""
    answer = _answer(read.route, response)
    if answer is None:
        return False
    match read.route.freshness:
        case Freshness.LISTING:
            return _is_listing(read, answer)
        case Freshness.SIGNED_URL:
            return _is_signed(read, answer)
        case Freshness.MUTABLE:
            about = _ABOUT.get(read.route.path)
            return about is not None and about(read, answer)
        case _:
            return True  # there is only one of each document about the workspace


def _answer(route: Route, response: StoredResponse) -> Answer | None:
    if response.status != 200 or route.shape is None:
        return None
    answer = json_object(response.body)
    return answer if answer is not None and route.shape.fits(answer) else None


def _is_listing(read: Read, answer: Answer) -> bool:
    """Whether all that is listed lies below the directory that was asked for, or is the file that was."""
    directory, files = read.asked("path") or "", answer.get("files")
    if files is None and not isinstance(answer.get("root_uri"), str):
        return False  # it does not even say whose empty directory it is
    if not isinstance(files, list | None) or next_page(answer) is None:
        return False
    return all(_is_below(directory, file) for file in files or ())


def _is_below(directory: str, file: Any) -> bool:
    path = file.get("path") if isinstance(file, dict) else None
    if not isinstance(path, str):
        return False
    return not directory or path == directory or path.startswith(f"{directory}/")


def _is_signed(read: Read, answer: Answer) -> bool:
    """Whether the URL leads to an object of the name that was asked for, in whatever folder of storage."""
    signed, path = signed_url(answer), read.asked("path")
    if signed is None or not path:
        return False
    try:
        parts = urlsplit(signed.url)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and unquote(parts.path).endswith("/" + path.strip("/"))


def _is_model(read: Read, answer: Answer) -> bool:
    model = answer.get("registered_model")
    return isinstance(model, dict) and model.get("name") == read.model


def _is_version(read: Read, answer: Answer) -> bool:
    version = answer.get("model_version")
    if not isinstance(version, dict) or not _is_of_model(read, version):
        return False
    return read.version is None or str(version["version"]) == read.version


def _are_versions(read: Read, answer: Answer) -> bool:
    versions = answer.get("model_versions")
    return isinstance(versions, list) and all(_is_of_model(read, version) for version in versions)


def _is_download_uri(read: Read, answer: Answer) -> bool:
    uri = answer.get("artifact_uri")
    return isinstance(uri, str) and ":" in uri


def _is_of_model(read: Read, version: Any) -> bool:
    return (
        isinstance(version, dict)
        and version.get("name") == read.model
        and isinstance(version.get("version"), str | int)
    )


_ABOUT: Mapping[str, Callable[[Read, Answer], bool]] = {
    "registered-models/get": _is_model,
    "registered-models/alias": _is_version,
    "registered-models/get-latest-versions": _are_versions,
    "model-versions/get": _is_version,
    "model-versions/get-download-uri": _is_download_uri,
}
"""By the path of their routes. What is not here is about no model in particular (searches)."""
