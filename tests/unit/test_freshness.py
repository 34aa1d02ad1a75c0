"""How long answers may be used again, and what is known of versions."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.mlflow_api.answers import VersionStatus
from mlflow_proxy.mlflow_api.routes import Freshness
from mlflow_proxy.reading.freshness import Lifetimes, lifetime, survives_metadata_writes
from mlflow_proxy.reading.versions import Scope, VersionBook

LIFETIMES = Lifetimes(
    listing=3600,
    unverified=60,
    pending=5,
    mutable=4,
    not_found=3,
    discovery=1800,
    signed_url=850,
    signed_url_margin=120,
)
statuses = st.sampled_from([None, "READY", "PENDING_REGISTRATION", "FAILED_REGISTRATION"])


@pytest.mark.parametrize(
    ("freshness", "version_status", "url_expires_in", "seconds"),
    [
        (Freshness.NEVER, None, None, 0),
        (Freshness.MUTABLE, None, None, 4),
        (Freshness.MUTABLE, "READY", None, 4),
        (Freshness.DISCOVERY, None, None, 1800),
        (Freshness.LISTING, "READY", None, 3600),
        (Freshness.LISTING, None, None, 60),
        (Freshness.LISTING, "PENDING_REGISTRATION", None, 5),
        (Freshness.LISTING, "FAILED_REGISTRATION", None, 5),
        (Freshness.SIGNED_URL, None, 900.0, 780),
        (Freshness.SIGNED_URL, None, 960.0, 840),
        (Freshness.SIGNED_URL, None, 970.0, 850),
        (Freshness.SIGNED_URL, "READY", 604800.0, 850),
        (Freshness.SIGNED_URL, None, 120.0, 0),
        (Freshness.SIGNED_URL, None, 30.0, 0),
        (Freshness.SIGNED_URL, None, -30.0, 0),
        (Freshness.SIGNED_URL, "READY", None, 0),
    ],
)
def test_success(
    freshness: Freshness, version_status: str | None, url_expires_in: float | None, seconds: float
) -> None:
    assert (
        lifetime(freshness, 200, LIFETIMES, version_status=version_status, url_expires_in=url_expires_in)
        == seconds
    )


@given(st.floats(-1e6, 1e9), st.floats(0, 1e5), st.floats(0, 1e5))
def test_a_signed_url_is_never_kept_beyond_its_end_or_the_cap(
    expires: float, cap: float, margin: float
) -> None:
    lifetimes = replace(LIFETIMES, signed_url=cap, signed_url_margin=margin)
    seconds = lifetime(Freshness.SIGNED_URL, 200, lifetimes, url_expires_in=expires)
    assert 0 <= seconds <= cap
    assert seconds == 0 or seconds <= expires - margin


@given(
    st.sampled_from(Freshness),
    st.integers(100, 599).filter(lambda status: status not in {200, 404}),
    statuses,
    st.floats(0, 1e6),
)
def test_errors_and_unknown_successes_are_never_stored(
    freshness: Freshness, status: int, version_status: str | None, expires: float
) -> None:
    assert lifetime(freshness, status, LIFETIMES, version_status=version_status, url_expires_in=expires) == 0


@given(st.sampled_from(Freshness), statuses)
def test_not_found_is_stored_briefly(freshness: Freshness, version_status: str | None) -> None:
    expected = 0 if freshness is Freshness.NEVER else 3
    assert lifetime(freshness, 404, LIFETIMES, version_status=version_status) == expected


@given(st.sampled_from(Freshness), st.sampled_from([200, 404, 500]), statuses)
def test_only_what_cannot_change_survives_a_write_of_metadata(
    freshness: Freshness, status: int, version_status: str | None
) -> None:
    fixed = freshness in {Freshness.SIGNED_URL, Freshness.DISCOVERY} or (
        freshness is Freshness.LISTING and version_status == "READY"
    )
    assert survives_metadata_writes(freshness, status, version_status) == (status == 200 and fixed)


SCOPE = ("/api/2.0/mlflow/", "partition")


def seen(status: str | None = "READY", created: int | None = 1, model: str = "m") -> VersionStatus:
    return VersionStatus(model, "1", status, created)


def test_a_version_is_what_was_last_seen_of_it() -> None:
    book = VersionBook()
    assert book.status(SCOPE, "m", "1") is None
    assert not book.observe(SCOPE, seen("PENDING_REGISTRATION"), 0.0)
    assert not book.observe(SCOPE, seen("READY"), 1.0)
    assert book.status(SCOPE, "m", "1") == "READY"
    assert book.status(SCOPE, "m", "2") is None


def test_another_creation_means_another_version() -> None:
    book = VersionBook()
    book.observe(SCOPE, seen(created=1), 0.0)
    assert book.observe(SCOPE, seen("PENDING_REGISTRATION", created=2), 1.0)
    assert book.status(SCOPE, "m", "1") == "PENDING_REGISTRATION"
    assert not book.observe(SCOPE, seen(created=2), 2.0)


def test_an_answer_that_leaves_something_out_does_not_unlearn_it() -> None:
    book = VersionBook()
    book.observe(SCOPE, seen("READY", created=1), 0.0)
    assert not book.observe(SCOPE, seen(None, created=None), 1.0)
    assert book.status(SCOPE, "m", "1") == "READY"
    assert book.observe(SCOPE, seen(None, created=2), 2.0)
    assert book.status(SCOPE, "m", "1") is None


def test_the_status_is_asked_for_only_once_the_storm_is_over() -> None:
    book = VersionBook()
    assert [book.worth_asking(SCOPE, "m", "1", now, 60.0) for now in (0.0, 1.0, 59.0)] == [False] * 3
    assert book.worth_asking(SCOPE, "m", "1", 60.0, 60.0)
    assert not book.worth_asking(SCOPE, "m", "1", 61.0, 60.0)
    assert book.worth_asking(SCOPE, "m", "1", 120.0, 60.0)
    book.observe(SCOPE, seen("READY"), 121.0)
    assert not book.worth_asking(SCOPE, "m", "1", 999.0, 60.0)


def test_a_pending_version_is_asked_for_again() -> None:
    book = VersionBook()
    book.observe(SCOPE, seen("PENDING_REGISTRATION"), 0.0)
    assert not book.worth_asking(SCOPE, "m", "1", 59.0, 60.0)
    assert book.worth_asking(SCOPE, "m", "1", 60.0, 60.0)


def test_a_status_that_passes_by_need_not_be_asked_for() -> None:
    book = VersionBook()
    for moment in (0.0, 50.0):
        book.observe(SCOPE, seen("PENDING_REGISTRATION"), moment)
    assert not book.worth_asking(SCOPE, "m", "1", 109.0, 60.0)
    assert book.worth_asking(SCOPE, "m", "1", 110.0, 60.0)


@pytest.mark.parametrize(
    ("models", "left"),
    [
        (frozenset({"m"}), ["other"]),
        (frozenset({"M"}), ["other"]),
        (frozenset[str](), ["m", "other"]),
        (None, []),
    ],
)
def test_forgetting(models: frozenset[str] | None, left: list[str]) -> None:
    book = VersionBook()
    for model in ("m", "other"):
        book.observe(SCOPE, seen(model=model), 0.0)
    book.forget(models)
    assert [model for model in ("m", "other") if book.status(SCOPE, model, "1")] == left


@pytest.mark.parametrize("other", [("/api/2.0/mlflow/", "another"), ("/ajax-api/2.0/mlflow/", "partition")])
def test_the_same_name_elsewhere_is_another_version(other: Scope) -> None:
    book = VersionBook()
    assert not book.observe(SCOPE, seen("READY", created=1), 0.0)
    assert not book.observe(other, seen("PENDING_REGISTRATION", created=2), 1.0)
    assert not book.observe(SCOPE, seen("READY", created=1), 2.0)
    assert (book.status(SCOPE, "m", "1"), book.status(other, "m", "1")) == ("READY", "PENDING_REGISTRATION")
