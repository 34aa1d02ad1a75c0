"""Which signed URLs are followed, and what addresses and names are this machine's own."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.addresses import effective, is_loopback, literal
from mlflow_proxy.errors import RefusedDestinationError
from mlflow_proxy.upstream.destination import Destinations

STRICT = Destinations.of("https://workspace.example", local=False)
PLAIN = Destinations.of("http://workspace.example", local=False)
LOCAL = Destinations.of("http://127.0.0.1:5000", local=False)

LOOPBACK = [
    "127.0.0.1",
    "127.255.255.254",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "127.0.0.1.",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:0:0:1]",
    "localhost",
    "LocalHost",
    "localhost.",
    "anything.localhost",
]
"""Spellings of this machine."""

METADATA = [
    "169.254.169.254",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "169.254.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "[fd00:ec2::254]",
    "[fd00:0ec2:0:0:0:0:0:254]",
    "[fd20:ce::254]",
    "[fd00:42::42]",
    "[fe80::1]",
    "[febf::1]",
    "[::ffff:169.254.169.254]",
    "[::169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::a9fe:a9fe]",
    "[2002:a9fe:a9fe::1]",
    "metadata.google.internal",
    "Metadata.Google.Internal.",
    "metadata.goog",
]
NOWHERE = [
    "0.0.0.0",
    "0",
    "0.1.2.3",
    "[::]",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "[ff02::1]",
    "[::ffff:0.0.0.0]",
    "[64:ff9b::]",
    "[::ffff:224.0.0.1]",
]
PLACES = [
    "bucket.s3.amazonaws.com",
    "account.blob.core.windows.net:444",
    "storage.googleapis.com",
    "10.1.2.3",
    "172.16.0.9:9000",
    "192.168.1.1",
    "100.64.0.1",
    "52.216.1.1",
    "[fd12:3456::1]:8443",
    "[2600:1f18::1]",
    "[64:ff9b::34d8:101]",
    "localhost.example",
    "127.0.0.1.example",
    "metadata.example",
]


def refusal(destinations: Destinations, url: str) -> str:
    with pytest.raises(RefusedDestinationError) as caught:
        destinations.checked(url)
    return str(caught.value)


@pytest.mark.parametrize("host", PLACES)
def test_storage_may_be_anywhere_else(host: str) -> None:
    url = f"https://{host}/a%2Fb?X-Amz-Signature=%2b+/=&se=1"
    assert all(str(each.checked(url)) == url for each in (STRICT, PLAIN, LOCAL))


@pytest.mark.parametrize("host", LOOPBACK)
def test_this_machine_is_asked_with_permission_only(host: str) -> None:
    for strict in (STRICT, PLAIN):
        assert "artifacts.local_storage" in refusal(strict, f"https://{host}/x")
    for permitted in (LOCAL, Destinations.of("https://workspace.example", local=True)):
        assert permitted.checked(f"https://{host}:9000/x").port == 9000
    assert is_loopback(host)


@pytest.mark.parametrize("host", [*METADATA, *NOWHERE])
def test_some_places_are_never_asked(host: str) -> None:
    for each in (STRICT, PLAIN, LOCAL):
        refusal(each, f"https://{host}/latest/meta-data")
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "upstream", ["http://localhost:1", "http://[::1]", "https://a.localhost", "http://127.9.9.9"]
)
def test_an_upstream_on_this_machine_has_its_storage_here(upstream: str) -> None:
    assert Destinations.of(upstream, local=False).local


@pytest.mark.parametrize(
    "upstream", ["http://10.0.0.1", "https://workspace.example", "https://localhost.example"]
)
def test_an_upstream_elsewhere_does_not(upstream: str) -> None:
    assert not Destinations.of(upstream, local=False).local


def test_http_is_for_those_whose_workspace_is_http() -> None:
    assert "is https" in refusal(STRICT, "http://storage.example/x")
    assert PLAIN.checked("http://storage.example/x").scheme == "http"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "/x",
        "//storage.example/x",
        "https:storage.example",
        "https:///x",
        "https://",
        "https://:443/x",
        "ftp://storage.example/x",
        "file:///etc/passwd",
        "gopher://storage.example/x",
        "dbfs:/x",
        "https://user@storage.example/x",
        "https://user:secret@storage.example/x",
        "https://@storage.example/x",
        "https://storage.example@127.0.0.1/x",
        "https://storage.example:secret/x",
        "https://storage.example:99999/x",
        "https://storage.example/x#secret",
        "https://storage.example/x#",
        "https://storage.example/x secret",
        "https://storage.example/x\r\nX-Secret: 1",
        "https://storage.example/x\nsecret",
        "https://storage.example/x\tsecret",
        "https://storage.example/x\0secret",
        "https://storage.example/x\x7fsecret",
        "https://storage.example\\@127.0.0.1/x",
        "https://storage.example/secret\u00fc",
        "https://storage.example/secret\ud800",
        "https://\uff11\uff12\uff17.0.0.1/x",
        "https://%31%32%37.0.0.1/x",
        "https://[fe80::1%25eth0]/x",
        "https://[::1/x",
        "https://[secret]/x",
    ],
)
def test_what_is_no_url_of_storage(url: str) -> None:
    for each in (STRICT, PLAIN, LOCAL):
        message = refusal(each, url)
        assert "secret" not in message, "a signed URL is a credential"


@given(st.text(max_size=60).map(lambda text: f"https://{text}"))
def test_any_text_is_followed_or_refused(text: str) -> None:
    try:
        url = STRICT.checked(text)
    except RefusedDestinationError:
        return
    assert url.scheme == "https"
    assert url.raw_host
    assert url.raw_user is None


# -- addresses that names have led to ----------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_a_name_that_leads_here(address: str) -> None:
    LOCAL.check_address(address)
    with pytest.raises(RefusedDestinationError, match=r"artifacts\.local_storage"):
        STRICT.check_address(address)


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "fe80::1%eth0", "fd00:ec2::254", "0.0.0.0", "::", "", "nonsense"]
)
def test_a_name_that_leads_where_nobody_goes(address: str) -> None:
    for each in (STRICT, PLAIN, LOCAL):
        with pytest.raises(RefusedDestinationError):
            each.check_address(address)


@pytest.mark.parametrize("address", ["10.0.0.1", "52.216.1.1", "fd12::1", "2600:1f18::1"])
def test_a_name_that_leads_to_storage(address: str) -> None:
    STRICT.check_address(address)


@given(st.ip_addresses(v=4))
def test_all_spellings_of_an_address_are_the_address(address: IPv4Address) -> None:
    number = int(address)
    first, rest = divmod(number, 2**24)
    for text in (
        str(address),
        str(number),
        hex(number),
        f"0{number:o}",
        f"{first}.{rest}",
        f"0x{first:x}.{rest}",
    ):
        assert literal(text) == address


@given(st.ip_addresses(v=4))
def test_an_address_in_another_is_seen(address: IPv4Address) -> None:
    number = int(address)
    for prefix in ("::ffff:0:0", "64:ff9b::", "64:ff9b:1::"):
        assert effective(IPv6Address(int(ip_address(prefix)) + number)) == address
    assert effective(IPv6Address((0x2002 << 112) + (number << 80))) == address
    assert effective(IPv6Address((0x20010000 << 96) + (number ^ 0xFFFFFFFF))) == address


@pytest.mark.parametrize(
    "host", ["", "storage", "1.2.3.4.5", "256.1.1.1", "1.2.3.4 x", "0x", "1..2", "a.1", "\uff11"]
)
def test_names_are_not_addresses(host: str) -> None:
    assert literal(host) is None
