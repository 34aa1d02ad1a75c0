"""A short run of the fuzzer, what it has found before, and whether it finds what is broken on purpose.

`python -m tests.fuzz` goes on for as long as one likes.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

import mlflow_proxy.access.sharing
import mlflow_proxy.artifacts.facade
import mlflow_proxy.forwarding
import mlflow_proxy.passing
import mlflow_proxy.pipeline
from mlflow_proxy.access.partition import Partitions
from mlflow_proxy.errors import TruncatedError
from mlflow_proxy.reading.proven import Proven, _Verdict
from mlflow_proxy.upstream.client import chunks
from tests.fuzz import checks, pure
from tests.fuzz.cases import PURES, RELAXED, WIRES, Pure
from tests.fuzz.grammar import Wire
from tests.fuzz.http1 import DoubtfulError, IncompleteError, read_requests, take_response
from tests.fuzz.run import Found, report, rounds
from tests.fuzz.scene import scene

pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning"), pytest.mark.timeout(300)]

ROUNDS = 6
MOST_ROUNDS = 40
"""Until something that is broken on purpose has to have been found; it takes one to five."""

HOST = b"Host: a\r\n"


async def _run(directory: Path, count: int, until: Callable[[Found], object] = lambda found: False) -> Found:
    found = None
    async with aclosing(rounds(1, RELAXED, directory, count)) as going_on:
        async for found in going_on:
            if until(found):
                break
    assert found is not None
    return found


async def test_nothing_is_found(tmp_path: Path) -> None:
    found = await _run(tmp_path, ROUNDS)
    assert not found.times, "\n".join(report(found))
    assert found.plan.reached > found.plan.sent / 4, "\n".join(report(found))


@pytest.mark.parametrize(
    "wire",
    [wire for wire in WIRES if read_requests(wire.data).doubt not in RELAXED],
    ids=lambda wire: f"{wire.mode} {wire.data[:40]!r}",
)
async def test_what_was_found_on_the_wire(wire: Wire, tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        assert await checks.batch(here, [wire], checks.Plan(RELAXED)) == []


@pytest.mark.parametrize("case", PURES, ids=lambda case: f"{case.name} {str(case.arguments)[:40]}")
def test_what_was_found_in_pure_functions(case: Pure) -> None:
    assert pure.wrong(case.name, case.arguments) == ""


# -- whether it can find anything --------------------------------------------------------------------------


async def _proven(*asked: object) -> _Verdict:
    """Take everything for proven, and all models for created at the same time."""
    return _Verdict(created=0)


async def _swallowed(response: Any) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks(response):
            yield chunk
    except TruncatedError:
        return


BREAKAGES: dict[str, tuple[object, str, object]] = {
    "an answer under another credential": (
        mlflow_proxy.access.sharing,
        "partitions",
        lambda told, key, mode: Partitions("same", "same", "same"),
    ),
    "a secret for who may not see it": (Proven, "_verdict", _proven),
    "a request nobody made": (mlflow_proxy.artifacts.facade, "_decoded", lambda raw: unquote(unquote(raw))),
    "a truncated body looks complete": (mlflow_proxy.passing, "chunks", _swallowed),
    "a field that belongs to one connection goes further": (mlflow_proxy.forwarding, "end_to_end", list),
    "the proxy failed": (mlflow_proxy.pipeline, "shareable", lambda *asked: asked[99]),
    "storage got a credential": (
        mlflow_proxy.artifacts.facade,
        "_ASKED_OF_STORAGE",
        frozenset({"authorization"}),
    ),
}


@pytest.mark.parametrize("check", BREAKAGES)
async def test_what_is_broken_is_found(check: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where, name, broken = BREAKAGES[check]
    monkeypatch.setattr(where, name, broken)
    monkeypatch.setattr("tests.fuzz.run.SHOWN", 0)
    found = await _run(tmp_path, MOST_ROUNDS, lambda found: found.times[check])
    assert found.times[check], "\n".join(report(found))


# -- the strict reader -------------------------------------------------------------------------------------


def test_requests_in_a_row() -> None:
    post = b"POST /b?c HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc"
    chunked = b"PUT /d HTTP/1.1\r\n" + HOST + b"transfer-encoding: Chunked\r\n\r\n"
    chunked += b"2;a=b\r\nde\r\n01\r\nf\r\n0\r\nX: y\r\n\r\n"
    reading = read_requests(b"\r\nGET /a HTTP/1.1\r\n" + HOST + b"\r\n" + post + chunked + post[:-1])
    assert [(each.method, each.target, each.body) for each in reading.requests] == [
        (b"GET", b"/a", b""),
        (b"POST", b"/b?c", b"abc"),
        (b"PUT", b"/d", b"def"),
    ]
    assert (reading.doubt, reading.incomplete) == ("", True)
    assert reading.head is not None


@pytest.mark.parametrize(
    ("data", "doubt"),
    [
        (b"GET /a HTTP/1.1\nHost: a\r\n\r\n", "bare LF"),
        (b"GET /a HTTP/1.1\r\nHost: a\n\r\n", "bare LF"),
        (b"GET /a HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", "bare CR"),
        (b"GET /a HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", "obs-fold"),
        (b"GET /a HTTP/1.1\r\nHost : a\r\n\r\n", "field name"),
        (b"GET /a HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", "field without colon"),
        (b"GET /a HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", "control byte in a field"),
        (b"GET /a HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", "NUL"),
        (b"GET /a HTTP/1.1\r\n\r\n", "number of Hosts"),
        (b"GET /a HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "number of Hosts"),
        (b"GET /a HTTP/1.1\r\nHost: a b\r\n\r\n", "Host"),
        (b"GET  /a HTTP/1.1\r\nHost: a\r\n\r\n", "white space in a request line"),
        (b"GET /a\r\nHost: a\r\n\r\n", "request line"),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", "target"),
        (b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n", "method"),
        (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", "version"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", "Content-Length"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "Content-Length"),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "Transfer-Encoding",
        ),
        (b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "Transfer-Encoding in HTTP/1.0"),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            "Content-Length with Transfer-Encoding",
        ),
        *(
            (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body, doubt)
            for body, doubt in [
                (b"0x1\r\na\r\n0\r\n\r\n", "chunk size"),
                (b"1;;x\r\na\r\n0\r\n\r\n", "chunk extension"),
                (b"1\na\r\n0\r\n\r\n", "line end in a chunk's size"),
                (b"1\r\nab\r\n0\r\n\r\n", "end of a chunk"),
                (b"0\r\nX\r\n\r\n", "trailer: field without colon"),
            ]
        ),
    ],
)
def test_what_two_readers_could_take_differently(data: bytes, doubt: str) -> None:
    reading = read_requests(b"GET /first HTTP/1.1\r\n" + HOST + b"\r\n" + data)
    assert (len(reading.requests), reading.doubt) == (1, doubt)


def test_answers() -> None:
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    assert take_response(ok + b"more", b"GET", closed=False)[1] == b"more"
    assert take_response(ok, b"HEAD", closed=False)[1] == b"ok"
    until_close = b"HTTP/1.1 200 OK\r\n\r\nall"
    assert take_response(until_close, b"GET", closed=True)[0].body == b"all"
    for cut_off in (ok[:-1], until_close):
        with pytest.raises(IncompleteError):
            take_response(cut_off, b"GET", closed=False)
    with pytest.raises(DoubtfulError):
        take_response(ok.replace(b"\r\n", b"\n"), b"GET", closed=False)
