"""What the fuzzer has found, mended since, and what it is known to find still."""

from dataclasses import dataclass

from tests.fuzz.grammar import Wire
from tests.fuzz.properties.drawing import Arguments

KNOWN: frozenset[str] = frozenset({"chunk extension", "white space in a request line"})
"""What stays so: aiohttp's parser takes several spaces there for one, and most of what follows a chunk's
size, and does not tell. Neither says where a request ends."""

RELAXED: frozenset[str] = KNOWN
"""Checks, and doubts of ``http1``, that are left out for as long as the proxy is known to fail them."""


@dataclass(frozen=True)
class Pure:
    """Arguments for a property of ``pure``."""

    name: str
    arguments: Arguments


WIRES: tuple[Wire, ...] = (
    # The body of an answer to HEAD was sent, and taken for the next answer.
    Wire(
        "service",
        b"HEAD /api/2.0/mlflow-artifacts/artifacts?path=mlflow-proxy/m/1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        b"GET /-/healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ),
    Wire(
        "credential",
        b"HEAD /api/2.0/mlflow-artifacts/artifacts/mlflow-proxy/m/1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        b"GET /-/healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ),
    # A trailer became a field of the next request, Authorization as well.
    Wire(
        "credential",
        b"POST /a HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"1\r\na\r\n0\r\nX-Trailer: 1\r\n\r\nGET /b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ),
    # It was sent on as CONNECT to the workspace's own port.
    Wire("credential", b"CONNECT /a HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
    # It was never answered, nor its request to the workspace ended: its body heard nothing of the error.
    Wire(
        "credential",
        b"POST /a HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"1\r\na\r\n"
        b"1 ; e\r\nb\r\n0\r\n\r\n",
        (66,),
    ),
    # The first of two was not answered, since the second was refused.
    Wire(
        "credential",
        b"GET /a HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        b"GET /c#d HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ),
    # Nothing told where the body ends: the connection was kept, as this client asked.
    Wire("credential", b"GET /aa HTTP/1.0\r\nHost: 127.0.0.1\r\nConnection: keep-alive\r\n\r\n"),
    # Something was taken for a request behind one with which the connection ends.
    Wire(
        "credential",
        b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\nConnection: close\r\n\r\nGET /b HTTP/1.0\r\n\r\n",
    ),
    # Whoever had gone before a 100 was sent made an error in the log; also with a line's end in the path.
    Wire("proven", b"PATCH /%0a HTTP/1.1\r\nExpect: 100-continue\r\nHost: 1\r\nContent-Length: 5\r\n\r\n"),
    Wire(
        "credential",
        b"POST /a HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
    ),
    # It arrived without its second chunk and looked complete: the end of the first came with the error.
    Wire(
        "credential",
        b"PATCH /a HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"4\r\nwiki\r\n8 ; e\r\nabcdefgh\r\n0\r\n\r\n",
        (66, 73),
    ),
)

PURES: tuple[Pure, ...] = (
    # strptime reads a month and a day of one digit each, and digits of other scripts.
    Pure("a signed URL's expiry", ("https://s.test/f?X-Amz-Date=2026111T120000Z&X-Amz-Expires=900",)),
    Pure("a signed URL's expiry", ("https://s.test/f?X-Goog-Date=\u0662026031T120000Z&X-Goog-Expires=1",)),
    # The TOML parser gives up with a RecursionError.
    Pure("a file of clients", (b"a = " + b"[" * 1500,)),
    # An int too large for a float; no number at all.
    Pure("a token of the proxy's own", ("e30.eyJleHAiOiA5" + "OTk5" * 200 + "fQ.x",)),
    Pure("a token of the proxy's own", ("e30.eyJleHAiOiBOYU59.x",)),
    # Base64 with more padding than there may be.
    Pure("clients are known by their tokens", (["AUTHORIZATION"], "Basic OnRva2Vu=")),
    # A client without a token, and no word about it.
    Pure("a file of clients", (b"[clients]\na=[]",)),
)
