"""An ASGI application of which one path fails as it does in frameworks: answered with 500, then raised on."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Answer a request once its body is there."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    failing = scope["path"].endswith("/delete")
    length = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 500 if failing else 200, "headers": length})
    await send({"type": "http.response.body", "body": b"{}"})
    if failing:
        _fail(60)


def _fail(depth: int) -> None:
    """Fail as deep down as applications do: the server prints all of it before it closes the connection."""
    if depth == 0:
        raise RuntimeError("as asked")
    _fail(depth - 1)
