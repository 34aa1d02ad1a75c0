"""Who may give commands."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from mlflow_proxy.admin.permission import check
from mlflow_proxy.errors import AnswerableError, PermissionDeniedError, UnauthenticatedError

TOKEN = "0123456789abcdef"
HERE = "127.0.0.1"
Fields = dict[str, str]


def refusal(fields: Fields | CIMultiDict[str], peer: str | None = HERE, token: str = "") -> type | None:
    try:
        check(CIMultiDict(fields), peer, token)
    except AnswerableError as error:
        return type(error)
    return None


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_without_a_token_this_machine_may(peer: str) -> None:
    assert refusal({}, peer) is None
    assert refusal({"Authorization": "Bearer whatever"}, peer) is None


@pytest.mark.parametrize("peer", [None, "", "10.0.0.1", "::2", "::ffff:10.0.0.1", "localhost", "fe80::1%lo"])
def test_without_a_token_nobody_else_may(peer: str | None) -> None:
    assert refusal({}, peer) is PermissionDeniedError
    assert (
        refusal({"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1"}, peer) is PermissionDeniedError
    )


@given(st.ip_addresses())
def test_only_loopback_may(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    mapped = getattr(address, "ipv4_mapped", None) or address
    assert (refusal({}, str(address)) is None) == mapped.is_loopback


@pytest.mark.parametrize("peer", [HERE, "10.0.0.1", None])
def test_with_a_token_whoever_has_it_may(peer: str | None) -> None:
    for spelled in (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER  {TOKEN} "):
        assert refusal({"Authorization": spelled}, peer, TOKEN) is None


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}0",
        "Bearer \udcff",
    ],
)
@pytest.mark.parametrize("peer", [HERE, "10.0.0.1"])
def test_with_a_token_nobody_else_may(given: str, peer: str) -> None:
    assert refusal({}, peer, TOKEN) is UnauthenticatedError
    assert refusal({"Authorization": given}, peer, TOKEN) is UnauthenticatedError


@given(st.text())
def test_no_other_token_will_do(text: str) -> None:
    if text.strip() != TOKEN:
        assert refusal({"Authorization": f"Bearer {text}"}, HERE, TOKEN) is UnauthenticatedError


def test_two_credentials_are_none() -> None:
    both = CIMultiDict([("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer other")])
    assert refusal(both, HERE, TOKEN) is UnauthenticatedError


@pytest.mark.parametrize("field", ["Origin", "origin", "Sec-Fetch-Site", "Sec-Fetch-Mode"])
@pytest.mark.parametrize(
    "value", ["https://evil.example", "http://127.0.0.1:8080", "null", "same-origin", ""]
)
@pytest.mark.parametrize("token", ["", TOKEN])
def test_pages_in_browsers_may_not(field: str, value: str, token: str) -> None:
    fields = {field: value, "Authorization": f"Bearer {TOKEN}"}
    assert refusal(fields, HERE, token) is PermissionDeniedError


@pytest.mark.parametrize("field", ["Forwarded", "Via", "X-Forwarded-For", "X-Real-IP"])
def test_what_another_proxy_here_passes_on_needs_a_token(field: str) -> None:
    assert refusal({field: "127.0.0.1"}) is PermissionDeniedError
    assert refusal({field: "127.0.0.1", "Authorization": f"Bearer {TOKEN}"}, HERE, TOKEN) is None
