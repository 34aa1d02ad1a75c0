"""Names that clients change on their way into a URL: no file is another's, and what can be had arrives."""

import asyncio
import json
import random
import re
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote, urlparse, urlunparse

import aiohttp
import pytest
from aiohttp import web

from mlflow_proxy.artifacts import listings
from mlflow_proxy.artifacts.directories import put_together, read_page
from mlflow_proxy.demo.answers import Answer, no_fault
from mlflow_proxy.demo.models import Model, ModelVersion
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.mlflow_api.client_names import (
    asked_as,
    listed_as,
    rebuilt_by_newer_pythons,
    rebuilt_by_older_pythons,
    why_unusable,
)
from mlflow_proxy.settings import AccessSettings, CacheSettings
from tests.environments import CLIENTS
from tests.integration.support import FRESH, HIT, LIST, MUCH, SIGN, Api, proxied, raw
from tests.integration.test_clients import download, files_in, job

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
ROOT = f"{ARTIFACTS}/mlflow-proxy/m/1"

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


def said_for(names: list[str], known: Callable[[str], frozenset[str]]) -> set[str]:
    first, *rest = [known(name) for name in names]
    # A client may lose all of a name, or what follows one in which it has found "#".
    return {"", *first, *(f"{above}/{name}" for above in first for names in rest for name in names)}


# -- on the wire -----------------------------------------------------------------------------------


@asynccontextmanager
async def holding(
    *files: str, cache: CacheSettings | None = None, page_size: int = 1000
) -> AsyncIterator[tuple[EmulatedWorkspace, str]]:
    """Serve a model of these files, each of which contains its path; yields workspace and proxy."""
    model = Model("m", {"1": ModelVersion({path: path.encode() for path in files})})
    options = WorkspaceOptions(limit=MUCH, latency=0, page_size=page_size)
    async with EmulatedWorkspace([model], options) as workspace, proxied(workspace.url, cache=cache) as url:
        yield workspace, url


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


BAD = ["..", "a/../b", "x\x00y", "\ud800", "c:\\x", "..\\x", "\\x", ".\\", "%2e%2e", " ", "..?x"]
"""What no client can have."""


def page_of(*paths: str) -> Answer:
    files = [{"path": path, "is_dir": False, "file_size": 1} for path in paths]
    return Answer(200, json.dumps({"root_uri": "dbfs:/m", "files": files}).encode())


@pytest.mark.parametrize("name", BAD)
async def test_what_no_client_can_have_is_named(name: str) -> None:
    async with holding("a", "b:c") as (workspace, url):
        workspace.fault = lambda request: (
            page_of("a", "b:c", name) if request.path.endswith("list-artifacts") else None
        )
        reply = await raw(url, "GET", f"{ARTIFACTS}?path=mlflow-proxy/m/1")
        assert (reply.status, reply.json()["error_code"]) == (409, "RESOURCE_CONFLICT")
        assert json.dumps(name) in reply.json()["message"]
        for other in ("a", "b:c"):
            assert (await raw(url, "GET", f"{ROOT}/{other}")).body == other.encode()


async def test_one_name_of_many_that_no_client_can_have(read: Counter[str]) -> None:
    names = [f"f{number:05}" for number in range(20_000)]
    async with holding(*names, "..?", page_size=1000) as (_, url):
        for _ in range(3):
            reply = await raw(url, "GET", f"{ARTIFACTS}?path=mlflow-proxy/m/1")
            assert (reply.status, '"..?"' in reply.json()["message"]) == (409, True)
        assert (await raw(url, "GET", f"{ROOT}/f00007")).body == b"f00007"
    assert read == {"pages": 21, "directories": 1}


async def test_a_listing_that_changes_between_two_lookups() -> None:
    async with holding("a%41", cache=CacheSettings(unverified_ttl=0)) as (workspace, url):

        def change(request: web.Request) -> None:
            if request.path.endswith("get-signed-download-uri"):
                workspace.models["m"].versions["1"] = ModelVersion({"aA": b"another"})

        workspace.fault = change
        assert (await raw(url, "GET", f"{ROOT}/aA")).status == 404
        assert (await raw(url, "GET", f"{ROOT}/aA")).body == b"another"


async def test_an_answer_of_another_route_is_no_listing() -> None:
    async with holding("a") as (workspace, url):
        workspace.fault = lambda request: (
            Answer(200, b'{"model_version": {"name": "m", "version": "1", "status": "READY"}}')
            if request.path.endswith("list-artifacts")
            else None
        )
        for target in (f"{ROOT}/a", f"{ARTIFACTS}?path=mlflow-proxy/m/1"):
            assert (await raw(url, "GET", target)).status == 502
        workspace.fault = no_fault
        assert (await raw(url, "GET", f"{ROOT}/a")).body == b"a"


# -- read once, for all who may see it -------------------------------------------------------------


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often a page is read and a directory put together."""
    counted: Counter[str] = Counter()

    def counting(what: str, work: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*arguments: object) -> object:
            counted[what] += 1
            return work(*arguments)

        return wrapped

    monkeypatch.setattr(listings, "read_page", counting("pages", read_page))
    monkeypatch.setattr(listings, "put_together", counting("directories", put_together))
    return counted


NINE = [f"f{number}" for number in range(9)]
LISTING = f"{ARTIFACTS}?path=mlflow-proxy/m/1"


async def test_a_directory_is_put_together_once_for_all(
    session: aiohttp.ClientSession, read: Counter[str]
) -> None:
    async with holding(*NINE, page_size=3) as (_, url):
        api = Api(session, url)
        replies = await asyncio.gather(*(api.get(LISTING) for _ in range(10)))
        replies += [await api.get(LISTING) for _ in range(10)]
        assert {tuple(file["path"] for file in reply.json()["files"]) for reply in replies} == {tuple(NINE)}
        assert read == {"pages": 3, "directories": 1}
        for name in NINE:
            assert (await api.get(f"{ROOT}/{name}")).status == 200
        assert read == {"pages": 3, "directories": 1}


async def test_what_is_written_or_purged_is_read_again(
    session: aiohttp.ClientSession, read: Counter[str]
) -> None:
    async with holding(*NINE, page_size=3) as (workspace, url):
        api = Api(session, url)
        await api.get(LISTING)
        workspace.models["m"].versions["1"] = ModelVersion({"other": b""})
        assert len((await api.get(LISTING)).json()["files"]) == 9
        await api.call("DELETE", "model-versions/delete", {"name": "n", "version": "1"})
        assert len((await api.get(LISTING)).json()["files"]) == 9
        await api.call("POST", "registered-models/rename", {"name": "m", "new_name": "m2"})
        await api.call("POST", "registered-models/rename", {"name": "m2", "new_name": "m"})
        assert [file["path"] for file in (await api.get(LISTING)).json()["files"]] == ["other"]
    assert read == {"pages": 4, "directories": 2}


async def test_a_page_that_expires_takes_the_directory_with_it(session: aiohttp.ClientSession) -> None:
    """The pages of one directory end at different times: here one of them at once."""
    async with holding(*NINE, page_size=3) as (workspace, url):
        api = Api(session, url)
        vary = iter(range(100))

        def second_is_not_stored(request: web.Request) -> Answer | None:
            if not request.query.get("page_token"):
                return None
            files = [{"path": f"g{next(vary)}", "is_dir": False}]
            return Answer(200, json.dumps({"root_uri": "x", "files": files}).encode(), {"Vary": "*"})

        workspace.fault = second_is_not_stored
        found = [(await api.get(LISTING)).json()["files"][3]["path"] for _ in range(3)]
    assert found == ["g0", "g1", "g2"]


@pytest.mark.parametrize("sharing", ["credential", "proven"])
async def test_nobody_sees_a_directory_by_anothers_permission(
    session: aiohttp.ClientSession, read: Counter[str], sharing: Literal["credential", "proven"]
) -> None:
    version = ModelVersion(dict.fromkeys(NINE, b""))
    model = Model("m", {"1": version}, readers=frozenset({"a", "b"}))
    options = WorkspaceOptions(limit=MUCH, latency=0, page_size=3)
    async with (
        EmulatedWorkspace([model], options) as workspace,
        proxied(workspace.url, access=AccessSettings(sharing=sharing)) as url,
    ):
        api = Api(session, url)
        for token, status in (("a", 200), ("c", 403), ("b", 200), ("", 403), ("a", 200), ("c", 403)):
            for target in (LISTING, f"{ROOT}/f1"):
                assert (await api.get(target, token=token)).status == status, (token, target)
    once = {"pages": 3, "directories": 1}
    assert read == (once if sharing == "proven" else {what: 2 * often for what, often in once.items()})


async def test_who_refuses_stored_answers_gets_none(session: aiohttp.ClientSession) -> None:
    async with holding(*NINE, page_size=3) as (workspace, url):
        api = Api(session, url)
        await api.get(LISTING)
        workspace.models["m"].versions["1"] = ModelVersion({"other": b"new"})
        fresh = {"Cache-Control": "no-cache"}
        reply = await api.call("GET", LISTING, headers=fresh)
        assert ([file["path"] for file in reply.json()["files"]], reply.outcome) == (["other"], FRESH)
        assert (await api.call("GET", f"{ROOT}/other", headers=fresh)).body == b"new"


async def test_a_large_listing_arrives_as_it_is(session: aiohttp.ClientSession) -> None:
    """It is not sent in one piece."""
    names = [f"{number:05}{'x' * 100}" for number in range(5000)]
    async with holding(*names) as (_, url):
        for _ in range(2):
            reply = await Api(session, url).get(LISTING)
            assert [file["path"] for file in reply.json()["files"]] == names
            assert int(reply.headers["Content-Length"]) == len(reply.body)
        assert (reply.outcome, reply.headers["Age"]) == (HIT, "0")


# -- real clients ----------------------------------------------------------------------------------

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
