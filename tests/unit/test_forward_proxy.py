"""HTTPS_PROXY, HTTP_PROXY and NO_PROXY: which way a request takes."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from mlflow_proxy import logs
from mlflow_proxy.addresses import is_loopback
from mlflow_proxy.errors import InvalidSettingsError
from mlflow_proxy.upstream.forward_proxy import ForwardProxies, without_credentials

BOTH = {"HTTPS_PROXY": "http://user:pass@secure:3128", "HTTP_PROXY": "http://plain:3128"}


def towards(url: str, **environment: str) -> str | None:
    found = ForwardProxies.named_in({**BOTH, **environment}).towards(URL(url))
    return found.host if found is not None else None


def test_each_scheme_has_its_own() -> None:
    assert towards("https://workspace.example/x?y") == "secure"
    assert towards("http://workspace.example") == "plain"
    assert ForwardProxies.named_in({}).towards(URL("https://workspace.example")) is None


def test_lower_case_comes_first_and_may_be_empty() -> None:
    assert towards("https://workspace.example", https_proxy="http://lower:1") == "lower"
    assert towards("https://workspace.example", https_proxy="") is None
    assert towards("http://workspace.example", no_proxy="", NO_PROXY="*") == "plain"


def test_a_proxy_may_be_named_without_a_scheme() -> None:
    proxies = ForwardProxies.named_in({"HTTP_PROXY": "proxy.example:3128"})
    assert proxies.towards(URL("http://h")) == URL("http://proxy.example:3128")


@pytest.mark.parametrize(
    "value",
    ["socks5://user:hush@h:1", "https://user:hush@h", "http://", "http://h:x", "http://user:hush@h:99999"],
)
def test_other_proxies_are_refused_without_showing_them(value: str) -> None:
    with pytest.raises(
        InvalidSettingsError, match="HTTPS_PROXY: only proxies at http://HOST:PORT"
    ) as problem:
        ForwardProxies.named_in({"HTTPS_PROXY": value})
    assert "hush" not in str(problem.value)


@pytest.mark.parametrize(
    ("entry", "url", "direct"),
    [
        ("*", "https://anything", True),
        ("example.com", "https://example.com", True),
        ("EXAMPLE.com", "https://a.Example.COM", True),
        (".example.com", "https://a.example.com", True),
        (".example.com", "https://example.com", True),
        ("*.example.com", "https://a.example.com", True),
        ("example.com", "https://example.com.", True),
        ("example.com", "https://notexample.com", False),
        ("example.com", "https://example.com.evil", False),
        ("example.com:443", "https://example.com", True),
        ("example.com:443", "https://example.com:8443", False),
        ("a, example.com ,b", "https://example.com", True),
        ("a example.com", "https://example.com", True),
        ("", "https://example.com", False),
        (",,", "https://example.com", False),
        (".", "https://example.com", False),
        ("10.0.0.0/8", "https://10.1.2.3", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("10.1.2.3", "https://10.1.2.3", True),
        ("2.3", "https://10.1.2.3", False),
        ("fd00::/8", "https://[fd12::1]", True),
        ("[fd12::1]:443", "https://[fd12::1]", True),
        ("[fd12::1]:444", "https://[fd12::1]", False),
        ("fd00::/8", "https://10.1.2.3", False),
    ],
)
def test_exceptions(entry: str, url: str, direct: bool) -> None:
    assert (towards(url, NO_PROXY=entry) is None) == direct


@given(st.ip_addresses(network="127.0.0.0/8"))
def test_this_machine_is_asked_directly(address: ipaddress.IPv4Address) -> None:
    assert towards(f"https://{address}") is None
    assert towards(f"https://[::ffff:{address}]:8443") is None
    assert is_loopback(str(address))


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "LOCALHOST", "[::1]", "localhost."])
def test_other_names_of_this_machine(host: str) -> None:
    assert towards(f"http://{host}:8080/x") is None


@given(st.ip_addresses())
def test_only_loopback_is_loopback(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    mapped = getattr(address, "ipv4_mapped", None)
    assert is_loopback(str(address)) == (mapped or address).is_loopback


@given(st.text(max_size=40), st.from_regex(r"[a-z0-9.:\[\]-]{1,20}", fullmatch=True))
def test_any_exception_can_be_read(no_proxy: str, host: str) -> None:
    try:
        url = URL(f"https://{host}/")
    except ValueError:
        return
    ForwardProxies.named_in(BOTH | {"NO_PROXY": no_proxy}).towards(url)


def test_credentials_are_not_shown() -> None:
    proxies = ForwardProxies.named_in(BOTH)
    proxy = proxies.towards(URL("https://h"))
    assert proxy is not None
    assert without_credentials(proxy) == "http://secure:3128"
    assert "pass" not in repr(proxies)
    assert logs.redact(f"via {proxy} and") == "via http://[redacted]@secure:3128 and"
