"""The connection to Redis: where redis-py's exceptions become ours. No keys and no rules here."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, NoScriptError, RedisError

from proxy.errors import FleetUnavailableError, InvalidSettingsError

PATIENCE = 0.4
"""Seconds for a connection and for an answer: whoever waits longer for Redis is better off without it."""
INSISTENCE = 0.01
"""Seconds until a call that is to end is told so again."""
MOST_ENTRIES = 1000
"""How many entries of a stream are read at once."""

Reply = bytes | int | None | list["Reply"]
"""What a script can answer."""
Script = Callable[[Sequence[str], Sequence[str | bytes]], Awaitable[Reply]]
"""Runs on keys and arguments. Raises FleetUnavailableError."""


class Connection:
    """The way to one Redis: may be used by many tasks at once, any of which may be cancelled.

    ``url`` is of redis-py's forms: ``redis://``, ``rediss://``, ``unix://``.
    Raises InvalidSettingsError if the URL makes no sense.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = self._new_client(PATIENCE)
        self._readers: dict[float, redis.asyncio.Redis] = {}

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(client.aclose() for client in (self._client, *self._readers.values())))

    def script(self, text: str) -> Script:
        """Return a Lua script."""
        digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

        async def run(keys: Sequence[str], arguments: Sequence[str | bytes]) -> Reply:
            operands = (len(keys), *keys, *arguments)
            with _our_errors():
                try:
                    reply: Reply = await _execute(self._client, "EVALSHA", digest, *operands)
                except NoScriptError:
                    # Not SCRIPT LOAD: this runs it at once, and goes where the keys are.
                    reply = await _execute(self._client, "EVAL", text, *operands)
            return reply

        return run

    async def read_stream(self, key: str, after: str, block: float) -> list[tuple[str, dict[bytes, bytes]]]:
        """Return what came into a stream after the entry with the id ``after``, waiting for it if need be.

        An empty list means that nothing came within ``block`` seconds. Raises FleetUnavailableError.
        """
        milliseconds = max(1, round(block * 1000))  # 0 would be for ever
        with _our_errors():
            streams = await _execute(
                *(self._reader(block), "XREAD"),
                *("COUNT", MOST_ENTRIES, "BLOCK", milliseconds, "STREAMS", key, after),
            )
        return [(name.decode(), fields) for _, entries in streams for name, fields in entries]

    def _reader(self, block: float) -> redis.asyncio.Redis:
        # The time for an answer belongs to a connection: those who wait longer have their own.
        if block not in self._readers:
            self._readers[block] = self._new_client(block + PATIENCE)
        return self._readers[block]

    def _new_client(self, patience: float) -> redis.asyncio.Redis:
        try:
            return redis.asyncio.Redis.from_url(
                self._url,
                socket_timeout=patience,
                socket_connect_timeout=PATIENCE,
                retry=Retry(NoBackoff(), 0),
                protocol=2,
                client_name="mlflow-proxy",
            )
        except ValueError as error:
            raise InvalidSettingsError(
                f"redis: {error}; give --redis a URL such as redis://host:6379/0"
            ) from None


async def _execute(client: redis.asyncio.Redis, *command: str | bytes | int) -> Any:
    # redis-py closes a connection whose answer nobody waits for any more. But it sends with wait_for, which
    # before Python 3.12 can swallow the cancellation, so that one has to insist.
    call = asyncio.create_task(client.execute_command(*command))  # type: ignore[no-untyped-call]
    try:
        return await asyncio.shield(call)
    finally:
        while not call.done():
            call.cancel()
            await asyncio.wait([call], timeout=INSISTENCE)


@contextmanager
def _our_errors() -> Iterator[None]:
    try:
        yield
    except (AuthenticationError, NoPermissionError) as error:
        raise FleetUnavailableError(f"Redis refuses its password or user: {error}") from error
    except (RedisError, OSError) as error:
        raise FleetUnavailableError(f"{type(error).__name__}: {error}") from error
