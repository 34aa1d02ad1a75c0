"""What the upstream is told of where a request came from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.mlflow_api.forwarded import FORWARDED, forwarded
from mlflow_proxy.mlflow_api.headers import field

OURS = [("X-Forwarded-For", "192.0.2.7"), ("X-Forwarded-Proto", "http"), ("X-Forwarded-Host", "proxy:8080")]


def told(*fields: tuple[str, str], peer: str | None = "192.0.2.7", scheme: str = "http") -> dict[str, str]:
    """Return the fields that are about the way, each of which must be one."""
    result = forwarded(fields, peer, scheme, "proxy:8080")
    found = [(name.lower(), value) for name, value in result if name.lower() in FORWARDED]
    assert len(found) == len(dict(found))
    return dict(found)


def test_everything_else_stays_as_it_is() -> None:
    fields = [("Authorization", "Bearer a"), ("X-Tag", "1"), ("x-tag", "2"), ("X-Forwarded-User", "me")]
    assert forwarded(fields, "192.0.2.7", "http", "proxy:8080") == [*fields, *OURS]


def test_what_came_stands_before_what_was_seen() -> None:
    assert told(
        ("X-Forwarded-For", "203.0.113.9"),
        ("x-forwarded-for", " 10.0.0.1 ,10.0.0.2 "),
        ("X-Forwarded-For", ""),
        ("X-FORWARDED-PROTO", "https"),
        ("X-Forwarded-Host", "models.example"),
    ) == {
        "x-forwarded-for": "203.0.113.9, 10.0.0.1 ,10.0.0.2, 192.0.2.7",
        "x-forwarded-proto": "https, http",
        "x-forwarded-host": "models.example, proxy:8080",
    }


@pytest.mark.parametrize(
    ("peer", "plain", "node"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("::ffff:127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("::FFFF:c000:207", "192.0.2.7", "192.0.2.7"),
        ("2001:DB8:0::1", "2001:db8::1", '"[2001:db8::1]"'),
        ("fe80::1%eth0", "fe80::1", '"[fe80::1]"'),
        ("", "unknown", "unknown"),
        (None, "unknown", "unknown"),
    ],
)
def test_addresses_are_written_as_others_read_them(peer: str | None, plain: str, node: str) -> None:
    fields = told(("Forwarded", "for=10.0.0.1"), peer=peer, scheme="https")
    assert fields["x-forwarded-for"] == plain
    assert fields["forwarded"] == f'for=10.0.0.1, for={node};host="proxy:8080";proto=https'


def test_forwarded_is_added_to_only_if_it_came() -> None:
    assert "forwarded" not in told()
    assert "forwarded" not in told(("Forwarded", " "))


@pytest.mark.parametrize(
    "valid",
    [
        "for=192.0.2.43",
        'For="[2001:db8:cafe::17]:4711"',
        "for=192.0.2.60;proto=http;by=203.0.113.43",
        "for=192.0.2.43, for=198.51.100.17",
        "for=_hidden, for=unknown ,\tfor=_SEVKISEK",
        'for="_gazonk";host="a,b;c=\\"d\\""',
        ",for=a;",
    ],
)
def test_what_is_well_formed_is_kept(valid: str) -> None:
    ours = 'for=192.0.2.7;host="proxy:8080";proto=http'
    assert told(("Forwarded", valid))["forwarded"] == f"{valid.strip()}, {ours}"
    assert told(("Forwarded", valid), ("Forwarded", "for=z"))["forwarded"] == f"{valid}, for=z, {ours}"


@pytest.mark.parametrize(
    "malformed",
    ['for="', 'for="127.0.0.1, for=x', 'for="a\\"', "for", "for = a", "=a", "for=a b", 'for="a"b'],
)
def test_what_is_malformed_swallows_nothing(malformed: str) -> None:
    ours = 'for=192.0.2.7;host="proxy:8080";proto=http'
    assert told(("Forwarded", malformed))["forwarded"] == ours
    assert told(("Forwarded", "for=z"), ("Forwarded", malformed))["forwarded"] == ours


def test_quotes_in_a_host_do_not_end_it() -> None:
    fields = forwarded([("Forwarded", "for=a")], "192.0.2.7", "http", 'a";for="\\b')
    assert field(fields, "Forwarded").endswith('host="a\\";for=\\"\\\\b";proto=http')


def test_without_a_host_none_is_named() -> None:
    fields = dict(forwarded([("Forwarded", "for=a")], "192.0.2.7", "http", None))
    assert "X-Forwarded-Host" not in fields
    assert fields["Forwarded"] == "for=a, for=192.0.2.7;proto=http"


@pytest.mark.parametrize(
    "text", ["a=" * 15_000, 'for="' + "\\" * 30_000, ";" * 30_000, ", " * 15_000 + "=", "a" * 30_000]
)
@pytest.mark.timeout(5)
def test_long_fields_take_no_time(text: str) -> None:
    for _ in range(20):
        told(("Forwarded", text + '"'), ("X-Forwarded-For", text))


names = st.sampled_from(
    ["X-Forwarded-For", "x-forwarded-for", "X-Forwarded-Host", "Forwarded", "X-Forwarded_For"]
)
values = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20)


@given(st.lists(st.tuples(names, values), max_size=6))
def test_the_last_word_is_always_what_was_seen(fields: list[tuple[str, str]]) -> None:
    found = told(*fields)
    assert found["x-forwarded-for"].split(",")[-1].strip() == "192.0.2.7"
    assert found["x-forwarded-host"].split(",")[-1].strip() == "proxy:8080"
    others = [each for each in fields if each[0].lower() not in FORWARDED]
    assert [
        each for each in forwarded(fields, None, "http", None) if each[0].lower() not in FORWARDED
    ] == others
