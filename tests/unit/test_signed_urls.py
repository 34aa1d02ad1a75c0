"""When signed URLs expire."""

from datetime import UTC, datetime
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.mlflow_api.signed_urls import expires_at

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
AWS = "X-Amz-Date=20260301T120000Z&X-Amz-Expires=900"
GCP = "X-Goog-Date=20260301T120000Z&X-Goog-Expires=600"
AZURE = "se=2026-03-01T12%3A05%3A00Z&sig=abc%3D"


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
        # One that cannot be read makes the whole unknown
        f"{AWS}&Expires=soon",
        f"{GCP}&se=tomorrow&sig=a",
        # Which one counts?
        f"{AWS}&X-Amz-Expires=9",
        "Expires=1&expires=2",
    ],
)
def test_otherwise_unknown(query: str) -> None:
    assert expires_at(url(query)) is None


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
