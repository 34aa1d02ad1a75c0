"""Requests that two readers could take differently, as data, and how they are sent."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pytest

from tests.integration.support import HELD, PLAIN, RawClient, RawReply

LINE = f"POST {PLAIN} HTTP/1.1"
BEHIND = "/api/2.0/behind"
SECOND = f"GET {BEHIND} HTTP/1.1\r\nHost: proxy.localhost\r\n\r\n".encode()
"""What a smuggler would have upstream take for a request: it is sent behind every case."""
FIELDS = 400


@dataclass(frozen=True)
class Refused:
    """What is sent gets ``status`` and nothing else; none of it may arrive."""

    sent: bytes
    status: int = 400


@dataclass(frozen=True)
class Normalised:
    """What is sent arrives as one request."""

    sent: bytes
    line: str = LINE
    body: bytes = b""

    @property
    def last(self) -> bool:
        """Whether the connection ends with it."""
        marks = (b"TRANSFER-ENCODING:", b"CONNECTION: UPGRADE", b"HTTP/1.0")
        return any(mark in self.sent.upper() for mark in marks)


Case = Refused | Normalised


def head(*fields: str, line: str = LINE, host: str = "Host: proxy.localhost") -> bytes:
    return "\r\n".join([line, *([host] if host else []), *fields, "", ""]).encode("latin-1")


def get(target: str = PLAIN, *fields: str, version: str = "HTTP/1.1") -> bytes:
    return head(*fields, line=f"GET {target} {version}")


def chunked(data: bytes, *fields: str, line: str = LINE) -> bytes:
    return head("Transfer-Encoding: chunked", *fields, line=line) + data


def both(first: str, second: str) -> bytes:
    """Return a request whose body has two possible ends."""
    return head(first, second) + b"0\r\n\r\n"


TE = "Transfer-Encoding: chunked"
CL = "Content-Length: 5"
WIKI = b"4\r\nwiki\r\n0\r\n\r\n"

TWO_FRAMINGS: dict[str, Case] = {
    "CL then TE": Refused(both(CL, TE)),
    "TE then CL": Refused(both(TE, CL)),
    "CL 0 and TE": Refused(both("Content-Length: 0", TE)),
    "CL and TE of an unknown coding": Refused(both(CL, "Transfer-Encoding: xchunked")),
    "CL and TE identity": Refused(both(CL, "Transfer-Encoding: identity")),
    "CL and TE with a tab before its value": Refused(both(CL, "Transfer-Encoding:\tchunked")),
    "CL and TE with a vertical tab before its value": Refused(both(CL, "Transfer-Encoding:\x0bchunked")),
    "CL and TE with a space before the colon": Refused(both(CL, "Transfer-Encoding : chunked")),
    "CL and Transfer_Encoding": Refused(head(CL, "Transfer_Encoding: chunked") + b"0\r\n\r\n"),
    "CL and Content_Length": Refused(head(CL, "Content_Length: 0") + b"hello"),
    "CL and TE folded": Refused(both(CL, "Transfer-Encoding:\r\n chunked")),
    "CL and TE in HTTP/1.0": Refused(head(CL, TE, line=f"POST {PLAIN} HTTP/1.0") + b"0\r\n\r\n"),
    "CL on a GET with TE": Refused(get(PLAIN, CL, TE) + b"0\r\n\r\n"),
}
TRANSFER_ENCODING: dict[str, Case] = {
    "chunked": Normalised(chunked(WIKI), body=b"wiki"),
    "in upper case": Normalised(head("TRANSFER-ENCODING: CHUNKED") + WIKI, body=b"wiki"),
    "a tab before chunked": Normalised(head("Transfer-Encoding:\tchunked") + WIKI, body=b"wiki"),
    "white space after chunked": Refused(head("Transfer-Encoding: chunked \t ") + WIKI),
    "chunked on a GET": Normalised(get(PLAIN, TE) + WIKI, line=f"GET {PLAIN} HTTP/1.1", body=b"wiki"),
    "xchunked": Refused(head("Transfer-Encoding: xchunked") + b"0\r\n\r\n"),
    "identity": Refused(head("Transfer-Encoding: identity") + b"0\r\n\r\n"),
    "gzip": Refused(head("Transfer-Encoding: gzip") + b"0\r\n\r\n"),
    "gzip, chunked": Refused(head("Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n"),
    "chunked, identity": Refused(head("Transfer-Encoding: chunked, identity") + b"0\r\n\r\n"),
    "identity, chunked": Refused(head("Transfer-Encoding: identity, chunked") + b"0\r\n\r\n"),
    "chunked, chunked": Refused(head("Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n"),
    "chunked twice": Refused(head(TE, TE) + b"0\r\n\r\n"),
    "identity and chunked in two fields": Refused(head("Transfer-Encoding: identity", TE) + b"0\r\n\r\n"),
    "a trailing comma": Refused(head("Transfer-Encoding: chunked,") + b"0\r\n\r\n"),
    "a leading comma": Refused(head("Transfer-Encoding: ,chunked") + b"0\r\n\r\n"),
    "a parameter": Refused(head("Transfer-Encoding: chunked;q=1") + b"0\r\n\r\n"),
    "quoted": Refused(head('Transfer-Encoding: "chunked"') + b"0\r\n\r\n"),
    "empty TE": Refused(head("Transfer-Encoding:") + b"0\r\n\r\n"),
    "a vertical tab before chunked": Refused(head("Transfer-Encoding:\x0bchunked") + b"0\r\n\r\n"),
    "a form feed after chunked": Refused(head("Transfer-Encoding: chunked\x0c") + b"0\r\n\r\n"),
    "a NUL before chunked": Refused(head("Transfer-Encoding:\x00chunked") + b"0\r\n\r\n"),
    "a no-break space after chunked": Refused(head("Transfer-Encoding: chunked\xa0") + b"0\r\n\r\n"),
    "Transfer_Encoding": Refused(head("Transfer_Encoding: chunked") + b"0\r\n\r\n"),
    "chunked in HTTP/1.0": Refused(chunked(WIKI, line=f"POST {PLAIN} HTTP/1.0")),
}
CONTENT_LENGTH: dict[str, Case] = {
    "a length": Normalised(head(CL) + b"hello", body=b"hello"),
    "a length of a body that is held": Normalised(
        head(CL, line=f"POST {HELD} HTTP/1.1") + b"hello", line=f"POST {HELD} HTTP/1.1", body=b"hello"
    ),
    "a length of 0": Normalised(head("Content-Length: 0")),
    "a length on a GET": Normalised(get(PLAIN, CL) + b"hello", line=f"GET {PLAIN} HTTP/1.1", body=b"hello"),
    "white space around a length": Normalised(head("Content-Length: \t5 \t") + b"hello", body=b"hello"),
    "a length that Connection names": Normalised(
        head(CL, "Connection: Content-Length") + b"hello", body=b"hello"
    ),
    "two unequal": Refused(head(CL, "Content-Length: 6") + b"hello!"),
    "two equal": Refused(head(CL, CL) + b"hello"),
    "5, 5": Refused(head("Content-Length: 5, 5") + b"hello"),
    "5 5": Refused(head("Content-Length: 5 5") + b"hello"),
    "5,": Refused(head("Content-Length: 5,") + b"hello"),
    "+5": Refused(head("Content-Length: +5") + b"hello"),
    "-1": Refused(head("Content-Length: -1") + b"hello"),
    "0x5": Refused(head("Content-Length: 0x5") + b"hello"),
    "5.0": Refused(head("Content-Length: 5.0") + b"hello"),
    "1_0": Refused(head("Content-Length: 1_0") + b"0123456789"),
    "quoted 5": Refused(head('Content-Length: "5"') + b"hello"),
    "no digits": Refused(head("Content-Length:") + b"hello"),
    "leading zeros": Refused(head("Content-Length: 005") + b"hello"),
    "digits of another script": Refused(head("Content-Length: \xb2") + b"he"),
    "19 digits": Refused(head("Content-Length: 1000000000000000000") + b"hello"),
    "2^64 - 1": Refused(head("Content-Length: 18446744073709551615") + b"hello"),
    "2^64 + 5": Refused(head("Content-Length: 18446744073709551621") + b"hello"),
    "a hundred digits": Refused(head("Content-Length: " + "9" * 100) + b"hello"),
    "Content_Length": Refused(head("Content_Length: 5") + b"hello"),
    "a NUL behind a length": Refused(head("Content-Length: 5\x00") + b"hello"),
}
FIELD_LINES: dict[str, Case] = {
    "no white space behind a colon": Normalised(get(PLAIN, "X-A:b"), line=f"GET {PLAIN} HTTP/1.1"),
    "an empty value": Normalised(get(PLAIN, "X-A:"), line=f"GET {PLAIN} HTTP/1.1"),
    "other bytes than ASCII in a value": Normalised(
        get(PLAIN, "X-A: \xe9\xff"), line=f"GET {PLAIN} HTTP/1.1"
    ),
    "a tab in a value": Normalised(get(PLAIN, "X-A: b\tc"), line=f"GET {PLAIN} HTTP/1.1"),
    "all kinds of token in a name": Normalised(
        get(PLAIN, "!#$%&'*+-.^_`|~9aZ: b"), line=f"GET {PLAIN} HTTP/1.1"
    ),
    "empty lines before a request": Normalised(b"\r\n\r\n" + get(), line=f"GET {PLAIN} HTTP/1.1"),
    "a line folded with a space": Refused(get(PLAIN, "X-A: b\r\n c")),
    "a line folded with a tab": Refused(get(PLAIN, "X-A: b\r\n\tc")),
    "a folded empty value": Refused(get(PLAIN, "X-A:\r\n b")),
    "LF alone as every line's end": Refused(get(PLAIN, "X-A: b").replace(b"\r\n", b"\n")),
    "LF alone behind the request line": Refused(get().replace(b"HTTP/1.1\r\n", b"HTTP/1.1\n")),
    "LF alone behind a field": Refused(get(PLAIN, "X-A: b\nX-B: c")),
    "LF alone as the end of the head": Refused(get()[:-2] + b"\n"),
    "LF alone behind a length": Refused(head(CL + "\nX-A: b") + b"hello"),
    "CR alone in a value": Refused(get(PLAIN, "X-A: b\rc")),
    "CR alone instead of a line's end": Refused(get(PLAIN, "X-A: b\rX-B: c")),
    "CR CR LF": Refused(get(PLAIN, "X-A: b\r\r\nX-B: c")),
    "CR alone in a name": Refused(get(PLAIN, "X\rA: b")),
    "CR alone in the request line": Refused(get("/a\rb")),
    "CR alone as the end of the head": Refused(get()[:-2] + b"\r"),
    "NUL in a value": Refused(get(PLAIN, "X-A: b\x00c")),
    "a control character in a value": Refused(get(PLAIN, "X-A: b\x01c")),
    "DEL in a value": Refused(get(PLAIN, "X-A: b\x7fc")),
    "a vertical tab in a value": Refused(get(PLAIN, "X-A: b\x0bc")),
    "a space before the colon": Refused(get(PLAIN, "X-A : b")),
    "a tab before the colon": Refused(get(PLAIN, "X-A\t: b")),
    "a space before the first name": Refused(head("X-A: b", line=LINE, host=" Host: proxy.localhost")),
    "a tab before the first name": Refused(head("X-A: b", line=LINE, host="\tHost: proxy.localhost")),
    "an empty name": Refused(get(PLAIN, ": b")),
    "no colon": Refused(get(PLAIN, "X-A")),
    "a control character in a name": Refused(get(PLAIN, "X\x01A: b")),
    "NUL in a name": Refused(get(PLAIN, "X\x00A: b")),
    "a name with a space": Refused(get(PLAIN, "X A: b")),
    "a name with parentheses": Refused(get(PLAIN, "X(A): b")),
    "a name with other bytes than ASCII": Refused(get(PLAIN, "X\xe9: b")),
    "a name in quotes": Refused(get(PLAIN, '"X-A": b')),
    "too many fields": Refused(get(PLAIN, *(f"X-{number}: b" for number in range(FIELDS))), status=431),
    "a field that is too long": Refused(get(PLAIN, "X-A: " + "b" * 40_000), status=431),
    "a name that is too long": Refused(get(PLAIN, "X" * 40_000 + ": b"), status=431),
    "a head that is too large": Refused(
        get(PLAIN, *(f"X-{n}: {'b' * 30_000}" for n in range(5))), status=431
    ),
}
CHUNKS: dict[str, Case] = {
    "two chunks": Normalised(chunked(b"4\r\nwiki\r\n5\r\npedia\r\n0\r\n\r\n"), body=b"wikipedia"),
    "leading zeros of a size": Normalised(chunked(b"004\r\nwiki\r\n000\r\n\r\n"), body=b"wiki"),
    "a size in upper case": Normalised(chunked(b"A\r\n0123456789\r\n0\r\n\r\n"), body=b"0123456789"),
    "an extension": Normalised(chunked(b"4;a=b\r\nwiki\r\n0;c\r\n\r\n"), body=b"wiki"),
    "a quoted extension": Normalised(chunked(b'4;a="b;c"\r\nwiki\r\n0\r\n\r\n'), body=b"wiki"),
    "a large extension": Normalised(
        chunked(b"4;a=" + b"b" * 30_000 + b"\r\nwiki\r\n0\r\n\r\n"), body=b"wiki"
    ),
    "trailers": Normalised(chunked(b"4\r\nwiki\r\n0\r\nX-Checksum: a\r\nX-B: c\r\n\r\n"), body=b"wiki"),
    "Authorization as a trailer": Normalised(
        chunked(b"4\r\nwiki\r\n0\r\nAuthorization: Bearer other\r\n\r\n"), body=b"wiki"
    ),
    "Content-Length as a trailer": Refused(chunked(b"4\r\nwiki\r\n0\r\nContent-Length: 3\r\n\r\n")),
    "Transfer-Encoding as a trailer": Refused(
        chunked(b"4\r\nwiki\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n")
    ),
    "Upgrade as a trailer": Normalised(
        chunked(b"4\r\nwiki\r\n0\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"), body=b"wiki"
    ),
    "a malformed trailer": Refused(chunked(b"4\r\nwiki\r\n0\r\nX A: b\r\n\r\n")),
    "a folded trailer": Refused(chunked(b"4\r\nwiki\r\n0\r\nX: b\r\n c\r\n\r\n")),
    "too many trailers": Refused(chunked(b"0\r\n" + b"X: b\r\n" * FIELDS + b"\r\n"), status=431),
    "an extension that ends with LF": Refused(chunked(b"4;a\nwiki\r\n0\r\n\r\n")),
    "LF in a quoted extension": Refused(chunked(b'4;a="b\nc"\r\nwiki\r\n0\r\n\r\n')),
    "CR in an extension": Refused(chunked(b"4;a\rb\r\nwiki\r\n0\r\n\r\n")),
    "NUL in an extension": Refused(chunked(b"4;a\x00b\r\nwiki\r\n0\r\n\r\n")),
    "an extension without a name": Refused(chunked(b"4;\r\nwiki\r\n0\r\n\r\n")),
    "a size with +": Refused(chunked(b"+4\r\nwiki\r\n0\r\n\r\n")),
    "a size with -": Refused(chunked(b"-4\r\nwiki\r\n0\r\n\r\n")),
    "a size with 0x": Refused(chunked(b"0x4\r\nwiki\r\n0\r\n\r\n")),
    "a size with an underscore": Refused(chunked(b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n")),
    "a space before a size": Refused(chunked(b" 4\r\nwiki\r\n0\r\n\r\n")),
    "a space behind a size": Refused(chunked(b"4 \r\nwiki\r\n0\r\n\r\n")),
    "a tab behind a size": Refused(chunked(b"4\t\r\nwiki\r\n0\r\n\r\n")),
    "a size that overflows": Refused(chunked(b"10000000000000004\r\nwiki\r\n0\r\n\r\n")),
    "the largest size there is": Refused(chunked(b"ffffffffffffffff0\r\nwiki\r\n0\r\n\r\n")),
    "an empty size": Refused(chunked(b"\r\nwiki\r\n0\r\n\r\n")),
    "no size but an extension": Refused(chunked(b";a=b\r\nwiki\r\n0\r\n\r\n")),
    "a size of other digits": Refused(chunked(b"g\r\nwiki\r\n0\r\n\r\n")),
    "a size that ends with LF": Refused(chunked(b"4\nwiki\r\n0\r\n\r\n")),
    "a size that ends with CR": Refused(chunked(b"4\rwiki\r\n0\r\n\r\n")),
    "more data than the size": Refused(chunked(b"4\r\nwikipedia\r\n0\r\n\r\n")),
    "no CRLF behind the data": Refused(chunked(b"4\r\nwiki0\r\n\r\n")),
    "LF behind the data": Refused(chunked(b"4\r\nwiki\n0\r\n\r\n")),
    "LF as the end": Refused(chunked(b"4\r\nwiki\r\n0\r\n\n")),
    "no CRLF at the end": Refused(chunked(b"4\r\nwiki\r\n0\r\n")),
}
REQUEST_LINE: dict[str, Case] = {
    "two spaces before the target": Normalised(get(" /a"), line="GET /a HTTP/1.1"),
    "two spaces before the version": Normalised(get("/a "), line="GET /a HTTP/1.1"),
    "a space behind the version": Refused(get("/a", version="HTTP/1.1 ")),
    "a tab before the target": Refused(b"GET\t/a HTTP/1.1\r\nHost: proxy.localhost\r\n\r\n"),
    "a tab before the version": Refused(b"GET /a\tHTTP/1.1\r\nHost: proxy.localhost\r\n\r\n"),
    "a space before the method": Refused(b" GET /a HTTP/1.1\r\nHost: proxy.localhost\r\n\r\n"),
    "no version": Refused(b"GET /a\r\nHost: proxy.localhost\r\n\r\n"),
    "nothing but a method": Refused(b"GET\r\nHost: proxy.localhost\r\n\r\n"),
    "HTTP/0.9": Refused(get("/a", version="HTTP/0.9")),
    "HTTP/1.2": Refused(get("/a", version="HTTP/1.2")),
    "HTTP/1.10": Refused(get("/a", version="HTTP/1.10")),
    "HTTP/2.0": Refused(get("/a", version="HTTP/2.0")),
    "HTTP/3.0": Refused(get("/a", version="HTTP/3.0")),
    "http/1.1": Refused(get("/a", version="http/1.1")),
    "HTTP/01.1": Refused(get("/a", version="HTTP/01.1")),
    "HTTP/1": Refused(get("/a", version="HTTP/1")),
    "RTSP/1.0": Refused(head(line="OPTIONS /a RTSP/1.0")),
    "ICE/1.0": Refused(head(line="SOURCE /a ICE/1.0")),
    "the preface of HTTP/2": Refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)),
    "a ClientHello": Refused(b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(range(150))),
    "a method in lower case": Refused(head(line="get /a HTTP/1.1")),
    "a method that is no token": Refused(head(line="GE(T /a HTTP/1.1")),
    "a method nobody knows": Refused(head(line="FROBNICATE /a HTTP/1.1")),
    "CONNECT": Refused(
        head(line="CONNECT elsewhere.example:443 HTTP/1.1", host="Host: elsewhere.example:443")
    ),
    "CONNECT with a path": Refused(head(line="CONNECT /a HTTP/1.1")),
    "an absolute target": Refused(get("http://proxy.localhost/api")),
    "an absolute target with a path of our own": Refused(get("https://elsewhere.example/-/healthz")),
    "an absolute target elsewhere": Refused(get("http://elsewhere.example/api")),
    "an asterisk": Refused(head(line="OPTIONS * HTTP/1.1")),
    "an asterisk on a GET": Refused(get("*")),
    "a relative target": Refused(get("a/b")),
    "a fragment": Refused(get("/a#b")),
    "a fragment behind a query": Refused(get("/a?b#c")),
    "a space in a target": Refused(get("/a b")),
    "other bytes than ASCII in a target": Refused(get("/caf\xc3\xa9")),
    "a control character in a target": Refused(get("/a\x01b")),
    "NUL in a target": Refused(get("/a\x00b")),
    "DEL in a target": Refused(get("/a\x7fb")),
    "a backslash in a target": Refused(get("/a\\..\\b")),
    "a target that is too long": Refused(get("/" + "a" * 40_000), status=414),
    "a long target": Normalised(get("/" + "a" * 32_000), line=f"GET /{'a' * 32_000} HTTP/1.1"),
}
HOST: dict[str, Case] = {
    "a port": Normalised(
        head(line=f"GET {PLAIN} HTTP/1.1", host="Host: proxy.localhost:8080"), f"GET {PLAIN} HTTP/1.1"
    ),
    "an IPv6 address": Normalised(
        head(line=f"GET {PLAIN} HTTP/1.1", host="Host: [::1]:80"), f"GET {PLAIN} HTTP/1.1"
    ),
    "none in HTTP/1.0": Normalised(head(line=f"GET {PLAIN} HTTP/1.0", host=""), f"GET {PLAIN} HTTP/1.1"),
    "none": Refused(head(line="GET /a HTTP/1.1", host="")),
    "two": Refused(get("/a", "Host: other.test")),
    "two equal ones": Refused(get("/a", "Host: proxy.localhost")),
    "two in HTTP/1.0": Refused(get("/a", "Host: other.test", version="HTTP/1.0")),
    "an empty one": Refused(head(line="GET /a HTTP/1.1", host="Host:")),
    "user information": Refused(head(line="GET /a HTTP/1.1", host="Host: user@proxy.localhost")),
    "a space": Refused(head(line="GET /a HTTP/1.1", host="Host: proxy.localhost other.test")),
    "a path": Refused(head(line="GET /a HTTP/1.1", host="Host: proxy.localhost/a")),
    "a list": Refused(head(line="GET /a HTTP/1.1", host="Host: proxy.localhost, other.test")),
    "a port that is none": Refused(head(line="GET /a HTTP/1.1", host="Host: proxy.localhost:http")),
    "a scheme": Refused(head(line="GET /a HTTP/1.1", host="Host: http://proxy.localhost")),
    "other bytes than ASCII": Refused(head(line="GET /a HTTP/1.1", host="Host: caf\xe9")),
    "brackets that do not close": Refused(head(line="GET /a HTTP/1.1", host="Host: [::1")),
}
UPGRADE: dict[str, Case] = {
    "h2c": Normalised(
        get(PLAIN, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
        line=f"GET {PLAIN} HTTP/1.1",
    ),
    "h2c with a body": Normalised(head("Connection: Upgrade", "Upgrade: h2c", CL) + b"hello", body=b"hello"),
    "websocket": Normalised(
        get(PLAIN, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
        line=f"GET {PLAIN} HTTP/1.1",
    ),
    "websocket with a body": Normalised(
        head("Connection: Upgrade", "Upgrade: websocket", TE) + WIKI, body=b"wiki"
    ),
    "websocket of old": Refused(
        get("/a", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key1: a")
    ),
    "an upgrade that Connection does not name": Normalised(
        get(PLAIN, "Upgrade: websocket"), line=f"GET {PLAIN} HTTP/1.1"
    ),
}
EXPECT: dict[str, Case] = {
    "something unknown": Refused(head("Expect: the-unexpected", CL) + b"hello", status=417),
    "something beside 100-continue": Refused(head("Expect: 100-continue, more", CL) + b"hello", status=417),
    "100-continue twice": Refused(
        head("Expect: 100-continue", "Expect: 100-continue", CL) + b"hello", status=417
    ),
    "nothing": Normalised(head("Expect:", CL) + b"hello", body=b"hello"),
    "something unknown in HTTP/1.0": Normalised(
        head("Expect: x", CL, line=f"POST {PLAIN} HTTP/1.0") + b"hello", body=b"hello"
    ),
}

SUBJECTS = {
    "two framings": TWO_FRAMINGS,
    "transfer-encoding": TRANSFER_ENCODING,
    "content-length": CONTENT_LENGTH,
    "field lines": FIELD_LINES,
    "chunks": CHUNKS,
    "request line": REQUEST_LINE,
    "host": HOST,
    "upgrade": UPGRADE,
    "expect": EXPECT,
}
CASES = {f"{subject}: {name}": case for subject, cases in SUBJECTS.items() for name, case in cases.items()}


def of(kind: type[Refused] | type[Normalised]) -> list[object]:
    return [pytest.param(case, id=name) for name, case in CASES.items() if isinstance(case, kind)]


def _pieces(sent: bytes) -> list[bytes]:
    """Cut it so that most lines are cut, but not so often that it takes long."""
    size = max(3, len(sent) // 50)
    return [sent[start : start + size] for start in range(0, len(sent), size)]


WAYS: dict[str, Callable[[bytes], list[bytes]]] = {"whole": lambda sent: [sent], "in pieces": _pieces}
"""How it is sent: what a parser has not seen the end of yet must not leave it earlier either."""


async def send(client: RawClient, pieces: Sequence[bytes]) -> None:
    """Send pieces that are read one by one."""
    for piece in pieces:
        await client.send(piece)
        for _ in range(5):
            await asyncio.sleep(0)


async def exchange(url: str, pieces: Sequence[bytes]) -> RawReply:
    """Send pieces and read until the proxy has closed the connection."""
    async with await RawClient.connect(url) as client:
        with suppress(ConnectionError):
            await send(client, pieces)
        return await client.rest()
