"""Which hosts a listener answers to."""

import ipaddress
import re
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlflow_proxy.addresses import canonical, is_loopback
from mlflow_proxy.errors import PermissionDeniedError
from mlflow_proxy.listener.hosts import LOOPBACK_ONLY, Hosts

LISTED = ("Proxy.Internal", "under_score", "caf.example.", "192.0.2.7", "[2001:DB8::7]")
LOOPBACK = Hosts.of(["127.0.0.1"], (), loopback=True)
LOOPBACK_AND_LISTED = Hosts.of(["localhost"], LISTED, loopback=True)
ANY = Hosts.of(["0.0.0.0"], (), loopback=False)
SERVICE = Hosts.of(["0.0.0.0"], LISTED, loopback=False)

LOOPBACK_NAMES = [
    *("localhost", "LocalHost", "localhost.", "proxy.localhost", "a.b.LOCALHOST."),
    *("127.0.0.1", "127.0.0.1.", "127.255.255.254", "127.1", "0x7f.1", "0177.0.0.1", "2130706433"),
    *("[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::FFFF:7f00:1]"),
]
LISTED_NAMES = [
    *("proxy.internal", "PROXY.INTERNAL", "proxy.internal.", "under_score", "caf.example"),
    *("192.0.2.7", "192.0.519", "0xc0000207", "[::ffff:192.0.2.7]", "[2001:db8::7]", "[2001:db8:0::07]"),
]
ADDRESSES = [
    *("192.0.2.1", "10.0.0.5", "0.0.0.0", "0", "1", "126.255.255.255", "128.0.0.1", "169.254.169.254"),
    *("[2001:db8::1]", "[::]", "[::2]", "[::ffff:10.0.0.5]", "[::127.0.0.1]", "[fe80::1]"),
]
FOREIGN = [
    *("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "notlocalhost", "localhost-"),
    *("sub.proxy.internal", "proxy.internal.evil.example", "xproxy.internal", "proxy", "internal"),
    *("127.0.0.1.nip.io", "127-0-0-1.evil.example", "%6cocalhost", "localhost%2e", "a,localhost"),
    *("[]", ".", "", ":", "localhost@a", "localhost:http", "localhost:80:80", "a" * 300, "a" * 30_000),
    *("\u217docalhost", "\u24dbocalhost", "loc\u0430lhost", "localhost\x00", "127.0.0.1 evil"),
]


def answers(hosts: Hosts, field: str | None) -> bool:
    try:
        hosts.check(field)
    except PermissionDeniedError:
        return False
    return True


@pytest.mark.parametrize("port", ["", ":8080", ":", ":99999"])
@pytest.mark.parametrize(
    ("names", "hosts", "answered"),
    [
        (LOOPBACK_NAMES, (LOOPBACK, LOOPBACK_AND_LISTED, LOOPBACK_ONLY, ANY, SERVICE), True),
        (LISTED_NAMES, (LOOPBACK_AND_LISTED, ANY, SERVICE), True),
        (LISTED_NAMES, (LOOPBACK, LOOPBACK_ONLY), False),
        (ADDRESSES, (ANY, SERVICE), True),
        (ADDRESSES, (LOOPBACK, LOOPBACK_AND_LISTED, LOOPBACK_ONLY), False),
        (FOREIGN, (ANY,), True),
        (FOREIGN, (LOOPBACK, LOOPBACK_AND_LISTED, LOOPBACK_ONLY, SERVICE), False),
    ],
)
def test_who_answers_to_what(names: list[str], hosts: tuple[Hosts, ...], answered: bool, port: str) -> None:
    for name in names:
        for each in hosts:
            assert answers(each, name + port) is answered, (name, each)


@pytest.mark.parametrize("hosts", [LOOPBACK, LOOPBACK_AND_LISTED, LOOPBACK_ONLY, ANY, SERVICE])
def test_a_request_without_a_host_is_no_browser_s(hosts: Hosts) -> None:
    assert answers(hosts, None)


def test_a_listener_answers_to_its_own_name() -> None:
    """The name of a machine may lead to loopback: on Debian to 127.0.1.1."""
    for loopback, allowed in ((True, ()), (True, LISTED), (False, LISTED)):
        hosts = Hosts.of(["Machine.Example"], allowed, loopback=loopback)
        assert answers(hosts, "machine.example:8080")
        assert not answers(hosts, "other.example")


@pytest.mark.parametrize("field", ["evil.example", "evil.example:8080", "a" * 5000, "<b>\n\x1b[0m\u202e'"])
def test_the_error_names_the_host_and_the_remedy(field: str) -> None:
    with pytest.raises(PermissionDeniedError) as caught:
        LOOPBACK.check(field)
    said = str(caught.value)
    assert caught.value.status == 403
    assert ascii(field[:50])[1:-1] in said
    assert said.isascii()
    assert said.isprintable()
    assert len(said) < 400
    assert "allowed_hosts" in said


NAME = st.text(string.ascii_letters + string.digits + "._-", max_size=40)
ANYTHING = st.one_of(
    NAME,
    st.text(max_size=40),
    st.builds("{}.{}".format, st.sampled_from(LOOPBACK_NAMES), NAME),
    st.builds("{}{}".format, NAME, st.sampled_from(LOOPBACK_NAMES)),
    st.ip_addresses().map(lambda address: f"[{address}]" if address.version == 6 else str(address)),
)


@given(ANYTHING, st.lists(NAME.filter(bool), max_size=3), st.sampled_from(["", ":1"]))
@example("evil.example", [], "")
def test_on_loopback_what_is_neither_loopback_nor_listed_is_refused(
    host: str, allowed: list[str], port: str
) -> None:
    hosts = Hosts.of(["127.0.0.1"], allowed, loopback=True)
    bare = re.sub(r":[0-9]*\Z", "", host + port)
    listed = canonical(bare) in map(canonical, allowed)
    assert answers(hosts, host + port) <= (is_loopback(bare) or listed)
    assert answers(hosts, f"{host}.evil.example{port}") <= (f"{host}.evil.example" in allowed)


@given(st.ip_addresses())
def test_of_addresses_loopback_ones_alone_are_answered(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    shown = f"[{address}]" if address.version == 6 else str(address)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    assert answers(LOOPBACK, shown) == (mapped or address).is_loopback
    assert answers(SERVICE, shown)
