"""What the workspace's answers say, and the names that door A gives to files."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlflow_proxy.errors import BadRequestError
from mlflow_proxy.mlflow_api.answers import SignedUrl, VersionStatus, json_object, signed_url, versions
from mlflow_proxy.mlflow_api.artifact_paths import (
    ModelFile,
    artifact_uri,
    decode,
    encode,
    is_ours,
    parse,
    rewrite_download_uri,
)
from mlflow_proxy.mlflow_api.messages import StoredResponse

VERSION = {"name": "m", "version": "3", "status": "READY", "creation_timestamp": 1700000000000}
SEEN = VersionStatus("m", "3", "READY", 1700000000000)


@pytest.mark.parametrize(
    "answer",
    [
        {"model_version": VERSION},
        {"model_versions": [VERSION]},
        {"latest_versions": [VERSION]},
        {"registered_model": {"name": "m", "latest_versions": [VERSION]}},
        {"registered_models": [{"name": "m", "latest_versions": [VERSION]}]},
        {"model_version": {**VERSION, "version": 3, "creation_timestamp": "1700000000000"}},
    ],
)
def test_versions_wherever_they_stand(answer: dict[str, Any]) -> None:
    assert list(versions(answer)) == [SEEN]


@pytest.mark.parametrize(
    ("member", "value", "expected"),
    [
        ("status", None, VersionStatus("m", "3", None, 1700000000000)),
        ("creation_timestamp", None, VersionStatus("m", "3", "READY", None)),
        ("creation_timestamp", "soon", VersionStatus("m", "3", "READY", None)),
        ("creation_timestamp", "²", VersionStatus("m", "3", "READY", None)),
        ("creation_timestamp", "9" * 5000, VersionStatus("m", "3", "READY", None)),
        ("creation_timestamp", 1.5, VersionStatus("m", "3", "READY", None)),
        ("name", None, None),
        ("version", [], None),
    ],
)
def test_versions_with_gaps(member: str, value: object, expected: VersionStatus | None) -> None:
    found = list(versions({"model_version": {**VERSION, member: value}}))
    assert found == ([expected] if expected is not None else [])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "model_version",
                    "model_versions",
                    "registered_model",
                    "registered_models",
                    "latest_versions",
                    "name",
                    "version",
                    "creation_timestamp",
                    "signed_uri",
                    "headers",
                    "value",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_no_answer_is_too_strange(value: object) -> None:
    answer = json_object(json.dumps(value).encode())
    assert (answer is None) == (not isinstance(value, dict))
    list(versions(answer or {}))
    signed_url(answer or {})


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"\xff", b"[" * 100_000])
def test_what_is_not_a_json_object(body: bytes) -> None:
    assert json_object(body) is None


def test_signed_urls() -> None:
    headers = [{"name": "x-ms-blob-type", "value": "BlockBlob"}]
    assert signed_url({"signed_uri": "https://s", "headers": headers}) == SignedUrl(
        "https://s", (("x-ms-blob-type", "BlockBlob"),)
    )
    assert signed_url({"signed_uri": "https://s"}) == SignedUrl("https://s", ())
    broken: list[dict[str, object]] = [
        {},
        {"signed_uri": None},
        {"signed_uri": "https://s", "headers": ["a"]},
        {"signed_uri": "https://s", "headers": [{"name": "a"}]},
        {"signed_uri": "https://s", "headers": [{"name": "a", "value": 1}]},
    ]
    assert [signed_url(answer) for answer in broken] == [None] * 5


# -- artifact paths ------------------------------------------------------------------------------------


@given(st.text(min_size=1))
@example("a/b")
@example("..")
@example(".")
@example("a.b")
@example("a#b%20c")
@example("%2e%2e")
@example("~7e")
@example("Straße 模型 🚀")
@example("a\\b\n\x00")
def test_a_model_name_survives_as_one_harmless_segment(model: str) -> None:
    segment = encode(model)
    assert decode(segment) == model
    assert set(segment) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~")
    assert set(segment) != {"."}
    path = artifact_uri(model, "1").removeprefix("mlflow-artifacts:/")
    assert is_ours(path)
    assert parse(path) == ModelFile(model, "1", "")


@given(st.text(max_size=12))
def test_only_canonical_spellings_are_decoded(segment: str) -> None:
    try:
        model = decode(segment)
    except BadRequestError:
        return
    assert encode(model) == segment


@pytest.mark.parametrize(
    "segment",
    ["", ".", "..", "~", "~4", "~41", "~7E", "~2F", "~ff", "~c3", "a~", "a b", "ü", "a%20b", "~2e", "a~2e"],
)
def test_other_spellings_are_refused(segment: str) -> None:
    if segment == "~2e":
        assert decode(segment) == "."
        return
    with pytest.raises(BadRequestError):
        decode(segment)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("mlflow-proxy/m/1", ModelFile("m", "1", "")),
        ("mlflow-proxy/m/1/", ModelFile("m", "1", "")),
        ("mlflow-proxy/m/12/data/a b#ü%41+.txt", ModelFile("m", "12", "data/a b#ü%41+.txt")),
        ("mlflow-proxy/m/1/a:b\\c\n\x7f", ModelFile("m", "1", "a:b\\c\n\x7f")),
        ("mlflow-proxy/a~2fb/1/..x/...", ModelFile("a/b", "1", "..x/...")),
    ],
)
def test_parsing(path: str, expected: ModelFile) -> None:
    assert parse(path) == expected


@pytest.mark.parametrize(
    "path",
    [
        "",
        "mlflow-proxy",
        "mlflow-proxy/",
        "mlflow-proxy/m",
        "mlflow-proxy/m/",
        "other/m/1",
        "/mlflow-proxy/m/1",
        "mlflow-proxy//1",
        "mlflow-proxy/m/latest",
        "mlflow-proxy/m/-1",
        "mlflow-proxy/m/١",
        "mlflow-proxy/m/1234567890123456789",
        "mlflow-proxy/../1",
        "mlflow-proxy/m/1/../2",
        "mlflow-proxy/m/1/./a",
        "mlflow-proxy/m/1/a/..",
        "mlflow-proxy/m/1//a",
        "mlflow-proxy/m/1/a//",
        "mlflow-proxy/m/1/..\\x",
        "mlflow-proxy/m/1/a\x00",
        "mlflow-proxy/m/1/a\ud800",
        "mlflow-proxy/m/1/c:\\a",
    ],
)
def test_parse_errors(path: str) -> None:
    with pytest.raises(BadRequestError):
        parse(path)


@given(st.lists(st.sampled_from(["mlflow-proxy", "m", "1", "..", ".", "", "a", "/", "\\", "~2e"])))
def test_what_is_parsed_never_climbs(segments: list[str]) -> None:
    try:
        found = parse("/".join(segments))
    except BadRequestError:
        return
    assert not set(found.path.split("/")) & {".", ".."}
    assert not found.path.startswith("/")


def test_the_reserved_prefix_is_a_whole_segment() -> None:
    assert is_ours("mlflow-proxy")
    assert is_ours("mlflow-proxy/x")
    assert not is_ours("mlflow-proxyx/m/1")
    assert not is_ours("0/run/artifacts")


def answer(body: object, status: int = 200) -> StoredResponse:
    return StoredResponse(status, "OK", (("Content-Type", "application/json"),), json.dumps(body).encode())


def test_dbfs_is_rewritten_and_the_rest_of_the_answer_kept() -> None:
    before = answer({"artifact_uri": "dbfs:/databricks/x", "more": [1]})
    after = rewrite_download_uri(before, "a b", "2")
    assert json.loads(after.body) == {"artifact_uri": "mlflow-artifacts:/mlflow-proxy/a~20b/2", "more": [1]}
    assert after.headers == before.headers


@pytest.mark.parametrize(
    ("before", "version"),
    [
        (answer({"artifact_uri": "s3://b/k"}), "1"),
        (answer({"artifact_uri": "s3://b/dbfs:/k"}), "1"),
        (answer({"artifact_uri": "mlflow-artifacts:/1/r/artifacts"}), "1"),
        (answer({"artifact_uri": None}), "1"),
        (answer({}), "1"),
        (answer(["dbfs:/x"]), "1"),
        (answer({"artifact_uri": "dbfs:/x"}, 404), "1"),
        (answer({"artifact_uri": "dbfs:/x"}), "latest"),
        (answer({"artifact_uri": "dbfs:/x"}), "1/../2"),
        (StoredResponse(200, "OK", (), b"dbfs:/x"), "1"),
    ],
)
def test_anything_else_is_left_alone(before: StoredResponse, version: str) -> None:
    assert rewrite_download_uri(before, "m", version) is before
