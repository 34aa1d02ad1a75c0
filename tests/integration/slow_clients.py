"""How slow clients begin, what they are told at last, and how time passes for them."""

from collections.abc import Callable

from tests.integration.support import PLAIN, RawReply

HEAD, CLIENT, IDLE = 30.0, 60.0, 3630.0
"""The default time-outs in seconds."""

BEGUN = [b"G", b"GET / HTTP/1.1", b"GET / HTTP/1.1\r\nHost: proxy.localhost\r\nX-A: b\r\n"]
LENGTH = [("Content-Length", "100")]
CHUNKED = [("Transfer-Encoding", "chunked")]

Advance = Callable[[float], None]


def keep_alive(target: str = PLAIN) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: proxy.localhost\r\n\r\n".encode()


def timed_out(reply: RawReply, setting: str) -> None:
    assert (reply.status, reply.broken) == (408, False)
    assert reply.complete
    assert reply.all("Connection") == ["close"]
    assert reply.all("Content-Type") == ["application/json"]
    assert reply.json()["error_code"] == "DEADLINE_EXCEEDED"
    assert f"(connections.{setting})" in reply.json()["message"]
