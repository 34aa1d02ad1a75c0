"""A file or directory is found by every name that a client may ask for it by, or refused."""

import json
import random
import re
import subprocess
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, unquote, urlparse, urlunparse

import aiohttp
import pytest

from mlflow_proxy.mlflow_api.client_names import (
    asked_as,
    listed_as,
    rebuilt_by_newer_pythons,
    rebuilt_by_older_pythons,
    why_unusable,
)
from tests.environments import CLIENTS
from tests.integration.names import ARTIFACTS, ROOT, holding, said_for
from tests.integration.support import LIST, SIGN, Api, raw
from tests.integration.test_clients import download, files_in, job

NAMES = [
    "aA",
    "a%41",
    "a%2541",
    "img x.png",
    "img%20x.png",
    "q",
    "q?x.txt",
    "q?",
    "a#b.txt",
    "a",
    "dt=2024%3A01",
    "a%2Fb",
    "1:0.bin",
    "A:b",
    "back\\slash",
    "tab\tbed",
    "new\nline",
    "\x01",
    "del\x7f",
    " a",
    "x;",
    "x;y=%3f",
    "file:q",
    "FILE:q",
    "http:q",
    "100%.txt",
    "100% %41",
    "%zz%41",
    "%23a",
    "a b#\u00fc%41+.txt",
    "[::1]",
    "%2e%2e",
    ".hidden",
    "a&b+c=d,e@f!g$h'(i)*~",
    "\u00fcml\u00e4ut \U0001f680",
]


def some_paths() -> list[list[str]]:
    """Return paths of a name or two, whose signs are those that matter to somebody."""
    chance, signs = random.Random(1), [*"aA%41%2F%3a%25#?;:\\& .+=\t\n\x7f\u00fc", "file:", "%", "%41", "%20"]
    made = ["".join(chance.choices(signs, k=chance.randint(1, 6))) for _ in range(4000)]
    names = [name for name in [*NAMES, *made] if "/" not in name and why_unusable(name) is None]
    return [[name] for name in names] + [chance.choices(names, k=2) for _ in range(2000)]


@pytest.mark.parametrize("version", CLIENTS)
def test_what_clients_say_for_a_name_is_known(version: str) -> None:
    """Their own code, on names that they may meet."""
    paths = some_paths()
    said = subprocess.run(
        [CLIENTS[version], Path(__file__).with_name("client_urls.py")],
        input=json.dumps(paths),
        capture_output=True,
        check=True,
        text=True,
    )
    told = 0
    for names, forms in zip(paths, json.loads(said.stdout), strict=True):
        if forms is not None:  # it does not refuse them
            asked, listed = (form.removesuffix("/") for form in (unquote(forms[0]), forms[1]))
            # An empty segment is refused.
            assert asked in said_for(names, asked_as) or "//" in asked, (names, forms)
            assert listed in said_for(names, listed_as), (names, forms)
            told += 1
    assert told > 1000


@pytest.mark.parametrize("said", ["http:q", "http:///q"])
def test_what_clients_say_depends_on_their_python_and_not_on_the_proxys(said: str) -> None:
    assert said in listed_as("http:q")
    assert said in asked_as("http:q")


def test_names_are_taken_for_urls_as_this_python_does() -> None:
    for name in {name for path in some_paths() for name in path}:
        with suppress(ValueError):  # it is no URL
            own = urlunparse(urlparse(name))
            assert own in {rebuilt_by_older_pythons(name), rebuilt_by_newer_pythons(name)}


LONE = [
    ("q?x.txt", "q?x.txt"),
    ("q?x y.txt", "q?x%20y.txt"),
    ("q?x.txt", "q%3Fx.txt"),
    ("d?x/f", "d?x/f"),
    ("a%41", "aA"),
    ("a%41", "a%2541"),
    ("a%2541", "a%2541"),
    ("a%2541", "aA"),
    ("img%20x.png", "img%20x.png"),
    ("img x.png", "img%20x.png"),
    ("dt=2024%3A01/f%3A", "dt=2024%3A01/f%3A"),
    ("dt=2024%3A01/f%3A", "dt=2024:01/f:"),
    ("dt=2024%3A01/f%3A", "dt=2024%253A01/f%253A"),
    ("path=x%2Fy/f", "path=x%2Fy/f"),
    ("path=x%2Fy/f", "path=x/y/f"),
    ("a#b.txt", "a"),
    ("a#b.txt", "a%23b.txt"),
    ("a:b", "a:b"),
    ("A:b", "a:b"),
    ("1:0.bin", "1:0.bin"),
    ("back\\slash", "back%5Cslash"),
    ("new\nline", "new%0Aline"),
    ("new\nline", "newline"),
    ("x;", "x"),
    ("file:q", "q"),
]
"""Names, and what clients ask for if there is nothing else."""


@pytest.mark.parametrize(("name", "target"), LONE)
@pytest.mark.parametrize("above", ["", "data/"])
async def test_a_name_is_found_however_it_is_asked_for(name: str, target: str, above: str) -> None:
    async with holding(f"{above}{name}", "MLmodel", "z/z") as (_, url):
        reply = await raw(url, "GET", f"{ROOT}/{above}{target}")
    assert (reply.status, reply.body) == (200, f"{above}{name}".encode())


@pytest.mark.parametrize(
    ("files", "target"),
    [
        (("aA", "a%41"), "aA"),
        (("aA", "a%41"), "a%41"),
        (("a%2541", "a%41"), "aA"),
        (("img x.png", "img%20x.png"), "img%20x.png"),
        (("a", "a#b.txt"), "a"),
        (("a#1", "a#2"), "a"),
        (("dt=2024%3A01/f", "dt=2024:01/f"), "dt=2024:01/f"),
        (("x%2Fy", "x/y"), "x/y"),
        (("x;", "x"), "x"),
        (("A:b", "a:b"), "a:b"),
        (("file:q", "q"), "q"),
        (("q?", "q"), "q"),
    ],
)
@pytest.mark.parametrize("above", ["", "data/"])
async def test_what_may_be_either_file_is_refused(files: tuple[str, str], target: str, above: str) -> None:
    one, other = files
    async with holding(f"{above}{one}", f"{above}{other}") as (workspace, url):
        reply = await raw(url, "GET", f"{ROOT}/{above}{target}")
        assert (reply.status, reply.json()["error_code"]) == (409, "RESOURCE_CONFLICT")
        for name in files:
            assert json.dumps(f"{above}{name}") in reply.json()["message"]
        assert not workspace.storage.arrivals
        assert not workspace.arrivals.to(SIGN)


@pytest.mark.parametrize(
    ("files", "target", "expected"),
    [
        (("q", "q?x.txt"), "q", "q"),
        (("q", "q?x.txt"), "q?x.txt", "q?x.txt"),
        (("a", "a#b.txt"), "a%23b.txt", "a#b.txt"),
        (("aA", "a%41"), "a%2541", "a%41"),
        (("img x.png", "img%20x.png"), "img%2520x.png", "img%20x.png"),
        (("dt=2024%3A01/f", "dt=2024:01/g"), "dt=2024:01/f", "dt=2024%3A01/f"),
        (("dt=2024%3A01/f", "dt=2024:01/g"), "dt=2024:01/g", "dt=2024:01/g"),
        (("d/f", "d#x/f"), "d/f", "d/f"),
        (("d/f", "d#x/f"), "d%23x/f", "d#x/f"),
        (("a/f", "a%2Ff/g"), "a/f", "a/f"),
    ],
)
async def test_what_can_be_one_file_only_is_that(files: tuple[str, str], target: str, expected: str) -> None:
    async with holding(*files) as (_, url):
        reply = await raw(url, "GET", f"{ROOT}/{target}")
    assert (reply.status, reply.body) == (200, expected.encode())


async def test_a_file_beside_a_directory_of_which_clients_cut_the_name() -> None:
    """All files below it are asked for as one that is not below it."""
    async with holding("d", "d#x/f") as (_, url):
        reply = await raw(url, "GET", f"{ROOT}/d")
        assert (reply.status, json.dumps("d#x/") in reply.json()["message"]) == (409, True)
    async with holding("d#x/f") as (_, url):
        assert (await raw(url, "GET", f"{ROOT}/d")).status == 404


async def test_a_request_that_may_mean_very_much_is_refused() -> None:
    names = [f"a#{number}" for number in range(100)]
    async with holding(*names) as (_, url):
        reply = await raw(url, "GET", f"{ROOT}/a")
    assert reply.status == 409


@pytest.mark.parametrize(
    ("files", "path", "expected"),
    [
        (("dt=2024%3A01/f",), "dt=2024:01", ["f"]),
        (("dt=2024%3A01/f",), "dt=2024%3A01", ["f"]),
        (("dt=2024%3A01/x%2Fy/g",), "dt=2024:01/x/y", ["g"]),
        (("d#x/f", "d/g"), "d", ["g"]),
        (("d#x/f", "d/g"), "d#x", ["f"]),
        (("d?x/f", "d/g"), "d?x", ["f"]),
    ],
)
async def test_directories_are_found_likewise(files: tuple[str, ...], path: str, expected: list[str]) -> None:
    async with holding(*files) as (_, url):
        reply = await raw(url, "GET", f"{ARTIFACTS}?path={quote(f'mlflow-proxy/m/1/{path}')}")
    assert [file["path"] for file in reply.json()["files"]] == expected


async def test_what_may_be_either_directory_is_refused() -> None:
    async with holding("dt=2024%3A01/f", "dt=2024:01/g") as (_, url):
        reply = await raw(url, "GET", f"{ARTIFACTS}?path=mlflow-proxy/m/1/dt%3D2024%3A01")
    assert reply.status == 409
    for name in ("dt=2024%3A01", "dt=2024:01"):
        assert json.dumps(name) in reply.json()["message"]


async def test_names_cost_no_calls_where_the_client_has_walked_the_directories(
    session: aiohttp.ClientSession,
) -> None:
    files = ("MLmodel", "data/a", "data/b", "data/deep/c", "data/deep/d%3A")
    async with holding(*files) as (workspace, url):
        api = Api(session, url)
        for path in ("", "/data", "/data/deep"):
            await api.get(ARTIFACTS, path=f"mlflow-proxy/m/1{path}")
        for file in files:
            assert (await api.call("GET", f"{ROOT}/{file}")).body == file.encode()
        assert len(workspace.arrivals.to(LIST)) == 3
        assert len(workspace.arrivals.to(SIGN)) == len(files)


async def test_a_file_alone_costs_the_listings_above_it_once(session: aiohttp.ClientSession) -> None:
    """As a client asks for it: whether it is a directory is known from the listing of the one it is in."""
    async with holding("MLmodel", "data/a", "data/b") as (workspace, url):
        api = Api(session, url)
        for _ in range(3):
            assert (await api.get(ARTIFACTS, path="mlflow-proxy/m/1/MLmodel")).json() == {"files": []}
            assert (await api.get(f"{ROOT}/MLmodel")).body == b"MLmodel"
        assert [len(workspace.arrivals.to(endpoint)) for endpoint in (LIST, SIGN)] == [1, 1]
        for name in ("a", "b"):
            assert (await api.get(ARTIFACTS, path=f"mlflow-proxy/m/1/data/{name}")).json() == {"files": []}
            assert (await api.get(f"{ROOT}/data/{name}")).body == f"data/{name}".encode()
        assert [len(workspace.arrivals.to(endpoint)) for endpoint in (LIST, SIGN)] == [2, 3]


TOGETHER: dict[str, tuple[str, ...]] = {
    "odd": ("a:b", "1:0.bin", "back\\slash", "dt=2024%3A01/f%20.txt", "q", "q?x.txt", "a&b=c,d@e!", "100%"),
    "capitals": ("aA", "a%41"),
    "spaces": ("img x.png", "img%20x.png"),
    "hash": ("a", "a#b.txt"),
    "hashes": ("d", "d#x/f"),
    "hive": ("dt=2024%3A01/f", "dt=2024:01/f"),
    "slash": ("x%2Fy", "x/y"),
    "scheme": ("A:b", "a:b"),
    "lines": ("new\nline", "tab\tbed", "\x01x", "del\x7f"),
    "cut": ("a#b.txt", "c"),
    "steps": ("..?x", "x"),
}
"""Directories, by names. What clients make of the last has to be refused."""
ALIKE = {"capitals", "spaces", "hash", "hashes", "hive", "slash", "scheme", "steps"}
REFUSED = {
    "1.30": ALIKE,
    # Newer ones refuse "#" themselves.
    "2.9": {*ALIKE, "cut"},
    "2.22": {*ALIKE, "cut"},
    "3": {*ALIKE, "cut"},
}
"""What a client cannot have as a whole, and says so."""


@pytest.mark.parametrize("version", CLIENTS)
async def test_no_client_takes_a_file_for_another(tmp_path: Path, version: str) -> None:
    files = [f"{above}/{name}" for above, names in TOGETHER.items() for name in names]
    async with holding(*files) as (_, url), job(version, "A", url, tmp_path) as process:
        uris: dict[str, str | list[str]] = {
            str(tmp_path / above): f"models:/m/1/{above}" for above in TOGETHER
        }
        errors = await download(process, uris)
        asked = await raw(url, "GET", "/-/metrics")
    failed = {Path(destination).name for destination in errors}
    for above, names in TOGETHER.items():
        # Where a client says that it has failed, what is there is right all the same.
        arrived = files_in(tmp_path / above)
        for path, content in arrived.items():
            said, name = path.removeprefix(f"{above}/"), content.decode().removeprefix(f"{above}/")
            assert said in said_for(name.split("/"), listed_as), (above, path, content)
        assert above in failed or len(arrived) == len(names), (above, arrived)
    assert failed == REFUSED[version], errors
    statuses = re.findall(rb'mlflow_proxy_requests_total{.*mlflow-artifacts.*status="(\d+)"} ', asked.body)
    assert set(statuses) <= {b"200", b"404", b"409", b"501"}, "nothing that clients repeat"
    for above in ("capitals", "spaces"):
        assert all(f"{above}/{name}" in errors[str(tmp_path / above)] for name in TOGETHER[above])
