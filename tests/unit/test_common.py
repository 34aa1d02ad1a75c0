"""Where the workspace says of its answers that they are their callers' own."""

from mlflow_proxy.reading.personal import Personal, PersonalPlaces

VERSIONS, MODELS = "model-versions/get", "registered-models/alias"


def test_a_place_is_known_after_two_personal_answers_in_a_row_and_tried_again_after_a_while() -> None:
    places = PersonalPlaces()
    place = ("common-a-1", VERSIONS)
    places.note(place, Personal.VARY, 0.0)
    assert not places.known(place, 0.0)
    places.note(place, Personal.CACHE_CONTROL, 1.0)
    assert places.known(place, 1.0)
    assert not places.known(("common-a-2", VERSIONS), 1.0)
    assert not places.known(place, 61.0)
    places.note(place, Personal.VARY, 61.0)
    assert places.known(place, 61.0)
    places.note(place, None, 62.0)
    assert not places.known(place, 62.0)


def test_answers_that_describe_nothing_do_not_count() -> None:
    places = PersonalPlaces()
    place = ("common-a-1", VERSIONS)
    assert not any(places.note(place, Personal.UNDESCRIBED, float(now)) for now in range(10))
    assert not places.known(place, 10.0)


def test_an_operator_is_told_of_each_route_once_however_many_models_there_are() -> None:
    places = PersonalPlaces()
    news = [
        route
        for created in range(1000)
        for route in (VERSIONS, MODELS)
        for now in (0.0, 1.0, 62.0)
        if places.note((f"common-a-{created}", route), Personal.VARY, now)
    ]
    assert news == [VERSIONS, MODELS]
