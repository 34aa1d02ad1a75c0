"""What endpoints answer with, and what they do not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.mlflow_api import shapes
from mlflow_proxy.mlflow_api.routes import ROUTES
from mlflow_proxy.mlflow_api.shapes import Shape

KEPT = [route.shape for route in ROUTES if route.shape is not None]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
)
NAMES = sorted({name for shape in KEPT for name, _ in (*shape.required, *shape.optional)})
ANSWERS = st.dictionaries(st.sampled_from([*NAMES, "error_code", "other"]), VALUES, max_size=4)


@pytest.mark.parametrize(
    ("shape", "answer", "fits"),
    [
        (shapes.MODEL, {"registered_model": {"name": "m"}}, True),
        (shapes.MODEL, {"registered_model": {"name": "m"}, "more": 1}, True),
        (shapes.MODEL, {"registered_model": {"name": "m"}, "error_code": "INTERNAL_ERROR"}, False),
        (shapes.MODEL, {"registered_model": {}}, False),
        (shapes.MODEL, {"registered_model": ["m"]}, False),
        (shapes.MODEL, {"registered_model": None}, False),
        (shapes.MODEL, {"model_version": {"name": "m"}}, False),
        (shapes.MODEL, {}, False),
        (shapes.LISTING, {}, True),
        (shapes.LISTING, {"root_uri": "dbfs:/m"}, True),
        (shapes.LISTING, {"files": None, "next_page_token": None}, True),
        (shapes.LISTING, {"files": [], "more": 1}, True),
        (shapes.LISTING, {"more": 1}, False),
        (shapes.LISTING, {"files": {}}, False),
        (shapes.LISTING, {"files": [], "next_page_token": 1}, False),
        (shapes.LISTING, {"error_code": None}, False),
        (shapes.LISTING, {"error_code": "INTERNAL_ERROR", "files": []}, False),
        (shapes.VERSIONS, {}, True),
        (shapes.VERSIONS, {"model_versions": []}, True),
        (shapes.VERSIONS, {"registered_models": []}, False),
        (shapes.WORKSPACE_CONFIG, {"oidc_endpoint": "https://w.test/oidc"}, True),
        (shapes.WORKSPACE_CONFIG, {"oidc_endpoint": ""}, False),
        (shapes.WORKSPACE_CONFIG, {}, False),
        (shapes.OAUTH_SERVER, {"authorization_endpoint": "a", "token_endpoint": "b"}, True),
        (shapes.OAUTH_SERVER, {"token_endpoint": "b"}, False),
    ],
)
def test_an_answer_has_the_shape_of_its_endpoint(shape: Shape, answer: dict[str, Any], fits: bool) -> None:
    assert shape.fits(answer) is fits


@given(st.sampled_from(KEPT), ANSWERS)
def test_an_answer_has_one_of_the_members_and_each_is_of_its_type(
    shape: Shape, answer: dict[str, Any]
) -> None:
    members = dict((*shape.required, *shape.optional))
    if shape.fits(answer):
        assert "error_code" not in answer
        assert not answer or set(answer) & set(members)
        assert all(answer.get(name) for name, _ in shape.required)
        for name in set(answer) & set(members):
            assert answer[name] is None or isinstance(answer[name], members[name])


@given(st.sampled_from(KEPT), ANSWERS)
def test_an_error_is_no_answer(shape: Shape, answer: dict[str, Any]) -> None:
    assert not shape.fits(answer | {"error_code": "INTERNAL_ERROR"})
