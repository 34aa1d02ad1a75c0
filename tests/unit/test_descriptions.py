"""What of an answer may be shared by all who may read the model."""

import json
from typing import Any

import pytest

from mlflow_proxy.mlflow_api.descriptions import describes
from mlflow_proxy.mlflow_api.messages import StoredResponse
from mlflow_proxy.mlflow_api.reads import Read, shareable
from mlflow_proxy.mlflow_api.routes import match
from mlflow_proxy.reading.personal import Personal, PersonalRoutes, shared_form, why_personal

LOGIN = b"<html><form action=/login>"
LIST, SIGN = "model-versions/list-artifacts", "model-versions/get-signed-download-uri"
VERSION = {"name": "m", "version": "1"}


def read(endpoint: str, query: str = "name=m&version=1") -> Read:
    target = f"/api/2.0/mlflow/{endpoint}"
    found = shareable(match("GET", target), "GET", f"{target}?{query}", (), b"", "p")
    assert found is not None
    return found


def response(content: Any, status: int = 200, *fields: tuple[str, str]) -> StoredResponse:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return StoredResponse(status, "", fields, body)


@pytest.mark.parametrize(
    ("asked", "content", "right"),
    [
        (read(LIST), {"root_uri": "dbfs:/m", "files": [{"path": "MLmodel"}, {"path": "data"}]}, True),
        (read(LIST), {"root_uri": "dbfs:/m"}, True),
        (read(LIST), {"files": []}, True),
        (read(LIST), {}, False),
        (read(LIST), {"root_uri": 1}, False),
        (read(LIST), {"files": {}}, False),
        (read(LIST), {"files": ["MLmodel"]}, False),
        (read(LIST), {"files": [{"path": 1}]}, False),
        (read(LIST), {"files": [], "next_page_token": 1}, False),
        (read(LIST), {"files": [], "error_code": "PERMISSION_DENIED"}, False),
        (read(LIST), [], False),
        (read(LIST), LOGIN, False),
        (read(LIST, "name=m&version=1&path=data"), {"files": [{"path": "data/x"}]}, True),
        (read(LIST, "name=m&version=1&path=data/"), {"files": [{"path": "data/x"}]}, True),
        (read(LIST, "name=m&version=1&path=data"), {"files": [{"path": "data"}]}, True),
        (read(LIST, "name=m&version=1&path=data"), {"files": [{"path": "other/x"}]}, False),
        (read(LIST, "name=m&version=1&path=data"), {"files": [{"path": "database"}]}, False),
        (
            read(SIGN, "name=m&version=1&path=a/b%20c"),
            {"signed_uri": "https://s.test/r/a/b%20c?sig=1"},
            True,
        ),
        (read(SIGN, "name=m&version=1&path=a/b"), {"signed_uri": "https://s.test/r/a/c?p=/a/b"}, False),
        (read(SIGN, "name=m&version=1&path=b"), {"signed_uri": "https://s.test/r/ab"}, False),
        (read(SIGN, "name=m&version=1&path=a"), {"signed_uri": "file:///a"}, False),
        (read(SIGN, "name=m&version=1&path=a"), {"signed_uri": "https://[/a"}, False),
        (read(SIGN, "name=m&version=1"), {"signed_uri": "https://s.test/a"}, False),
        (read(SIGN, "name=m&version=1&path=a"), {"url": "https://s.test/a"}, False),
        (read("model-versions/get"), {"model_version": VERSION}, True),
        (read("model-versions/get"), {"model_version": {"name": "m", "version": 1}}, True),
        (read("model-versions/get"), {"model_version": {"name": "m", "version": "2"}}, False),
        (read("model-versions/get"), {"model_version": {"name": "n", "version": "1"}}, False),
        (read("model-versions/get"), {"model_version": None}, False),
        (read("registered-models/alias", "name=m&alias=a"), {"model_version": VERSION}, True),
        (
            read("registered-models/alias", "name=m&alias=a"),
            {"model_version": {"name": "n", "version": "1"}},
            False,
        ),
        (read("registered-models/get-latest-versions", "name=m"), {"model_versions": [VERSION]}, True),
        (read("registered-models/get-latest-versions", "name=m"), {"model_versions": []}, True),
        (read("registered-models/get-latest-versions", "name=m"), {}, False),
        (
            read("registered-models/get-latest-versions", "name=m"),
            {"model_versions": [VERSION, {"name": "n", "version": "1"}]},
            False,
        ),
        (read("model-versions/get-download-uri"), {"artifact_uri": "dbfs:/m"}, True),
        (read("model-versions/get-download-uri"), {"artifact_uri": "login"}, False),
        (read("registered-models/get", "name=m"), {"registered_model": {"name": "m"}}, True),
        (read("registered-models/get", "name=m"), {"registered_model": {"name": "n"}}, False),
    ],
)
def test_an_answer_describes_what_was_asked(asked: Read, content: Any, right: bool) -> None:
    assert describes(asked, response(content)) is right
    assert not any(
        describes(asked, response(content, status))
        for status in (201, 204, 206, 302, 400, 401, 403, 404, 407, 418, 422, 451, 500, 503)
    )


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ((), None),
        ((("Vary", "Accept-Encoding, Accept"),), None),
        ((("vary", "Origin"), ("Vary", "Accept, AUTHORIZATION")), Personal.VARY),
        ((("Vary", "*"),), Personal.VARY),
        ((("Cache-Control", "max-age=3, public"),), None),
        ((("Cache-Control", "no-cache"),), None),
        ((("cache-control", "max-age=3"), ("Cache-Control", "PRIVATE")), Personal.CACHE_CONTROL),
        ((("Cache-Control", 'private="set-cookie"'),), Personal.CACHE_CONTROL),
        ((("Cache-Control", "no-store"),), Personal.CACHE_CONTROL),
    ],
)
def test_what_the_workspace_says_is_personal(
    fields: tuple[tuple[str, str], ...], why: Personal | None
) -> None:
    assert why_personal(read(LIST), response({"files": []}, 200, *fields)) is why
    assert why_personal(read(LIST), response(LOGIN, 200, *fields)) is Personal.UNDESCRIBED


def test_nothing_about_one_caller_is_shared() -> None:
    named = ("Content-Type", "ETag", "Date", "Last-Modified", "Vary", "Cache-Control")
    own = ("Authorization", "X-Auth-Request-Access-Token", "Location", "Set-Cookie", "X-Unheard-Of", "Via")
    shared = shared_form(response(b"{}", 200, *((name, "v") for name in (*named, *own))))
    assert [name for name, _ in shared.headers] == list(named)


def test_a_route_that_only_gives_personal_answers_is_asked_in_each_name_for_a_while() -> None:
    routes, route = PersonalRoutes(), ("common", "route")
    assert not routes.note(route, Personal.VARY, 0.0)
    assert not routes.known(route, 0.0)
    assert routes.note(route, Personal.CACHE_CONTROL, 1.0)
    assert routes.known(route, 60.9) is Personal.CACHE_CONTROL
    assert not routes.known(("common", "another"), 60.9)
    assert not routes.known(route, 61.0)  # tried again, once a minute
    assert not routes.note(route, Personal.VARY, 61.0)
    assert routes.known(route, 62.0)
    routes.note(route, None, 121.5)
    assert not routes.known(route, 121.5)


def test_a_login_page_of_one_caller_ends_nothing_for_the_others() -> None:
    routes, route = PersonalRoutes(), ("common", "route")
    assert not any(routes.note(route, Personal.UNDESCRIBED, 0.0) for _ in range(9))
    assert not routes.known(route, 0.0)
