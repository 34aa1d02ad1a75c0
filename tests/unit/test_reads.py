"""What makes two requests the same question, and which models a write names."""

import json
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mlflow_proxy import __version__
from mlflow_proxy.mlflow_api.api_prefixes import API_PREFIXES
from mlflow_proxy.mlflow_api.messages import NO_CLIENT, Client, UpstreamRequest
from mlflow_proxy.mlflow_api.reads import Read, json_parameters, parameters, shareable, written_models
from mlflow_proxy.mlflow_api.routes import match

BASE = "/api/2.0/mlflow/"
MODELS = "registered-models/search"
LISTING = match("GET", BASE + "model-versions/list-artifacts")
SIGNING = match("GET", BASE + "model-versions/get-signed-download-uri")
LATEST = match("POST", BASE + "registered-models/get-latest-versions")
SEARCH = match("GET", BASE + "model-versions/search")

texts = st.text(max_size=12)


POSTED = [("Content-Type", "application/json")]


def get(
    endpoint: str, query: str, partition: str = "p", body: bytes = b"", prefix: str = BASE
) -> Read | None:
    path = prefix + endpoint
    return shareable(match("GET", path), "GET", f"{path}?{query}" if query else path, (), body, partition)


def listing(query: str, partition: str = "p") -> Read | None:
    return get(LISTING.path, query, partition)


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
    one, other = (get(SIGNING.path, f"name=m&version=1&path={p}") for p in ("a", "a/"))
    assert one is not None
    assert other is not None
    assert one.key != other.key


def test_credentials_and_endpoints_ask_different_questions() -> None:
    keys = {
        read.key
        for route in (LISTING, SIGNING)
        for partition in ("p", "q")
        if (read := get(route.path, "name=m&version=1&path=f", partition)) is not None
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


@pytest.mark.parametrize(
    "more",
    ["Name=n", "NAME=n", "name[]=n", "name%20=n", "na%00me=n", "%EF%BD%8Eame=n", "=n", "%00=n", "[]=n"],
)
def test_names_that_some_server_takes_for_one_are_not_shared(more: str) -> None:
    assert listing(f"name=m&{more}") is None
    assert listing(f"{more}&name=m") is None
    assert listing(more.replace("=n", "x=n") + "&name=m") is not None


def test_a_get_with_a_body_is_not_shared() -> None:
    assert get(LISTING.path, "name=m", body=b"{}") is None


def test_what_is_never_fresh_is_not_shared() -> None:
    assert get("registered-models/of-tomorrow", "name=m") is None


def latest(body: bytes, query: str = "") -> Read | None:
    target = BASE + LATEST.path + (f"?{query}" if query else "")
    return shareable(LATEST, "POST", target, POSTED, body, "p")


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
    asked = get(LATEST.path, "name=m")
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
        (b'{"name": ' + b"[" * 900 + b"]" * 900 + b"}", ""),
        (b'{"name": [["m"]]}', ""),
        (b'{"name": {"a": "m"}}', ""),
        (b'{"name": "m", "\\u006eame": "n"}', ""),
        (b'{"name": NaN}', ""),
        (b'{"name": [-Infinity]}', ""),
        (b'{"name": 1.0}', ""),
        (b'{"name": 1e999}', ""),
        (b'{"name": 9007199254740992}', ""),
        (b'{"name": ' + b"9" * 5000 + b"}", ""),
        (b'{"name": "\\ud800"}', ""),
        (b'{"\\udc00": "m"}', ""),
        (b'{"name": "m"}', "name=m"),
    ],
)
def test_a_doubtful_post_is_not_shared(body: bytes, query: str) -> None:
    assert latest(body, query) is None


@pytest.mark.parametrize(
    ("fields", "shared"),
    [
        ([("content-type", "Application/JSON; charset=UTF-8")], True),
        ([("Content-Type", 'application/json;charset="utf-8"')], True),
        ([], False),
        ([("Content-Type", "text/plain")], False),
        ([("Content-Type", "application/x-www-form-urlencoded")], False),
        ([("Content-Type", "application/json; charset=utf-16")], False),
        ([("Content-Type", "application/json"), ("Content-Type", "application/json")], False),
        ([*POSTED, ("Content-Encoding", "gzip")], False),
        ([*POSTED, ("Content-Encoding", "identity"), ("content-encoding", "")], False),
    ],
)
def test_a_body_is_what_it_says(fields: list[tuple[str, str]], shared: bool) -> None:
    target = BASE + LATEST.path
    assert (shareable(LATEST, "POST", target, fields, b'{"name": "m"}', "p") is not None) is shared


@pytest.mark.parametrize("query", ["?", "?x=1"])
def test_public_documents_are_asked_for_without_a_query(query: str) -> None:
    path = "/.well-known/databricks-config"
    assert shareable(match("GET", path), "GET", path + query, (), b"", "p") is None
    assert shareable(match("GET", path), "GET", path, (), b"", "p") is not None


def test_each_prefix_is_a_question_of_its_own() -> None:
    reads = [get(LISTING.path, "name=m&version=1", prefix=prefix) for prefix in API_PREFIXES]
    assert len({read.key for read in reads if read is not None}) == len(API_PREFIXES)
    assert [read.prefix for read in reads if read is not None] == list(API_PREFIXES)


# -- how it is asked -------------------------------------------------------------------------------


def asked(read: Read | None, *, fresh: bool = False) -> UpstreamRequest:
    assert read is not None
    return read.request((("Authorization", "Bearer t"),), Client("client"), fresh=fresh)


def test_a_read_is_asked_in_one_spelling() -> None:
    request = asked(listing("version=%31&x=a+b%2fc~&name=%C3%bc'&path=d/e/&page_token="))
    assert request.target == f"{BASE}{LISTING.path}?name=%C3%BC%27&path=d%2Fe&version=1&x=a%20b%2Fc~"
    assert request.headers == (
        ("Authorization", "Bearer t"),
        ("Accept-Encoding", "gzip, deflate"),
        ("User-Agent", f"mlflow-proxy/{__version__}"),
    )
    assert (request.method, request.body) == ("GET", b"")
    assert asked(get(MODELS, "")).target == BASE + MODELS


def test_a_read_sent_as_post_is_asked_in_one_spelling() -> None:
    request = asked(latest(b' {"stages":["None", "\\u00fc"], "name" :"m\\n", "x": null, "y": -0}'))
    assert request.body == '{"name":"m\\n","stages":["None","ü"],"x":null,"y":0}'.encode()
    assert request.headers[-1] == ("Content-Type", "application/json")
    assert (request.method, request.target) == ("POST", BASE + LATEST.path)


def test_who_refuses_stored_answers_says_so_to_a_proxy_behind() -> None:
    assert asked(listing("name=m"), fresh=True).headers[-1] == ("Cache-Control", "no-cache")
    assert "Cache-Control" not in dict(asked(listing("name=m")).headers)


few = st.sampled_from(
    ["name", "version", "path", "page_token", "json:name", "a", "A", "a b", "ü", "m/", '"m"']
)
queries = st.dictionaries(few, few | texts, max_size=3)
endpoints = st.sampled_from([LISTING.path, SIGNING.path, LATEST.path, MODELS])
scalars = few | texts | st.integers(-3, 3) | st.none() | st.booleans()


@st.composite
def reads(draw: st.DrawFn) -> Read | None:
    """Spell a question in one of the ways that clients have."""
    partition = draw(st.sampled_from("pq"))
    if draw(st.booleans()):
        value = draw(st.dictionaries(few, scalars | st.lists(scalars, max_size=2), max_size=3))
        indent, ascii_only = draw(st.sampled_from([None, 1])), draw(st.booleans())
        body = json.dumps(value, indent=indent, ensure_ascii=ascii_only, sort_keys=draw(st.booleans()))
        target = draw(st.sampled_from(API_PREFIXES)) + LATEST.path
        return shareable(LATEST, "POST", target, POSTED, body.encode(errors="replace"), partition)
    pairs = draw(st.permutations(list(draw(queries).items())))
    query = urlencode(
        pairs, quote_via=draw(st.sampled_from([quote, quote_plus])), safe=draw(st.sampled_from(["", "/"]))
    )
    return get(draw(endpoints), query, partition, prefix=draw(st.sampled_from(API_PREFIXES)))


@given(reads(), reads())
def test_equal_keys_are_equal_requests_and_different_ones_are_not(
    one: Read | None, other: Read | None
) -> None:
    assume(one is not None and other is not None)
    assert one is not None
    assert other is not None
    requests = [read.request((("X", read.partition),), NO_CLIENT, fresh=False) for read in (one, other)]
    assert (one.key == other.key) == (requests[0] == requests[1])


@given(reads())
def test_a_canonical_request_asks_the_same_question_again(read: Read | None) -> None:
    assume(read is not None)
    assert read is not None
    request = read.request((), NO_CLIENT, fresh=False)
    again = shareable(
        read.route, request.method, request.target, request.headers, request.body, read.partition
    )
    assert again is not None
    assert (again.key, again.model, again.version) == (read.key, read.model, read.version)


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
    read = get(path, "filter=x&name=m&version=1")
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
        ("", b'{"name": "m", "Name": "n"}', {"m", "n"}),
        ("", b'{"name": "m", "NEW-NAME": "n"}', {"m", "n"}),
        ("name%5B%5D=n&name=m", b"", {"m", "n"}),
        ("", b'{"name": "m", "Name": ["n"]}', None),
        ("", b'{"name": "m", "metric": NaN, "x": 1e999}', {"m"}),
        ("", b'{"name": ' + b"[" * 5000 + b"]" * 5000 + b"}", None),
        ("", b'{"name": ""}', None),
        ("", b'{"name": 3}', None),
        ("", b"not json", None),
        ("", b'{"name": "m", "name": "n"}', None),
        ("name=%zz", b'{"name": "m"}', None),
    ],
)
def test_written_models(query: str, body: bytes, models: set[str] | None) -> None:
    assert written_models(query, body) == models


def test_a_name_of_nothing_is_no_model() -> None:
    read = listing("name=&version=1")
    assert read is not None
    assert read.model is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"name": "%s"}' % (b"x" * 257),
        b'{"name": "m", "stages": ["%s"]}' % (b"x" * 40_000),
        b'{"name": "m", "%s": "x"}' % (b"x" * 65),
        # Grows eighteenfold when it is normalised, which took seconds for a body of a mebibyte.
        b'{"name": "m", "%s": "x"}' % ("\ufdfa".encode() * 65),
    ],
)
def test_what_is_larger_than_anyone_means_is_kept_nowhere(body: bytes) -> None:
    assert latest(body) is None


def test_nor_is_it_looked_at_in_a_write() -> None:
    assert written_models("", b'{"name": "m", "%s": 1}' % ("\ufdfa".encode() * 65)) is None


@pytest.mark.parametrize(
    "query", ["name=" + "x" * 257, "name=m&version=" + "1" * 33, "name=m&" + "x" * 65 + "=1"]
)
def test_the_same_in_a_query(query: str) -> None:
    assert listing(query) is None
