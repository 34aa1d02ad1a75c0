"""The connection to Redis: where redis-py's exceptions become ours. No keys and no rules here."""

import asyncio
import hashlib
import math
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
    ClusterDownError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from mlflow_proxy.errors import FleetUnavailableError
from mlflow_proxy.fleet.address import Address, parse

PATIENCE = 0.4
"""Seconds for a connection and for an answer: a request is better served without a slower Redis."""
INSISTENCE = 0.01
"""Seconds until a call that was cancelled is cancelled again."""
LOOK_AGAIN = 1.0
"""Seconds between two times at least that Redis is looked for anew."""
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

    Behind a name or a proxy that stays, another Redis may be the one that takes writes: whenever the one at
    the other end does not, or falls silent, all connections are left and the name is resolved again.
    """

    def __init__(self, url: str) -> None:
        self._address = parse(url)
        self._clients: dict[float, _Client] = {}
        """By how long they wait for an answer, which belongs to a connection."""
        self._leaving: set[asyncio.Task[None]] = set()
        self._left = -math.inf
        self._reached = False

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*self._leaving, *(client.close() for client in self._clients.values()))

    def leave(self) -> None:
        """Look for Redis anew from the next call on; those under way end where they are.

        At most once in ``LOOK_AGAIN`` seconds: as long as there is nothing better to be found, a crowd of
        members would open connections without end.
        """
        now = asyncio.get_running_loop().time()
        if self._address.kind == "cluster" or now < self._left + LOOK_AGAIN:
            return  # of a Cluster, redis-py knows which node to leave
        self._left = now
        clients, self._clients = self._clients, {}
        for client in clients.values():
            leaving = asyncio.create_task(client.leave())
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    def script(self, text: str) -> Script:
        """Return a Lua script."""
        digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

        async def run(keys: Sequence[str], arguments: Sequence[str | bytes]) -> Reply:
            operands = (len(keys), *keys, *arguments)
            with self._our_errors():
                try:
                    reply: Reply = await self._call(PATIENCE, keys, "EVALSHA", digest, *operands)
                except NoScriptError:
                    # Not SCRIPT LOAD: this runs it at once, and goes where the keys are.
                    reply = await self._call(PATIENCE, keys, "EVAL", text, *operands)
            return reply

        return run

    async def read_stream(self, key: str, after: str, block: float) -> list[tuple[str, dict[bytes, bytes]]]:
        """Return what came into a stream after the entry with the id ``after``, waiting for it if need be.

        An empty list means that nothing came within ``block`` seconds. Raises FleetUnavailableError.
        """
        milliseconds = round(block * 1000)
        waiting = ("BLOCK", milliseconds) if milliseconds else ()  # 0 would be for ever
        with self._our_errors():
            streams = await self._call(
                *(PATIENCE + milliseconds / 1000, [key], "XREAD"),
                *("COUNT", MOST_ENTRIES, *waiting, "STREAMS", key, after),
            )
        return [(name.decode(), fields) for _, entries in streams or () for name, fields in entries]

    async def _call(self, patience: float, keys: Sequence[str], *command: Word) -> Any:
        if patience not in self._clients:
            self._clients[patience] = _client(self._address, patience)
        return await self._clients[patience].call(keys, *command)

    @contextmanager
    def _our_errors(self) -> Iterator[None]:
        try:
            yield
            self._reached = True
        except REDIS_ERRORS as error:
            if _may_be_elsewhere(error):
                self.leave()
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


def _may_be_elsewhere(error: Exception) -> bool:
    """Whether what was met says that this is not, or not now, the Redis that takes writes.

    What a Redis says that has been made a replica, has lost its own ones, its disk or its Cluster, or still
    loads; and whatever is no answer. What it says of a command (no permission, no memory) is no such thing.
    """
    if isinstance(error, ReadOnlyError | ClusterDownError):  # MASTERDOWN is one too
        return True
    if isinstance(error, ResponseError):
        return str(error).startswith(("NOREPLICAS", "MISCONF", "UNBLOCKED"))
    return True


def _explain(error: BaseException) -> str:
    # Of a Cluster, redis-py tells that none of its nodes can be reached, and why as the cause; of a socket it
    # takes a refused password for a lost connection.
    cause = error.__cause__
    if cause is None and isinstance(error.__context__, NoPermissionError):
        cause = error.__context__  # redis-py says "Cluster mode is not enabled" to a user without permission
    if isinstance(cause, RedisError) or (isinstance(error, RedisClusterException) and cause is not None):
        return _explain(cause)
    if isinstance(error, AuthenticationError | NoPermissionError):
        return f"Redis refuses its password or user: {error}"
    if isinstance(error, MasterNotFoundError):
        # The rest is what redis-py's objects look like.
        head, *reasons = re.split(r" : <|, <", str(error))
        return "; ".join([f"Sentinel: {head}", *(reason.rpartition("> - ")[2] for reason in reasons)])
    return f"{type(error).__name__}: {error}"


class _Client(ABC):
    """What redis-py has for one kind of Redis. Raises its exceptions."""

    def __init__(self) -> None:
        self._calls: set[asyncio.Task[Any]] = set()

    async def call(self, keys: Sequence[str], *command: Word) -> Any:
        """Return the answer to a command that is about these keys; may be cancelled."""
        # redis-py closes the connection of a cancelled call. But it sends with wait_for, which before
        # Python 3.12 can swallow the cancellation, so the call is cancelled repeatedly.
        call = asyncio.create_task(self.execute(keys, *command))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        try:
            return await asyncio.shield(call)
        finally:
            while not call.done():
                call.cancel()
                await asyncio.wait([call], timeout=INSISTENCE)

    async def leave(self) -> None:
        """Close all connections once the calls under way have ended; none may begin after this."""
        if self._calls:
            await asyncio.wait(self._calls)
        await self.close()

    @abstractmethod
    async def execute(self, keys: Sequence[str], *command: Word) -> Any:
        """Return the answer to a command that is about these keys."""

    @abstractmethod
    async def close(self) -> None:
        """Close all connections, those as well that the other side is slow to let go."""


class _One(_Client):
    """One Redis, perhaps found by way of Sentinels."""

    def __init__(self, client: Redis, sentinels: Sequence[Redis]) -> None:
        super().__init__()
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
        super().__init__()
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
    }
    options = {**address.options, **common, "socket_timeout": patience}
    if address.kind == "cluster":
        return _Cluster(address.hosts, {**options, "ssl": address.tls})
    # No CLIENT SETNAME nor SETINFO: a user may not be allowed to run them, and a proxy in front of Redis may
    # close the connection for a command that it does not know. redis-py sends more than these to a Cluster.
    common["driver_info"] = options["driver_info"] = None
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
