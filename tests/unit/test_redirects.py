"""Where redirects of storage lead, and what may go along."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.errors import RefusedRedirectError
from mlflow_proxy.upstream.redirects import Way

SIGNED = "https://bucket.s3.amazonaws.com/some/file%2B?X-Amz-Signature=%2b+/="


def refusal(way: Way, *locations: str) -> str:
    with pytest.raises(RefusedRedirectError) as caught:
        way.onward(locations)
    return str(caught.value)


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("https://other.example/a%2Fb?sig=%2b+/=", "https://other.example/a%2Fb?sig=%2b+/="),
        ("HTTPS://Other.example/../x?", "HTTPS://Other.example/../x?"),
        ("/a%2Fb?sig=%2b+/=", "https://bucket.s3.amazonaws.com/a%2Fb?sig=%2b+/="),
        ("//other.example/x", "https://other.example/x"),
        ("?sig=2", "https://bucket.s3.amazonaws.com/some/file%2B?sig=2"),
        ("next", "https://bucket.s3.amazonaws.com/some/next"),
    ],
)
def test_a_place_is_taken_to_the_letter(location: str, target: str) -> None:
    way = Way((SIGNED,))
    assert (way.last, way.redirected) == (SIGNED, False)
    onward = way.onward([location])
    assert (onward.last, onward.redirected) == (target, True)


def test_redirects_are_followed_three_times() -> None:
    way = Way((SIGNED,))
    for number in range(3):
        way = way.onward([f"/{number}"])
    assert "more than 3" in refusal(way, "/3")


@pytest.mark.parametrize(
    "location", [SIGNED, "", "https://other.example/x", "/some/file%2B?X-Amz-Signature=%2b+/="]
)
def test_redirects_that_go_round(location: str) -> None:
    way = Way((SIGNED, "https://other.example/x", SIGNED + "&a"))
    assert "go round" in refusal(way, location)


@pytest.mark.parametrize("locations", [(), ("/a", "/b"), ("/a", "/a")])
def test_a_redirect_names_one_place(locations: tuple[str, ...]) -> None:
    assert "one place" in refusal(Way((SIGNED,)), *locations)


@pytest.mark.parametrize(
    "location", ["http://bucket.s3.amazonaws.com/x", "HTTP://x", "ftp://x/y", "file:///x", "x:"]
)
def test_https_is_not_left(location: str) -> None:
    assert "not https" in refusal(Way((SIGNED,)), location)
    assert "not https" in refusal(Way(("http://a.example/x", SIGNED)), location)


def test_http_may_lead_to_either() -> None:
    """Whether it may be asked at all is decided elsewhere."""
    for location in ("http://b.example/x", "https://b.example/x"):
        assert Way(("http://a.example/x",)).onward([location]).last == location


@pytest.mark.parametrize("location", ["//[", "//[x]/y"])
def test_what_is_no_url_is_no_place(location: str) -> None:
    assert "cannot be read" in refusal(Way((SIGNED,)), location)


@given(st.lists(st.text(max_size=20), max_size=3))
def test_no_location_is_too_strange(locations: list[str]) -> None:
    try:
        way = Way((SIGNED,)).onward(locations)
    except RefusedRedirectError:
        return
    way.takes_signed_fields()


def taken(signed: str, target: str) -> bool:
    return Way((signed, "https://between.example/x", target)).takes_signed_fields()


@pytest.mark.parametrize(
    "host", ["a.blob.core.windows.net", "storage.example:8443", "bucket.s3.amazonaws.com"]
)
def test_the_signed_origin_takes_signed_fields(host: str) -> None:
    assert Way((f"https://{host}/x?sig=1",)).takes_signed_fields()
    assert taken(f"https://{host}/x?sig=1", f"https://{host}/y")


@pytest.mark.parametrize(
    ("signed", "target"),
    [
        ("a.b-c.s3.amazonaws.com/x", "a.b-c.s3.eu-central-1.amazonaws.com/x"),
        ("b.s3.amazonaws.com/x", "b.s3-eu-central-1.amazonaws.com/x"),
        ("b.s3.amazonaws.com/x", "B.S3.eu-central-1.amazonaws.com:443/x"),
        ("b.s3.us-east-1.amazonaws.com/x", "b.s3.dualstack.ap-southeast-2.amazonaws.com/x"),
        ("b.s3.us-gov-west-1.amazonaws.com/x", "b.s3-fips.us-gov-east-1.amazonaws.com/x"),
        ("b.s3.cn-north-1.amazonaws.com.cn/x", "b.s3.cn-northwest-1.amazonaws.com.cn/x"),
        ("s3.amazonaws.com/b/x", "b.s3.mx-central-1.amazonaws.com/x"),
        ("s3.us-east-1.amazonaws.com/b/x", "s3.eu-west-1.amazonaws.com/b/x"),
        ("b.s3.s3.amazonaws.com/x", "b.s3.s3.us-east-1.amazonaws.com/x"),
    ],
)
def test_the_same_bucket_in_another_region_does_as_well(signed: str, target: str) -> None:
    assert taken(f"https://{signed}?sig=1", f"https://{target}?sig=1")


@pytest.mark.parametrize(
    "target",
    [
        # another bucket
        "https://other.s3.eu-central-1.amazonaws.com/x",
        "https://bucket.other.s3.eu-central-1.amazonaws.com/bucket/x",
        "https://s3.eu-central-1.amazonaws.com/other/bucket/x",
        "https://s3.eu-central-1.amazonaws.com//bucket/x",
        "https://s3.eu-central-1.amazonaws.com/",
        # names are others' there
        "https://bucket.s3.us-gov-west-1.amazonaws.com/x",
        "https://bucket.s3.cn-north-1.amazonaws.com.cn/x",
        # not S3
        "https://bucket.s3.amazonaws.com.evil.example/x",
        "https://bucket.s3.evil.example/x",
        "https://s3.evil.example/bucket/x",
        "https://bucket.s3-website-us-east-1.amazonaws.com/x",
        "https://bucket.s3-object-lambda.us-east-1.amazonaws.com/x",
        "https://bucket.s3.execute-api.us-east-1.amazonaws.com/x",
        "https://bucket.us-east-1.amazonaws.com/x",
        "https://bucket-s3.us-east-1.amazonaws.com/x",
        "https://evil.example/bucket.s3.amazonaws.com/x",
        "https://evil.example/?bucket.s3.amazonaws.com",
        "https://evil.example#bucket.s3.amazonaws.com/",
        "https://bucket.s3.amazonaws.com@evil.example/x",
        "https://bucket.s3.eu-central-1.amazonaws.com./x",
        # not safely
        "http://bucket.s3.eu-central-1.amazonaws.com/x",
        "https://bucket.s3.eu-central-1.amazonaws.com:8443/x",
        "https://bucket.s3.amazonaws.com:8443/x",
        "http://bucket.s3.amazonaws.com/x",
        # no URL
        "https://[/x",
        "https://bucket.s3.amazonaws.com:99999999/x",
        "x:",
        "",
    ],
)
def test_no_other_place_does(target: str) -> None:
    assert not taken(SIGNED, target)


@pytest.mark.parametrize(
    ("signed", "target"),
    [
        ("a.blob.core.windows.net", "a-secondary.blob.core.windows.net"),
        ("a.blob.core.windows.net", "b.blob.core.windows.net"),
        ("storage.googleapis.com", "bucket.storage.googleapis.com"),
        ("storage.example", "storage.example:8443"),
        ("storage.example", "sub.storage.example"),
    ],
)
def test_hosts_that_only_look_related_do_not(signed: str, target: str) -> None:
    assert not taken(f"https://{signed}/x", f"https://{target}/x")
