"""Bodies as they arrive, from clients and from the other side alike."""

from collections.abc import AsyncIterator

from aiohttp import StreamReader


async def pieces(body: StreamReader) -> AsyncIterator[bytes]:
    """Yield a body as it arrives. Raises what it was broken off with.

    aiohttp's own iteration does not always: a reader that the end of a chunk woke looks for the end of the
    body, not for an error (``StreamReader.readany``, aiohttp 3.14). A body whose framing breaks just there
    would be taken for a complete one.
    """
    async for piece in body.iter_any():
        yield piece
    error = body.exception()
    if error is not None:
        raise error
