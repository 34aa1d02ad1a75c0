"""Who a client is: the file of clients, what a request shows, and what clients may reach."""

import base64
import hashlib
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.access.clients import parse, warning
from mlflow_proxy.access.reach import is_mlflow
from mlflow_proxy.errors import UnreadableError

TOKENS = {"a": "token-of-a", "b": "token-of-b"}


def digest(token: str) -> str:
    return "sha256:" + hashlib.sha256(token.encode()).hexdigest()


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def shown(value: str) -> list[tuple[str, str]]:
    return [("Host", "h"), ("authorization", value)]


CLIENTS = parse("\n".join(["[clients]", *(f'{n} = "{digest(t)}"' for n, t in TOKENS.items())]).encode())


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("Bearer token-of-a", "a"),
        ("bearer  token-of-b ", "b"),
        (basic("anyone", "token-of-a"), "a"),
        (basic("", "token-of-b"), "b"),
        ("Bearer token-of-c", None),
        ("Bearer token-of-A", None),
        ("Bearer token-of-a token-of-a", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("token-of-a", None),
        ("Digest token-of-a", None),
        (f"Bearer {digest('token-of-a')}", None),
        (f"Bearer {digest('token-of-a').removeprefix('sha256:')}", None),
        (basic("token-of-a", ""), None),
        ("Basic " + base64.b64encode(b"token-of-a").decode(), None),
        ("Basic token-of-a", None),
        ("Basic \u00fc", None),
        ("Bearer \udcff", None),
    ],
)
def test_what_a_request_shows(value: str, name: str | None) -> None:
    assert CLIENTS.identify(shown(value)) == name
    assert CLIENTS.identify(shown(value)) == name, "the second time as the first"


def test_a_token_must_come_once() -> None:
    assert CLIENTS.identify([]) is None
    assert CLIENTS.identify(shown("Bearer token-of-a") * 2) is None
    assert CLIENTS.identify([("Cookie", "token-of-a"), ("X-Token", "Bearer token-of-a")]) is None


@given(st.text(min_size=1), st.dictionaries(st.sampled_from("abcdef"), st.text(min_size=1), max_size=6))
def test_a_client_is_known_exactly_by_a_token_of_its_own(token: str, tokens: dict[str, str]) -> None:
    tokens = {name: each for name, each in tokens.items() if not set(each) & set("\ud800\udfff")}
    owners = {hashlib.sha256(_sent(each)).digest(): name for name, each in tokens.items()}
    lines = [f'{name} = "sha256:{hashed.hex()}"' for hashed, name in owners.items()]
    clients = parse("\n".join(["[clients]", f'spare = "{"sha256:" + "0" * 64}"', *lines]).encode())
    value = "Bearer " + _sent(token).decode("utf-8", "surrogateescape")
    expected = owners.get(hashlib.sha256(_sent(token)).digest()) if _sent(token) else None
    assert clients.identify(shown(value)) == expected


def _sent(token: str) -> bytes:
    """Return a token as it arrives: white space around a field's value is not part of it."""
    return token.encode("utf-8", "replace").decode("utf-8").strip().encode()


def test_two_tokens_of_one_client() -> None:
    clients = parse(f'[clients]\na = ["{digest("old")}", "{digest("new").upper()}"]'.encode().lower())
    assert clients.identify(shown("Bearer old")) == clients.identify(shown("Bearer new")) == "a"
    assert len(clients) == 1


@pytest.mark.parametrize("text", ["[clients]", "clients = {}", "# all have left\n[clients]\n"])
def test_a_table_without_a_client_lets_nobody_in_and_says_so(text: str) -> None:
    clients = parse(text.encode())
    assert (len(clients), clients.identify(shown("Bearer token-of-a"))) == (0, None)
    assert "all clients are refused" in warning(clients)
    assert warning(CLIENTS) == ""


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "one table"),
        ("clients = 1", "one table"),
        (f'[client]\na = "{digest("t")}"', "one table"),
        (f'x = 1\n[clients]\na = "{digest("t")}"', "one table"),
        ('[clients]\na = "the-token-itself"', "sha256sum"),
        (f'[clients]\na = "{digest("t")[:-1]}"', "sha256sum"),
        ("[clients]\na = 1", "sha256sum"),
        ("[clients]\na = [1]", "sha256sum"),
        ("[clients]\na = {b = 1}", "sha256sum"),
        ("[clients]\na = []", "a has no token"),
        (f'[clients]\n"a b" = "{digest("t")}"', "names of clients"),
        (f'[clients]\n"a:b" = "{digest("t")}"', "names of clients"),
        (f'[clients]\na = "{digest("t")}"\nb = "{digest("t")}"', "a and b have the same token"),
        ('[clients]\na = "the-token-itself', "not TOML"),
        ("\xff", "not TOML"),
        ("a = " + "[" * 2000, "not TOML"),
    ],
)
def test_files_that_cannot_be_meant(text: str, complaint: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        parse(text.encode("latin-1"))
    assert complaint in str(caught.value)
    assert "the-token-itself" not in str(caught.value)


@pytest.mark.parametrize(
    "target",
    [
        "/api/2.0/mlflow/registered-models/get?name=..",
        "/api/2.0/preview/mlflow/runs/get",
        "/ajax-api/2.0/mlflow/runs/search",
        "/api/3.0/mlflow/traces",
        "/api/2.0/mlflow-artifacts/artifacts/a%20b%2Bc/d;e/100%25.txt",
        "/api/2.0/mlflow-artifacts/artifacts/..a/b../...",
    ],
)
def test_calls_of_the_mlflow_api(target: str) -> None:
    assert is_mlflow(target)


OTHER = "api/2.0/token/create"


@pytest.mark.parametrize(
    "target",
    [
        "/",
        f"/{OTHER}",
        f"/{OTHER}?/api/2.0/mlflow/x",
        "/api/2.0/mlflow",
        "/api/2.0/mlflow/",
        "/api/2.0/mlflowx/y",
        "/API/2.0/mlflow/x",
        "//api/2.0/mlflow/x",
        f"/x/api/2.0/mlflow/../../../../{OTHER}",
        *(
            f"/api/2.0/mlflow/{step}/{step}/{step}/{OTHER}"
            for step in (
                "..", "%2e%2e", "%2E.", ".%2e", "%252e%252e", "%25252e%25252e", "..;", "..;x=y", "%2e%2e%3bx",
                ".",
            )
        ),
        f"/api/2.0/mlflow/..%2f..%2f..%2f{OTHER}",
        f"/api/2.0/mlflow/..%5c..%5c..%5c{OTHER}",
        f"/api/2.0/mlflow/..\\..\\..\\{OTHER}",
        f"/api/2.0/mlflow/x/..%09/{OTHER}",
        f"/api/2.0/mlflow/..%00/{OTHER}",
        f"/api/2.0/mlflow/%c0%ae%c0%ae/{OTHER}",
        f"/api/2.0/mlflow/..%c0%af..%c0%af{OTHER}",
        f"/api/2.0/mlflow/%u002e%u002e/{OTHER}",
        f"/api/2.0/mlflow/%ef%bc%8e%ef%bc%8e/{OTHER}",
        f"/api/2.0/mlflow/%e2%80%a5/{OTHER}",
        f"/api/2.0/mlflow/..%3b/{OTHER}",
        f"/api/2.0/mlflow/..\\;x/{OTHER}",
        f"/api/\u0662.0/mlflow/{OTHER}",
        "/api/2.0/mlflow/" + "%" + "25" * 9 + "2e",
    ],
)  # fmt: skip
def test_calls_of_other_apis_in_whatever_dress(target: str) -> None:
    assert not is_mlflow(target)


@given(st.lists(st.sampled_from(["..", "a", ".", "", "..;p", ";"]), max_size=5), st.integers(0, 3))
def test_no_step_up_survives_any_encoding(segments: list[str], times: int) -> None:
    path = "/".join(segments)
    for _ in range(times):
        path = quote(path, safe="").replace(".", "%2e")
    steps_up = any(segment.partition(";")[0] in {".", ".."} for segment in segments)
    assert not (steps_up and is_mlflow("/api/2.0/mlflow/x/" + path))
