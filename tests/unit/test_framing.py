"""What a head may say beyond what the parser sees to; ``tests/integration/framing.py`` has the table."""

import pytest

from mlflow_proxy.errors import AnswerableError, BadRequestError, FieldsTooLargeError, TargetTooLongError
from mlflow_proxy.listener import framing
from mlflow_proxy.listener.framing import Fields, check

HOST = (b"Host", b"proxy.test")


@pytest.mark.parametrize(
    ("method", "target", "version", "fields"),
    [
        ("GET", "/", (1, 1), [HOST]),
        ("GET", "/", (1, 0), []),
        ("GET", "/", (1, 1), [(b"hOsT", b"[::1]:80")]),
        ("GET", "/", (1, 1), [(b"Host", b"a_b-c.test:")]),
        ("GET", '/?a=b%20c&d=[e]|^`{}"<>', (1, 1), [HOST]),
        ("POST", "/", (1, 1), [HOST, (b"Content-Length", b"0")]),
        ("POST", "/", (1, 1), [HOST, (b"Content-Length", b"9" * 18)]),
        ("POST", "/", (1, 1), [HOST, (b"transfer-encoding", b"ChunkeD")]),
        ("POST", "/", (1, 1), [HOST, (b"Expect", b"100-Continue")]),
        ("POST", "/", (1, 1), [HOST, (b"Expect", b"")]),
        ("POST", "/", (1, 0), [HOST, (b"Expect", b"anything")]),
        ("GET", "/", (1, 1), [HOST, (b"X-A", b"\t \x80\xff~")]),
    ],
)
def test_passes(method: str, target: str, version: tuple[int, int], fields: Fields) -> None:
    assert check(method, target, version, fields) is None  # type: ignore[func-returns-value]


@pytest.mark.parametrize(
    ("method", "target", "version", "fields"),
    [
        ("GET", "/", (2, 0), [HOST]),
        ("GET", "/", (0, 9), []),
        ("GET", "", (1, 1), [HOST]),
        ("GET", "a", (1, 1), [HOST]),
        ("GET", "/a#", (1, 1), [HOST]),
        ("GET", "/\u00e9", (1, 1), [HOST]),
        ("GET", "/\udce9", (1, 1), [HOST]),
        ("GET", "/a\n", (1, 1), [HOST]),
        ("CONNECT", "/", (1, 1), [HOST]),
        ("GET", "/", (1, 1), []),
        ("GET", "/", (1, 0), [HOST, HOST]),
        ("GET", "/", (1, 1), [(b"Host", b"proxy.test\n")]),
        ("POST", "/", (1, 1), [HOST, (b"Content-Length", b"5\n")]),
        ("POST", "/", (1, 1), [HOST, (b"Content-Length", b"1" + b"0" * 18)]),
        ("POST", "/", (1, 1), [HOST, (b"Content-Length", b"00")]),
        ("POST", "/", (1, 1), [HOST, (b"Content-Length", b"0"), (b"content-LENGTH", b"0")]),
        ("POST", "/", (1, 1), [HOST, (b"Transfer-Encoding", b"chunked\n")]),
        ("POST", "/", (1, 0), [HOST, (b"Transfer-Encoding", b"chunked")]),
        *(("GET", "/", (1, 1), [HOST, (b"X-A", bytes([code]))]) for code in (*range(9), *range(10, 32), 127)),
    ],
)
def test_is_refused(method: str, target: str, version: tuple[int, int], fields: Fields) -> None:
    with pytest.raises(BadRequestError):
        check(method, target, version, fields)


def test_a_head_has_a_size() -> None:
    rest = framing.LARGEST_HEAD - len("/") - sum(map(len, HOST)) - len("X")
    check("GET", "/", (1, 1), [HOST, (b"X", b"a" * rest)])
    with pytest.raises(FieldsTooLargeError, match=str(framing.LARGEST_HEAD)):
        check("GET", "/", (1, 1), [HOST, (b"X", b"a" * (rest + 1))])


@pytest.mark.parametrize(
    ("limit", "kind"),
    [(framing.LONGEST_TARGET, TargetTooLongError), (framing.LONGEST_FIELD, FieldsTooLargeError)],
)
def test_the_parsers_limit_tells_what_was_too_long(limit: int, kind: type[AnswerableError]) -> None:
    error = framing.too_long(limit)
    assert type(error) is kind
    assert str(limit) in str(error)
