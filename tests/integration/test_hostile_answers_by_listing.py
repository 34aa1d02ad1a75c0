"""Listings must not lead a client astray, and must come to an end."""

import json

import pytest

from tests.integration.hostile_answers import (
    DEEP,
    DIRECTORY,
    all_is_well,
    exchange,
    file,
    files,
    said,
    saying,
)
from tests.integration.support import LIST, PLAIN, Inbound, RawClient, Upstream, answering

pytestmark = pytest.mark.usefixtures("no_waiting")

UNREADABLE = [
    files(file(1)),
    files(file(None)),
    files(file(["a"])),
    files({"is_dir": True}),
    files("a"),
    files(None),
    files(["a"]),
    files(file("a", is_dir="false")),
    files(file("a", is_dir=0)),
    files(file("a", is_dir=[])),
    b'{"files": {"path": "a"}}',
    b'{"files": "a"}',
    b'{"files": 0}',
    b'{"files": [], "next_page_token": 5}',
    b'{"files": [], "next_page_token": ["a"]}',
    b'{"files": [], "next_page_token": true}',
    b'{"files": [{"path": "a", "file_size": 1e999}]}',
    b"[]",
    b"null",
    b"<html>Log in</html>",
    b"",
    *(b'{"files": %b}' % deep for deep in DEEP[1:]),
]


@pytest.mark.parametrize("body", UNREADABLE, ids=range(len(UNREADABLE)))
async def test_what_is_no_listing_is_an_error(upstream: Upstream, client: RawClient, body: bytes) -> None:
    upstream.respond = answering(saying(body))
    reply = await exchange(client, DIRECTORY)
    assert reply.status == 502
    said(reply)
    upstream.respond = answering(saying(files(file("good"))))
    reply = await exchange(client, DIRECTORY)
    assert reply.json() == {"files": [{"path": "good", "is_dir": False, "file_size": 1}]}


ASTRAY = [
    files(file("..")),
    files(file("../../etc/passwd")),
    files(file("a/../../b")),
    files(file("a/..")),
    files(file("../", is_dir=True)),
    files(file(".", is_dir=True)),
    files(file("./a")),
    files(file("")),
    files(file("/")),
    files(file("/etc/passwd")),
    files(file("//host/share")),
    files(file("a//b")),
    files(file("..\\..\\evil.dll")),
    files(file("C:\\evil.dll")),
    files(file("a\0b")),
    files(file("a\ud800")),
    files(file("good"), file("..")),
    files(file("%2e%2e")),
]


@pytest.mark.parametrize("body", ASTRAY, ids=range(len(ASTRAY)))
async def test_a_listing_that_could_lead_a_client_astray_is_an_error(
    upstream: Upstream, client: RawClient, body: bytes
) -> None:
    """Clients repeat no 409: asking again would lead to the same name."""
    upstream.respond = answering(saying(body))
    reply = await exchange(client, DIRECTORY)
    assert (reply.status, reply.json()["error_code"]) == (409, "RESOURCE_CONFLICT")
    assert reply.all("Content-Type") == ["application/json"]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([file("a")], [{"path": "a", "is_dir": False, "file_size": 1}]),
        ([file("x/y/a")], [{"path": "a", "is_dir": False, "file_size": 1}]),
        ([file("..a"), file("...")], [{"path": p, "is_dir": False, "file_size": 1} for p in ("..a", "...")]),
        ([file("a", file_size="12")], [{"path": "a", "is_dir": False, "file_size": 12}]),
        ([file("a", file_size=None)], [{"path": "a", "is_dir": False}]),
        ([file("a", file_size=-1)], [{"path": "a", "is_dir": False}]),
        ([file("a", file_size=True)], [{"path": "a", "is_dir": False}]),
        ([file("a", file_size=1.5)], [{"path": "a", "is_dir": False}]),
        ([file("a", file_size=10**400)], [{"path": "a", "is_dir": False}]),
        ([file("a", file_size={})], [{"path": "a", "is_dir": False}]),
        ([file("a", is_dir=None)], [{"path": "a", "is_dir": False, "file_size": 1}]),
        ([file("d/", is_dir=True)], [{"path": "d", "is_dir": True}]),
        ([{"path": "a"}], [{"path": "a", "is_dir": False}]),
        (
            [file("C:evil"), file("a:b"), file("a\nb"), file("a\x7f"), file("%61"), file("~")],
            [
                {"path": p, "is_dir": False, "file_size": 1}
                for p in ("C:evil", "a:b", "a\nb", "a\x7f", "%61", "~")
            ],
        ),
    ],
)
async def test_what_a_listing_says_is_told_in_good_form(
    upstream: Upstream, client: RawClient, entries: list[object], expected: list[object]
) -> None:
    upstream.respond = answering(saying(files(*entries)))
    reply = await exchange(client, DIRECTORY)
    assert (reply.status, reply.json()) == (200, {"files": expected})


@pytest.mark.parametrize("body", [b"{}", b'{"files": null}', b'{"files": [], "next_page_token": null}'])
async def test_an_empty_directory(upstream: Upstream, client: RawClient, body: bytes) -> None:
    upstream.respond = answering(saying(body))
    assert (await exchange(client, DIRECTORY)).json() == {"files": []}


async def test_pages_that_go_round(upstream: Upstream, client: RawClient) -> None:
    async def respond(inbound: Inbound) -> None:
        token = "b" if "page_token=a" in inbound.target else "a"
        await inbound.send(saying(json.dumps({"files": [file("x")], "next_page_token": token}).encode()))

    upstream.respond = respond
    reply = await exchange(client, DIRECTORY)
    assert reply.status == 502
    assert "goes round" in said(reply)
    asked = [inbound.target for inbound in upstream.seen if LIST in inbound.target]
    assert len(asked) == 3, "the first, a, b, and a is known"
    await all_is_well(client, upstream, PLAIN)


async def test_pages_that_never_end(upstream: Upstream, client: RawClient) -> None:
    page = 7_000_000

    async def respond(inbound: Inbound) -> None:
        token = str(len(upstream.seen))
        await inbound.send(saying(json.dumps({"next_page_token": token, "x": "a" * page}).encode()))

    upstream.respond = respond
    reply = await exchange(client, DIRECTORY)
    assert reply.status == 502
    assert "no end" in said(reply)
    await all_is_well(client, upstream, PLAIN)
