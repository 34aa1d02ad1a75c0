"""The connection to Redis: where redis-py's exceptions become ours. No keys and no rules here."""

import asyncio
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import Connection as TcpConnection
from redis.asyncio.connection import ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    NoScriptError,
    RedisClusterException,
    RedisError,
)

from proxy.errors import FleetUnavailableError
from proxy.fleet.address import Address, parse

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
REDIS_ERRORS = (RedisError, RedisClusterException, OSError)
"""Whatever redis-py raises when Redis is not as it should be."""
Word = str | bytes | int
"""A part of a command."""


class Connection:
    """The way to one Redis: may be used by many tasks at once, any of which may be cancelled.

    ``url`` is of redis-py's forms, ``redis://``, ``rediss://``, ``unix://``, or names Sentinels or some nodes
    of a Cluster: ``redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB``, ``redis+cluster://HOST:PORT,HOST:PORT``,
    with ``rediss+`` for TLS. Raises InvalidSettingsError if the URL makes no sense.
    """

    def __init__(self, url: str) -> None:
        self._address = parse(url)
        self._client = _client(self._address, PATIENCE)
        self._readers: dict[float, _Client] = {}
        self._reached = False

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(client.close() for client in (self._client, *self._readers.values())))

    def script(self, text: str) -> Script:
        """Return a Lua script."""
        digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

        async def run(keys: Sequence[str], arguments: Sequence[str | bytes]) -> Reply:
            operands = (len(keys), *keys, *arguments)
            with self._our_errors():
                try:
                    reply: Reply = await _execute(self._client, keys, "EVALSHA", digest, *operands)
                except NoScriptError:
                    # Not SCRIPT LOAD: this runs it at once, and goes where the keys are.
                    reply = await _execute(self._client, keys, "EVAL", text, *operands)
            return reply

        return run

    async def read_stream(self, key: str, after: str, block: float) -> list[tuple[str, dict[bytes, bytes]]]:
        """Return what came into a stream after the entry with the id ``after``, waiting for it if need be.

        An empty list means that nothing came within ``block`` seconds. Raises FleetUnavailableError.
        """
        milliseconds = max(1, round(block * 1000))  # 0 would be for ever
        with self._our_errors():
            streams = await _execute(
                *(self._reader(block), [key], "XREAD"),
                *("COUNT", MOST_ENTRIES, "BLOCK", milliseconds, "STREAMS", key, after),
            )
        return [(name.decode(), fields) for _, entries in streams for name, fields in entries]

    def _reader(self, block: float) -> "_Client":
        # The time for an answer belongs to a connection: those who wait longer have their own.
        if block not in self._readers:
            self._readers[block] = _client(self._address, block + PATIENCE)
        return self._readers[block]

    @contextmanager
    def _our_errors(self) -> Iterator[None]:
        try:
            yield
            self._reached = True
        except REDIS_ERRORS as error:
            # Some servers repeat what they did not understand.
            text = _explain(error) + ("" if self._reached else self._hint(error))
            for secret in self._address.secrets():
                text = text.replace(secret, "***")
            raise FleetUnavailableError(text) from None

    def _hint(self, error: Exception) -> str:
        """Say what might be wrong with the URL, if it never worked."""
        text = str(error)
        if self._address.tls and "CERTIFICATE" in text:
            return " (ssl_ca_certs=FILE in the URL names whom to trust)"
        if self._address.tls and ("SSL" in text or "imeout connecting" in text):
            return " (without TLS, the URL begins with redis instead of rediss)"
        if not self._address.tls and ("closed by server" in text or "reset by peer" in text):
            return " (with TLS, the URL begins with rediss instead of redis)"
        return ""


def _explain(error: BaseException) -> str:
    # Of a Cluster, redis-py tells that none of its nodes can be reached, and why as the cause; of a socket it
    # takes a refused password for a lost connection.
    cause = error.__cause__
    if isinstance(cause, RedisError) or (isinstance(error, RedisClusterException) and cause is not None):
        return _explain(cause)
    if isinstance(error, AuthenticationError | NoPermissionError):
        return f"Redis refuses its password or user: {error}"
    if isinstance(error, MasterNotFoundError):
        # The rest is what redis-py's objects look like.
        head, *reasons = re.split(r" : <|, <", str(error))
        return "; ".join([f"Sentinel: {head}", *(reason.rpartition("> - ")[2] for reason in reasons)])
    return f"{type(error).__name__}: {error}"


async def _execute(client: "_Client", keys: Sequence[str], *command: Word) -> Any:
    # redis-py closes a connection whose answer nobody waits for any more. But it sends with wait_for, which
    # before Python 3.12 can swallow the cancellation, so that one has to insist.
    call = asyncio.create_task(client.execute(keys, *command))
    try:
        return await asyncio.shield(call)
    finally:
        while not call.done():
            call.cancel()
            await asyncio.wait([call], timeout=INSISTENCE)


class _Client(ABC):
    """What redis-py has for one kind of Redis. Raises its exceptions."""

    @abstractmethod
    async def execute(self, keys: Sequence[str], *command: Word) -> Any:
        """Return the answer to a command that is about these keys."""

    @abstractmethod
    async def close(self) -> None:
        """Close all connections, those as well that the other side is slow to let go."""


class _One(_Client):
    """One Redis, perhaps found by way of Sentinels."""

    def __init__(self, client: Redis, sentinels: Sequence[Redis]) -> None:
        self._client = client
        self._sentinels = sentinels

    async def execute(self, keys: Sequence[str], *command: Word) -> Any:
        return await self._client.execute_command(*command)  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        for each in (self._client, *self._sentinels):
            with suppress(*REDIS_ERRORS):
                await each.aclose()


class _Cluster(_Client):
    """A Cluster, of which ``hosts`` are nodes."""

    def __init__(self, hosts: Sequence[tuple[str, int]], options: dict[str, Any]) -> None:
        self._hosts = hosts
        self._options = options
        self._client = self._new_client()

    async def execute(self, keys: Sequence[str], *command: Word) -> Any:
        client = self._client
        try:
            await client.initialize()
        except RedisClusterException:
            # The nodes that it got to know are gone: go back to those of the URL, whose names may have come
            # to mean others.
            if client is self._client and client.nodes_manager.nodes_cache:
                self._client = self._new_client()
                await self._close(client)
            raise
        # redis-py would ask a node which of the words are keys, and always the same one, dead or alive.
        nodes = {"target_nodes": client.get_node_from_key(keys[0])} if keys else {}
        return await client.execute_command(*command, **nodes)

    async def close(self) -> None:
        await self._close(self._client)

    def _new_client(self) -> RedisCluster:
        nodes = [ClusterNode(host, port) for host, port in self._hosts]
        return RedisCluster(startup_nodes=nodes, **self._options)

    async def _close(self, client: RedisCluster) -> None:
        with suppress(*REDIS_ERRORS):
            await client.aclose()
        # Of a client that has lost a node, aclose() leaves the connections to the others open.
        for nodes in ("nodes_cache", "startup_nodes"):
            with suppress(*REDIS_ERRORS):
                await client.nodes_manager.aclose(nodes)


def _client(address: Address, patience: float) -> _Client:
    """Return a new client that waits ``patience`` seconds for an answer."""
    common = {
        "socket_connect_timeout": PATIENCE,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # the newer one comes with notifications that change the time-outs
        "client_name": "mlflow-proxy",
    }
    options = {**address.options, **common, "socket_timeout": patience}
    if address.kind == "cluster":
        return _Cluster(address.hosts, {**options, "ssl": address.tls})
    if address.kind == "sentinel":
        to_sentinels = {**address.sentinel_options, **common, "socket_timeout": PATIENCE, "ssl": address.tls}
        manager = Sentinel(address.hosts, sentinel_kwargs=to_sentinels)  # type: ignore[no-untyped-call]
        client = manager.master_for(address.service, ssl=address.tls, **options)
        return _One(client, manager.sentinels)
    if not address.hosts:
        pool = ConnectionPool(connection_class=UnixDomainSocketConnection, **options)
    else:
        [(host, port)] = address.hosts
        way = SSLConnection if address.tls else TcpConnection
        pool = ConnectionPool(connection_class=way, host=host, port=port, **options)
    return _One(Redis.from_pool(pool), [])
