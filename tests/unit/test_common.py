"""Routes whose answers the workspace marks as their callers' own."""

from mlflow_proxy.reading.personal import Personal, PersonalRoutes

VERSIONS, MODELS = "model-versions/get", "registered-models/alias"


def test_a_route_is_known_after_two_personal_answers_in_a_row_and_tried_again_after_a_while() -> None:
    routes = PersonalRoutes()
    key = ("common-a-1", VERSIONS)
    routes.note(key, Personal.VARY, 0.0)
    assert not routes.known(key, 0.0)
    routes.note(key, Personal.CACHE_CONTROL, 1.0)
    assert routes.known(key, 1.0)
    assert not routes.known(("common-a-2", VERSIONS), 1.0)
    assert not routes.known(key, 61.0)
    routes.note(key, Personal.VARY, 61.0)
    assert routes.known(key, 61.0)
    routes.note(key, None, 62.0)
    assert not routes.known(key, 62.0)


def test_answers_that_describe_nothing_do_not_count() -> None:
    routes = PersonalRoutes()
    key = ("common-a-1", VERSIONS)
    assert not any(routes.note(key, Personal.UNDESCRIBED, float(now)) for now in range(10))
    assert not routes.known(key, 10.0)


def test_an_operator_is_told_of_each_route_once_however_many_models_there_are() -> None:
    routes = PersonalRoutes()
    news = [
        route
        for created in range(1000)
        for route in (VERSIONS, MODELS)
        for now in (0.0, 1.0, 62.0)
        if routes.note((f"common-a-{created}", route), Personal.VARY, now)
    ]
    assert news == [VERSIONS, MODELS]
