"""The connection to Redis: where redis-py's exceptions become ours. No keys and no rules here."""

from collections.abc import Awaitable, Callable, Sequence

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from proxy.errors import FleetUnavailableError, InvalidSettingsError

PATIENCE = 0.4
"""Seconds for a connection and for an answer: whoever waits longer for Redis is better off without it."""

Script = Callable[[Sequence[str], str], Awaitable[str]]
"""Runs on keys and one argument."""


class Connection:
    """A pool of connections to one Redis.

    ``url`` is of redis-py's forms: ``redis://``, ``rediss://``, ``unix://``.
    Raises InvalidSettingsError if the URL makes no sense.
    """

    def __init__(self, url: str) -> None:
        try:
            self._client = redis.asyncio.Redis.from_url(
                url,
                socket_timeout=PATIENCE,
                socket_connect_timeout=PATIENCE,
                retry=Retry(NoBackoff(), 0),
                decode_responses=True,
                client_name="mlflow-proxy",
            )
        except ValueError as error:
            raise InvalidSettingsError(
                f"redis: {error}; give --redis a URL such as redis://host:6379/0"
            ) from None

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    def script(self, text: str) -> Script:
        """Return a Lua script that answers with a string; running it raises FleetUnavailableError."""
        registered = self._client.register_script(text)

        async def run(keys: Sequence[str], argument: str) -> str:
            try:
                return str(await registered(keys=list(keys), args=[argument]))
            except (AuthenticationError, NoPermissionError) as error:
                raise FleetUnavailableError(f"Redis refuses its password or user: {error}") from error
            except (RedisError, OSError) as error:
                raise FleetUnavailableError(f"{type(error).__name__}: {error}") from error

        return run
