"""A strict reader of HTTP/1.1 (RFC 9112), written apart from the proxy's and from any library's.

It knows one way to read a message. What a lenient reader might take otherwise (bare line feeds, folded
fields, two lengths) is ``Doubtful``, also where the RFC lets a recipient be lenient: of two readers in a row
each may be lenient in its own way, which is what request smuggling lives on.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

Fields = tuple[tuple[bytes, bytes], ...]

_EMPTY_LINES = re.compile(rb"\A[\r\n]+")
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(rb"[\x21-\x7e]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]*)?")
_STATUS = re.compile(rb"(HTTP/1\.[01]) ([1-9][0-9]{2}) ([\t\x20-\x7e\x80-\xff]*)")
_CHUNK = re.compile(
    rb"([0-9A-Fa-f]{1,15})((?:[ \t]*;[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+"
    rb"(?:=(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+|\"[\t\x20\x21\x23-\x5b\x5d-\x7e]*\"))?)*)"
)
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}[ \t]*;")
_LENGTH = re.compile(rb"[0-9]{1,18}")


class DoubtfulError(Exception):
    """Two readers could disagree: ``reason`` says where; ``head`` is set if that much was clear."""

    def __init__(self, reason: str, head: "Message | None" = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.head = head


class IncompleteError(Exception):
    """More bytes are needed; ``head`` is set if that much is there."""

    def __init__(self, head: "Message | None" = None) -> None:
        super().__init__("incomplete")
        self.head = head


@dataclass(frozen=True, slots=True)
class Message:
    """A request or response; ``first`` are the three parts of its first line."""

    first: tuple[bytes, bytes, bytes]
    fields: Fields
    body: bytes = b""
    chunked: bool = False

    @property
    def method(self) -> bytes:
        return self.first[0]

    @property
    def target(self) -> bytes:
        return self.first[1]

    @property
    def status(self) -> int:
        return int(self.first[1])

    def all(self, name: bytes) -> tuple[bytes, ...]:
        return tuple(value for each, value in self.fields if each.lower() == name)

    @property
    def last(self) -> bool:
        """Whether its sender, or the version it speaks, wants the connection closed after it."""
        options = {option.strip(b" \t").lower() for v in self.all(b"connection") for option in v.split(b",")}
        return b"close" in options or (
            b"HTTP/1.0" in (self.first[0], self.first[2]) and b"keep-alive" not in options
        )


@dataclass
class Reading:
    """What a connection's bytes say: requests beyond doubt, and what comes after them."""

    requests: list[Message] = field(default_factory=list)
    doubt: str = ""
    head: Message | None = None
    """Of the request that is in doubt or incomplete, if its head is clear."""
    incomplete: bool = False


def read_requests(data: bytes) -> Reading:
    """Read all that a client sent over one connection."""
    reading = Reading()
    while data:
        try:
            request, data = take_request(data)
        except DoubtfulError as error:
            reading.doubt, reading.head = error.reason, error.head
            break
        except IncompleteError as error:
            reading.incomplete, reading.head = True, error.head
            break
        reading.requests.append(request)
        if request.last:
            break
    return reading


def take_request(data: bytes) -> tuple[Message, bytes]:
    """Return the first request and what follows it. Raises DoubtfulError and IncompleteError."""
    # RFC 9112 section 2.2: empty lines before the request line are to be ignored.
    data = _EMPTY_LINES.sub(b"", data)
    lines = _head(data if data != b"\r" else b"")
    if lines is None:
        raise IncompleteError
    head, rest = lines
    parts = head[0].split(b" ")
    if len(parts) != 3:
        # RFC 9112 section 3 lets a recipient take any white space for one space.
        raise DoubtfulError("request line" if len(head[0].split()) != 3 else "white space in a request line")
    method, target, version = parts
    if not _TOKEN.fullmatch(method):
        raise DoubtfulError("method")
    if not _TARGET.fullmatch(target):
        raise DoubtfulError("target")
    if version not in {b"HTTP/1.1", b"HTTP/1.0"}:
        raise DoubtfulError("version")
    request = Message((method, target, version), tuple(_fields(head[1:])))
    hosts = request.all(b"host")
    if len(hosts) != 1 and not (version == b"HTTP/1.0" and not hosts):
        raise DoubtfulError("number of Hosts")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise DoubtfulError("Host")
    if method == b"CONNECT":
        # Its answer decides what the bytes after it are.
        raise DoubtfulError("CONNECT")
    return _with_body(request, rest, until_close=False)


def take_response(data: bytes, method: bytes, *, closed: bool) -> tuple[Message, bytes]:
    """Return the first response to a request of that method, and what follows it.

    ``closed`` says that the connection ended in order. Raises DoubtfulError and IncompleteError.
    """
    lines = _head(data)
    if lines is None:
        raise IncompleteError
    head, rest = lines
    status = _STATUS.fullmatch(head[0])
    if status is None:
        raise DoubtfulError("status line")
    response = Message((status[1], status[2], status[3]), tuple(_fields(head[1:])))
    if response.status < 200 or response.status in {204, 304} or method == b"HEAD":
        if response.all(b"transfer-encoding") and response.status != 304 and method != b"HEAD":
            raise DoubtfulError("Transfer-Encoding where no body is", response)
        return response, rest
    return _with_body(response, rest, until_close=True, closed=closed)


def _head(data: bytes) -> tuple[list[bytes], bytes] | None:
    end = data.find(b"\r\n\r\n")
    head = data if end < 0 else data[:end]
    lines = head.split(b"\r\n")
    for number, line in enumerate(lines):
        complete = end >= 0 or number < len(lines) - 1
        if b"\n" in line:
            raise DoubtfulError("bare LF")
        if b"\r" in (line if complete else line.removesuffix(b"\r")):
            raise DoubtfulError("bare CR")
        if b"\0" in line:
            raise DoubtfulError("NUL")
    return None if end < 0 else (lines, data[end + 4 :])


def _fields(lines: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    for line in lines:
        if line[:1] in {b" ", b"\t"}:
            raise DoubtfulError("obs-fold")
        name, colon, value = line.partition(b":")
        if not colon:
            raise DoubtfulError("field without colon")
        if not _TOKEN.fullmatch(name):
            raise DoubtfulError("field name")
        if not _VALUE.fullmatch(value):
            raise DoubtfulError("control byte in a field")
        yield name, value.strip(b" \t")


def _with_body(
    head: Message, data: bytes, *, until_close: bool, closed: bool = False
) -> tuple[Message, bytes]:
    codings, lengths = head.all(b"transfer-encoding"), head.all(b"content-length")
    if codings:
        if lengths:
            raise DoubtfulError("Content-Length with Transfer-Encoding")
        if head.first[2] == b"HTTP/1.0":
            raise DoubtfulError("Transfer-Encoding in HTTP/1.0")
        if [coding.lower() for coding in codings] != [b"chunked"]:
            raise DoubtfulError("Transfer-Encoding")
        body, rest = _chunks(head, data)
        return Message(head.first, head.fields, body, chunked=True), rest
    if lengths:
        if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
            raise DoubtfulError("Content-Length")
        length = int(lengths[0])
        if len(data) < length:
            raise IncompleteError(head)
        return Message(head.first, head.fields, data[:length]), data[length:]
    if until_close:
        if not closed:
            raise IncompleteError(head)
        return Message(head.first, head.fields, data), b""
    return head, data


def _chunks(head: Message, data: bytes) -> tuple[bytes, bytes]:
    body = bytearray()
    while True:
        end = data.find(b"\r\n")
        line = data if end < 0 else data[:end]
        if b"\n" in line or b"\r" in line.removesuffix(b"\r" if end < 0 else b""):
            raise DoubtfulError("line end in a chunk's size", head)
        if end < 0:
            raise IncompleteError(head)
        size = _CHUNK.fullmatch(line)
        if size is None:
            raise DoubtfulError("chunk extension" if _SIZE.match(line) else "chunk size", head)
        if size[2].translate(None, b" \t") != size[2] and b'"' not in size[2]:
            # RFC 9112 section 7.1.1 has it read, and not every parser does.
            raise DoubtfulError("white space in a chunk's extension", head)
        data, length = data[end + 2 :], int(size[1], 16)
        if length == 0:
            return bytes(body), _trailer(head, data)
        if len(data) < length + 2:
            if data[length : length + 1] not in {b"", b"\r"}:
                raise DoubtfulError("end of a chunk", head)
            raise IncompleteError(head)
        if data[length : length + 2] != b"\r\n":
            raise DoubtfulError("end of a chunk", head)
        body += data[:length]
        data = data[length + 2 :]


def _trailer(head: Message, data: bytes) -> bytes:
    if data.startswith(b"\r\n"):
        return data[2:]
    try:
        found = _head(data)
        if found is None:
            raise IncompleteError(head)
        lines, rest = found
        tuple(_fields(lines))
    except DoubtfulError as error:
        raise DoubtfulError("trailer: " + error.reason, head) from None
    return rest
