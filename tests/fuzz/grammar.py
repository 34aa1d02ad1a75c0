"""What is sent: requests by a grammar that knows the proxy's endpoints, bent at the level of bytes.

All chance comes in: the same ``Random`` makes the same input.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from urllib.parse import quote

from tests.fuzz.upstream import CANARY, MISSING, SECRET

MODES = ("credential", "proven", "service")


@dataclass(frozen=True)
class Wire:
    """One connection: to the proxy of which mode, and what is sent over it, cut into pieces at ``cuts``."""

    mode: str
    data: bytes
    cuts: tuple[int, ...] = ()

    def pieces(self) -> list[bytes]:
        ends = [0, *(cut for cut in self.cuts if 0 < cut < len(self.data)), len(self.data)]
        return [self.data[begin:end] for begin, end in pairwise(ends)]


CREDENTIALS = (b"Bearer may-1", b"Bearer may-2", b"Bearer none-1", b"Bearer none-2", b"Basic bWF5OmI=")
_NAMES = ("m", "m", CANARY, SECRET, MISSING, "a b", "\u00fc", "m/1", "..", "a%2fb", "x" * 300, "", "broken")
_READS = (
    "registered-models/get?name={}",
    "registered-models/search?filter={}",
    "registered-models/get-latest-versions?name={}",
    "registered-models/alias?name={}&alias=champion",
    "model-versions/get?name={}&version=1",
    "model-versions/get-download-uri?name={}&version=1",
    "model-versions/list-artifacts?name={}&version=1",
    "model-versions/list-artifacts?name={}&version=1&path=d",
    "model-versions/list-artifacts?version=1&name={}&path=d/&page_token=",
    "model-versions/get-signed-download-uri?name={}&version=1&path=f",
)
_OTHERS = (
    "/api/2.0/mlflow/registered-models/set-tag",
    "/api/2.0/mlflow/registered-models/rename",
    "/api/2.0/mlflow/model-versions/odd",
    "/api/2.0/mlflow/runs/log-batch",
    "/api/2.0/mlflow/runs/get?run_id=1",
    "/api/2.0/mlflow/experiments/create",
    "/api/2.0/some/thing?b=2&a=1&b=1",
    "/.well-known/databricks-config",
    "/oidc/.well-known/oauth-authorization-server",
    "/api/2.0/permissions/registered-models/1",
    "/api/2.0/broken/thing",
    "/-/healthz",
    "/-/status.json",
    "/-/readyz",
    "/-/purge?name=m",
    "/-/nothing",
    "/",
    "*",
    "//host/x",
    "/a/../-/healthz",
    "/%2d/healthz",
    "http://127.0.0.1/api/2.0/x",
    "http://elsewhere.test/",
    "127.0.0.1:80",
    "/x#y",
    "/x?y#z",
    "/\\x",
    "/x?",
    "/a%zz?%",
)
_PREFIXES = ("/api/2.0/mlflow/", "/api/2.0/preview/mlflow/", "/ajax-api/2.0/mlflow/")
_FACADES = ("/api/2.0/mlflow-artifacts/", "/ajax-api/2.0/mlflow-artifacts/")
_SEGMENTS = (
    *("mlflow-proxy", "mlflow-proxy", "m", "m", "1", "1", "f", "d", ".", "..", "", "...", "~", "~2f", "~2F"),
    *(
        "broken",
        "~41",
        "a~20b",
        "m~c3~bc",
        "~2e~2e",
        "~00",
        "~zz",
        "%2e%2e",
        "%2E",
        "%252e%252e",
        "%2f",
        "%5c",
        "\\",
    ),
    *(
        "%00",
        "%ff",
        "%c3%bc",
        "%c0%af",
        "%ed%a0%80",
        "%f0%9f%98%80",
        "%7e2f",
        "%25",
        "%",
        "%2",
        ";x",
        "a;b",
        "?",
    ),
    *("#", "+", "%2b", "%20", "01", "1%00", "\u0661", "999999999999999999", "-1", "1.0", "x" * 400, "%0d%0a"),
    *(
        "mlflow-proxy%2fm%2f1",
        "%6dlflow-proxy",
        "mlflow%2dproxy",
        "MLFLOW-PROXY",
        "artifacts",
        "&path=x",
        "a=b",
    ),
)
_FIELDS: tuple[bytes, ...] = (
    b"Accept: */*",
    b"Accept-Encoding: gzip",
    b"Cache-Control: no-cache",
    b"Connection: keep-alive",
    b"Connection: close",
    b"Connection: Authorization",
    b"Connection: Host, Content-Length",
    b"Connection: close, X-Custom, Cookie",
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Upgrade: h2c",
    b"HTTP2-Settings: AAMAAABkAAQAAP__",
    b"Cookie: session=may-3",
    b"Cookie: session=none-3; b=2",
    b"Expect: 100-continue",
    b"Expect: something",
    b'If-None-Match: "x"',
    b"Range: bytes=0-0",
    b"TE: trailers",
    b"Trailer: X-Trailer",
    b"Keep-Alive: timeout=5",
    b"Content-Encoding: gzip",
    b"Content-Type: application/json",
    b"X-Custom: 1",
    b"x-custom: 2",
    b"X-Empty:",
    b"X-Utf-8: caf\xc3\xa9",
    b"X-Latin: caf\xe9",
    b"X-Long: " + b"l" * 9000,
    b"X-Longest: " + b"l" * 40_000,
    b"Mlflow-Proxy-Client: someone",
    b"Proxy-Authorization: Basic eDp5",
    b"X-Forwarded-For: 1.2.3.4",
    b"Content_Length: 5",
    b"Transfer_Encoding: chunked",
    b"X-HTTP-Method-Override: DELETE",
    b"Origin: http://elsewhere.test",
)
_BAD_FIELDS: tuple[bytes, ...] = (
    b"Host: elsewhere.test",
    b"Content-Length: 3",
    b"Content-Length: 3, 3",
    b"Content-Length: +3",
    b"Content-Length: 0x3",
    b"Content-Length: 3 ",
    b"Content-Length: -1",
    b"Content-Length: 99999999999999999999",
    b"Content-Length:",
    b"Content-Length : 3",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: xchunked",
    b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding: chunked;q=1",
    b" folded: 1",
    b"\tfolded",
    b"no colon",
    b": no name",
    b"X\x00: 1",
    b"X: \x00",
    b"X: a\rb",
    b"X: \x7f",
    b"X(y): 1",
    b"\xc3\xbc: 1",
)
_SPECIAL: tuple[bytes, ...] = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b"\t",
        b" ",
        b"\r\n\r\n",
        b"\n\n",
        b"\r\n ",
        b":",
        b",",
        b";",
        b"#",
        b"?",
        b"%",
    ),
    *(
        b"\x0b",
        b"\x0c",
        b"\x7f",
        b"\x85",
        b"\xa0",
        b"\xff",
        b"\xc3\xbc",
        b"/",
        b"\\",
        b"..",
        b"0\r\n\r\n",
        b"0",
        b"+",
    ),
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 5\r\n",
    b"Host: a\r\n",
    b"GET /api/2.0/smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"HTTP/1.1",
    b" HTTP/1.0\r\n",
    b"HTTP/2.0",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"http://elsewhere.test",
)


def wire(chance: Random) -> Wire:
    """Make an input of one to three requests, most of them bent somewhere."""
    count = chance.choices((1, 2, 3), (6, 3, 1))[0]
    if chance.random() < 0.15:
        return Wire(chance.choice(MODES), _two_askers(chance))
    data = b"".join(_request(chance) for _ in range(count))
    for _ in range(chance.choices((0, 1, 2, 4), (4, 4, 2, 1))[0]):
        data = mutated(chance, data)
    return Wire(chance.choice(MODES), data, _cuts(chance, len(data)))


def _two_askers(chance: Random) -> bytes:
    """Ask the same twice, each time under a credential of its own."""
    target = _question(chance, chance.choice((SECRET, "m", CANARY))).encode()
    return b"".join(
        _framed(b"GET", target, [b"Host: 127.0.0.1", b"Authorization: " + credential], b"")
        for credential in chance.sample(CREDENTIALS, 2)
    )


def _question(chance: Random, name: str) -> str:
    return chance.choice(_PREFIXES) + chance.choice(_READS).format(quote(name, safe=chance.choice(("", "/"))))


def facade_wire(chance: Random) -> Wire:
    """Make one request, its framing perfect, for a path that may be one of the façade's."""
    method = chance.choices((b"GET", b"HEAD", b"PUT"), (12, 1, 1))[0]
    data = _framed(method, facade_target(chance).encode("latin-1", "replace"), _plain_fields(chance), b"")
    return Wire(chance.choice(MODES), data)


def facade_target(chance: Random) -> str:
    """Make a target at or near the façade's."""
    kind = chance.choices(("artifacts", "presigned", "mpu/create", "x"), (20, 1, 1, 1))[0]
    usual = ["mlflow-proxy", chance.choice(("m", "a~20b", "m~c3~bc", "~2e~2e")), "1"]
    segments = [*usual[: chance.choice((0, 2, 3, 3, 3))]]
    segments += [chance.choice(_SEGMENTS) for _ in range(chance.randrange(4))]
    for _ in range(chance.choice((0, 0, 1, 2))):
        segments.insert(chance.randrange(len(segments) + 1), chance.choice(_SEGMENTS))
    path = "".join(
        _bent(chance, character) if chance.random() < 0.03 else character for character in "/".join(segments)
    )
    path = "".join(character if " " < character < "\x7f" else quote(character) for character in path)
    prefix = chance.choice(_FACADES)
    if chance.random() < 0.3:
        return f"{prefix}artifacts?path={path}"
    return f"{prefix}{kind}/{path}"


def _bent(chance: Random, character: str) -> str:
    code = ord(character) & 0xFF
    return chance.choice(
        (f"%{code:02x}", f"%{code:02X}", f"%25{code:02x}", f"~{code:02x}", "", character * 2)
    )


def _request(chance: Random) -> bytes:
    method = chance.choices(
        (
            b"GET",
            b"POST",
            b"HEAD",
            b"PUT",
            b"DELETE",
            b"PATCH",
            b"OPTIONS",
            b"PROPFIND",
            b"get",
            b"TRACE",
            b"CONNECT",
        ),
        (60, 20, 4, 4, 4, 3, 2, 1, 1, 1, 1),
    )[0]
    body = chance.choice(
        (b"{}", b'{"name": "m"}', b'{"name": "canary", "key": "k"}', b"\x00\xff\n", b"x" * 5000)
    )
    if method in {b"GET", b"HEAD", b"OPTIONS"} and chance.random() < 0.9:
        body = b""
    return _framed(method, _target(chance).encode(), _fields(chance), body, chance)


def _target(chance: Random) -> str:
    kind = chance.random()
    if kind < 0.5:
        target = _question(chance, chance.choice(_NAMES))
        spoil = chance.random()
        if spoil < 0.05:
            return target + "&name=canary"
        if spoil < 0.1:
            return target + chance.choice(("&", "%", "&x", ";a=1", "&more=x", "&path=%2e", "?a=b"))
        return target
    if kind < 0.65:
        return facade_target(chance)
    return chance.choice(_OTHERS)


def _plain_fields(chance: Random) -> list[bytes]:
    credential = chance.choice((*CREDENTIALS, b"Bearer may-%d" % chance.randrange(10**9)))
    return [b"Host: 127.0.0.1", b"Authorization: " + credential]


def _fields(chance: Random) -> list[bytes]:
    fields = _plain_fields(chance)
    if chance.random() < 0.2:
        fields.pop()
    fields += [chance.choice(_FIELDS) for _ in range(chance.randrange(4))]
    if chance.random() < 0.2:
        fields.append(chance.choice(_BAD_FIELDS))
    chance.shuffle(fields)
    return fields


def _framed(
    method: bytes, target: bytes, fields: Sequence[bytes], body: bytes, chance: Random | None = None
) -> bytes:
    version = b"HTTP/1.1"
    framing: list[bytes] = []
    sent = body
    if chance is not None and chance.random() < 0.04:
        version = chance.choice((b"HTTP/1.0", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1"))
    if body and chance is not None and chance.random() < 0.4:
        framing, sent = [b"Transfer-Encoding: chunked"], _chunked(chance, body)
    elif body or method in {b"POST", b"PUT", b"PATCH"}:
        framing = [b"Content-Length: %d" % len(body)]
    if chance is not None and chance.random() < 0.08:
        framing.append(chance.choice((b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked")))
    return b"\r\n".join([b"%b %b %b" % (method, target, version), *fields, *framing, b"", b""]) + sent


def _chunked(chance: Random, body: bytes) -> bytes:
    middle = chance.randrange(len(body) + 1)
    chunks = [chunk for chunk in (body[:middle], body[middle:]) if chunk]
    sizes = (b"%x", b"%X", b"0%x", b"%x;ext=1", b'%x;ext="a b"', b"%x ; e")
    coded = b"".join(chance.choice(sizes) % len(chunk) + b"\r\n" + chunk + b"\r\n" for chunk in chunks)
    ends = (
        b"0\r\n\r\n",
        b"0\r\n\r\n",
        b"0\r\n\r\n",
        b"00\r\n\r\n",
        b"0\r\nX-Trailer: 1\r\n\r\n",
        b"0;x\r\n\r\n",
    )
    return coded + chance.choice(ends)


def mutated(chance: Random, data: bytes) -> bytes:
    """Bend some bytes, where lines begin and end more often than elsewhere."""
    boundaries = [place for place in range(len(data)) if data[place] in b"\r\n: ;"]
    if boundaries and chance.random() < 0.6:
        place = chance.choice(boundaries) + chance.randrange(2)
    else:
        place = chance.randrange(len(data) + 1)
    length = chance.choice((1, 1, 2, 4, 16, 64))
    lines = data.split(b"\r\n")
    line = chance.randrange(len(lines))
    match chance.randrange(9):
        case 0 | 1 | 2:
            return data[:place] + chance.choice(_SPECIAL) + data[place:]
        case 3:
            return data[:place] + data[place + length :]
        case 4:
            return data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]
        case 5:
            lines.insert(chance.randrange(len(lines) + 1), lines[line])
        case 6:
            other = chance.randrange(len(lines))
            lines[line], lines[other] = lines[other], lines[line]
        case 7:
            return data[:place]
        case _:
            return data[: place + length] + data[place:]
    return b"\r\n".join(lines)


def _cuts(chance: Random, length: int) -> tuple[int, ...]:
    if length < 2 or chance.random() < 0.6:
        return ()
    return tuple(sorted({chance.randrange(1, length) for _ in range(chance.randrange(1, 5))}))
