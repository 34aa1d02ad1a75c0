"""When signed URLs expire."""

from datetime import UTC, datetime
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.mlflow_api.signed_urls import TEMPORARY, expires_at, has_ended

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
AWS = "X-Amz-Date=20260301T120000Z&X-Amz-Expires=900"
GCP = "X-Goog-Date=20260301T120000Z&X-Goog-Expires=600"
AZURE = "se=2026-03-01T12%3A05%3A00Z&sig=abc%3D"
TOKEN = "X-Amz-Security-Token=IQoJb3JpZ2luX2Vj%2F%2F"


def url(query: str) -> str:
    return f"https://bucket.example/some/file?{query}"


@pytest.mark.parametrize(
    ("query", "seconds"),
    [
        (f"X-Amz-Algorithm=AWS4-HMAC-SHA256&{AWS}&X-Amz-Signature=ab", 900),
        ("x-amz-date=20260301T120000Z&x-amz-expires=1", 1),
        (f"{GCP}&X-Goog-Signature=ab", 600),
        (f"sv=2021-08-06&{AZURE}", 300),
        ("se=2026-03-01T12:05:00.5Z&sig=a", 300.5),
        ("se=2026-03-01T12:05:00&sig=a", 300),
        ("se=2026-03-01&sig=a", -12 * 3600),
        ("se=2026-03-01T14:05:00%2B02:00&sig=a", 300),
        (f"AWSAccessKeyId=a&Signature=b&Expires={NOON + 7:.0f}", 7),
        # The earliest of several
        (f"{AWS}&{GCP}", 600),
        (f"{AZURE}&{AWS}", 300),
        (f"{AWS}&Expires={NOON + 7:.0f}", 7),
        # A user delegation key that ends before what it signed, or after
        (f"{AZURE}&ske=2026-03-01T12%3A01%3A00Z", 60),
        (f"{AZURE}&skt=2026-03-01&ske=2026-03-02&sks=b", 300),
        (f"SKE=2026-03-01&{AZURE}", -12 * 3600),
        # Temporary credentials end without the URL saying so
        (f"{AWS}&{TOKEN}", TEMPORARY),
        (f"x-amz-security-token=&{AWS}", TEMPORARY),
        (f"X-Amz-Date=20260301T120000Z&X-Amz-Expires=60&{TOKEN}", 60),
        (f"X-Amz-Date=20260301T120000Z&X-Amz-Expires=604800&{TOKEN}", TEMPORARY),
        # A fragment and a stray parameter are no matter
        (f"{AWS}&response-content-type=", 900),
        (f"{AWS}#x", 900),
    ],
)
def test_known_forms(query: str, seconds: float) -> None:
    assert expires_at(url(query)) == NOON + seconds


@pytest.mark.usefixtures("_far_from_greenwich")
@pytest.mark.parametrize(
    ("query", "seconds"), [(AWS, 900), (GCP, 600), ("se=2026-03-01T12:05:00&sig=a", 300)]
)
def test_times_without_a_zone_are_in_utc_wherever_the_proxy_runs(query: str, seconds: float) -> None:
    assert expires_at(url(query)) == NOON + seconds


@pytest.mark.parametrize(
    "query",
    [
        "",
        "X-Amz-Expires=900",
        "X-Amz-Date=20260301T120000Z",
        "X-Amz-Date=20260301T120000Z&X-Goog-Expires=900",
        "se=2026-03-01T12:05:00Z",
        "sig=abc",
        "#Expires=99999999999",
        # Unreadable
        "X-Amz-Date=2026-03-01&X-Amz-Expires=900",
        "X-Amz-Date=20261301T120000Z&X-Amz-Expires=900",
        "X-Amz-Date=2026111T120000Z&X-Amz-Expires=900",
        "X-Amz-Date=20260301T1200Z&X-Amz-Expires=900",
        "X-Amz-Date=%D9%A2026031T120000Z&X-Amz-Expires=900",
        "X-Amz-Date=20260301T120000Z&X-Amz-Expires=",
        "X-Amz-Date=20260301T120000Z&X-Amz-Expires=-1",
        "X-Amz-Date=20260301T120000Z&X-Amz-Expires=1e3",
        "X-Amz-Date=20260301T120000Z&X-Amz-Expires=%D9%A3",
        "X-Amz-Date=20260301T120000Z&X-Amz-Expires=9999999999999",
        "se=tomorrow&sig=a",
        "se=2026-03-01T12:05:00+02:00&sig=a",
        "se=&sig=a",
        "Expires=soon",
        "Expires=%ff",
        "ske=2026-03-01T12:01:00Z&sig=a",
        # When did temporary credentials sign it?
        f"Expires=1804204800&{TOKEN}",
        f"X-Amz-Date=20260301T120000Z&{TOKEN}",
        f"{AZURE}&{TOKEN}",
        TOKEN,
        # One that cannot be read makes the whole unknown
        f"{AZURE}&ske=",
        f"{AZURE}&ske=garbage",
        f"{AZURE}&ske=1772366400",
        f"{AZURE}&ske=2026-03-01T12:01:00Z&ske=2026-03-01T12:02:00Z",
        f"{AWS}&{TOKEN}&{TOKEN}",
        f"{AWS}&Expires=soon",
        f"{GCP}&se=tomorrow&sig=a",
        # Which one counts?
        f"{AWS}&X-Amz-Expires=9",
        "Expires=1&expires=2",
    ],
)
def test_otherwise_unknown(query: str) -> None:
    assert expires_at(url(query)) is None


@pytest.mark.parametrize(
    ("name", "seconds"),
    [("X-Amz-Security-Token", TEMPORARY), ("x-amz-security-token", TEMPORARY), ("X", 900)],
)
def test_temporary_credentials_may_stand_in_a_field(name: str, seconds: float) -> None:
    assert expires_at(url(AWS), [("x-ms-version", "1"), (name, "IQo")]) == NOON + seconds


def test_another_end_never_lengthens_a_life() -> None:
    alone = {each: expires_at(url(each)) for each in (AWS, GCP, AZURE)}
    for query, end in alone.items():
        for more in (TOKEN, "ske=2026-03-01T12:01:00Z", "ske=2027-01-01", "ske=x", *alone):
            if more != query and more not in query:
                both = expires_at(url(f"{query}&{more}"))
                assert both is None or (end is not None and both <= end)


@pytest.mark.parametrize(
    ("status", "body", "ended"),
    [
        (401, b"", True),
        (403, b"", True),
        (403, b"<Error><Code>AccessDenied</Code></Error>", True),
        (400, b"<?xml version='1.0'?><Error><Code>ExpiredToken</Code><Message>m</Message></Error>", True),
        (400, b"<Error>\n  <Code> ExpiredToken </Code>\n</Error>", True),
        (400, b"<Error><Code>TokenRefreshRequired</Code></Error>", True),
        (400, b"<Error><Code>InvalidToken</Code></Error>", True),
        (400, b"<Error><Code>InvalidArgument</Code><Message>ExpiredToken</Message></Error>", False),
        (400, b"ExpiredToken", False),
        (400, b"", False),
        (404, b"<Error><Code>NoSuchKey</Code></Error>", False),
        (429, b"", False),
        (500, b"<Error><Code>ExpiredToken</Code></Error>", False),
        (503, b"<Error><Code>SlowDown</Code></Error>", False),
        (200, b"<Code>ExpiredToken</Code>", False),
    ],
)
def test_what_storage_says_of_a_url(status: int, body: bytes, ended: bool) -> None:
    assert has_ended(status, body) is ended


@given(st.text(max_size=60))
def test_no_url_is_too_strange(text: str) -> None:
    assert expires_at(text) is None or "=" in text
    expires_at("https://[" + text)


@given(
    st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC)),
    st.integers(0, 604800),
    st.sampled_from(["Amz", "Goog"]),
)
def test_any_moment(moment: datetime, seconds: int, cloud: str) -> None:
    moment = moment.replace(microsecond=0)
    query = {f"X-{cloud}-Date": f"{moment:%Y%m%dT%H%M%SZ}", f"X-{cloud}-Expires": str(seconds)}
    assert expires_at(url(urlencode(query))) == moment.timestamp() + seconds
    azure = urlencode({"se": f"{moment:%Y-%m-%dT%H:%M:%SZ}", "sig": "a"})
    assert expires_at(url(azure)) == moment.timestamp()
