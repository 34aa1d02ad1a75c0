"""What makes two requests the same question, and which models a write names."""

import json
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.mlflow_api.reads import Read, json_parameters, parameters, shareable, written_models
from proxy.mlflow_api.routes import match

BASE = "/api/2.0/mlflow/"
LISTING = match("GET", BASE + "model-versions/list-artifacts")
SIGNING = match("GET", BASE + "model-versions/get-signed-download-uri")
LATEST = match("POST", BASE + "registered-models/get-latest-versions")
SEARCH = match("GET", BASE + "model-versions/search")

texts = st.text(max_size=12)


def listing(query: str, partition: str = "p") -> Read | None:
    return shareable(LISTING, "GET", partition, query, b"")


def key(query: str) -> object:
    read = listing(query)
    assert read is not None
    return read.key


@pytest.mark.parametrize(
    "spelling",
    [
        "name=m&version=1",
        "version=1&name=m",
        "name=m&version=1&path=",
        "name=m&version=1&path=/",
        "name=%6d&version=%31",
        "path=&version=1&page_token=&name=m",
    ],
)
def test_spellings_of_the_root_listing(spelling: str) -> None:
    assert key(spelling) == key("name=m&version=1")


def test_spellings_of_a_directory() -> None:
    assert key("name=m&version=1&path=a/b") == key("name=m&version=1&path=a%2Fb/")
    assert key("name=a+b&version=1") == key("name=a%20b&version=1")


@pytest.mark.parametrize(
    "other",
    [
        "name=M&version=1",
        "name=m&version=2",
        "name=m&version=1&path=a",
        "name=m&version=1&path=/a",
        "name=m&version=1&page_token=t",
        "name=m&version=1&more=x",
        "name=m",
        "",
    ],
)
def test_different_questions(other: str) -> None:
    assert key(other) != key("name=m&version=1")


def test_a_signed_url_is_for_one_spelling_of_a_path() -> None:
    one, other = (shareable(SIGNING, "GET", "p", f"name=m&version=1&path={p}", b"") for p in ("a", "a/"))
    assert one is not None
    assert other is not None
    assert one.key != other.key


def test_credentials_and_endpoints_ask_different_questions() -> None:
    keys = {
        read.key
        for route in (LISTING, SIGNING)
        for partition in ("p", "q")
        if (read := shareable(route, "GET", partition, "name=m&version=1&path=f", b"")) is not None
    }
    assert len(keys) == 4


@pytest.mark.parametrize(
    "query",
    [
        "name=m&name=m",
        "name=m&name=n",
        "name=m&%6eame=n",
        "name=%",
        "name=%zz",
        "name=%ff",
        "name=m;version=1",
        "name=m&&version=1",
        "name",
        "&",
        "name=ü",
        "name=\udcff",
    ],
)
def test_ambiguity_is_not_shared(query: str) -> None:
    assert listing(query) is None
    assert written_models(query, b"") is None


@given(st.dictionaries(texts, texts, max_size=5), st.randoms())
def test_any_parameters_survive_their_encoding_in_any_order(asked: dict[str, str], random: object) -> None:
    assert parameters(urlencode(asked)) == asked
    assert parameters(urlencode(list(reversed(asked.items())), quote_via=quote)) == asked


@given(st.text(max_size=40))
def test_no_query_is_too_strange(query: str) -> None:
    read = listing(query)
    assert read is None or read.key[0] == "p"


def test_a_get_with_a_body_is_not_shared() -> None:
    assert shareable(LISTING, "GET", "p", "name=m", b"{}") is None


def test_what_is_never_fresh_is_not_shared() -> None:
    route = match("GET", BASE + "registered-models/of-tomorrow")
    assert shareable(route, "GET", "p", "name=m", b"") is None


def latest(body: bytes, query: str = "") -> Read | None:
    return shareable(LATEST, "POST", "p", query, body)


def test_the_read_sent_as_post() -> None:
    read = latest(b'{"name": "m", "stages": ["Production"]}')
    assert read is not None
    assert (read.model, read.version) == ("m", None)
    same = latest(b'{"stages":["Production"],"name":"\\u006d"}')
    assert same is not None
    assert same.key == read.key
    for other in (b'{"name": "m"}', b'{"name": "m", "stages": ["None"]}', b'{"name": ["m"]}', b"{}"):
        different = latest(other)
        assert different is not None
        assert different.key != read.key


def test_post_and_get_are_different_questions() -> None:
    asked = shareable(match("GET", BASE + LATEST.path), "GET", "p", "name=m", b"")
    posted = latest(b'{"name": "m"}')
    assert asked is not None
    assert posted is not None
    assert asked.key != posted.key


@pytest.mark.parametrize(
    ("body", "query"),
    [
        (b"", ""),
        (b"[]", ""),
        (b'"m"', ""),
        (b"{", ""),
        (b'{"name": "m", "name": "n"}', ""),
        (b'{"name": "m", "x": {"a": 1, "a": 2}}', ""),
        (b"\xff", ""),
        ('{"name": "m"}'.encode("utf-16"), ""),
        (b"\xef\xbb\xbf{}", ""),
        (b"[" * 100_000, ""),
        (b'{"name": "m"}', "name=m"),
    ],
)
def test_a_doubtful_post_is_not_shared(body: bytes, query: str) -> None:
    assert latest(body, query) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(texts, json_values, max_size=4), st.booleans())
def test_json_keeps_its_meaning_in_the_key(value: dict[str, object], ascii_only: bool) -> None:
    found = json_parameters(json.dumps(value, indent=1, ensure_ascii=ascii_only).encode())
    assert found is not None
    assert {name: json.loads(member) for name, member in found.items()} == value


@given(st.binary(max_size=40))
def test_no_body_is_too_strange(body: bytes) -> None:
    latest(body)
    written_models("", body)


def test_reads_know_their_model_and_version() -> None:
    read = listing("name=a%2Fb&version=7")
    assert read is not None
    assert (read.model, read.version) == ("a/b", "7")


@pytest.mark.parametrize(
    "path", ["model-versions/search", "registered-models/search", "registered-models/list"]
)
def test_searches_are_about_any_model_whatever_they_say(path: str) -> None:
    read = shareable(match("GET", BASE + path), "GET", "p", "filter=x&name=m&version=1", b"")
    assert read is not None
    assert (read.model, read.version) == (None, None)


@pytest.mark.parametrize(
    ("query", "body", "models"),
    [
        ("", b'{"name": "m"}', {"m"}),
        ("", b'{"name": "m", "new_name": "n"}', {"m", "n"}),
        ("", b'{"name": "m", "newName": "n"}', {"m", "n"}),
        ("name=m&version=1", b"", {"m"}),
        ("name=m", b'{"name": "n"}', {"m", "n"}),
        ("", b'{"name": "m", "version": 1, "tags": [{"key": "k"}]}', {"m"}),
        ("", b"", None),
        ("", b"{}", None),
        ("", b"[]", None),
        ("", b'{"name": ""}', None),
        ("", b'{"name": 3}', None),
        ("", b"not json", None),
        ("", b'{"name": "m", "name": "n"}', None),
        ("name=%zz", b'{"name": "m"}', None),
    ],
)
def test_written_models(query: str, body: bytes, models: set[str] | None) -> None:
    assert written_models(query, body) == models
