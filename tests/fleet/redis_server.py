"""Redis servers of the test's own, that can be killed and come back empty."""

import asyncio
import random
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import redis.asyncio

from tests.certificates import Authority

ATTEMPTS = 20
"""How many ports are tried: a free one may be taken by another program before the server takes it."""
SYNCHRONISED = ("--repl-diskless-sync-delay", "0")
"""Options of servers that are to replicate at once."""


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something is true; the test's own time limit is the limit."""
    while True:
        if await condition():
            return
        await asyncio.sleep(0.01)


class Certificate:
    """One for 127.0.0.1, of an authority of its own, whose PEM is ``file``: who trusts it trusts no other."""

    def __init__(self, directory: Path, name: str) -> None:
        authority = Authority(directory, name)
        self.file = authority.file
        self.pair = authority.issue(f"{name}-server")


class RedisServer:
    """Listens on a socket in `directory`; `options` are of redis-server."""

    def __init__(self, directory: Path, *options: str) -> None:
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self._socket = directory / "redis.sock"
        self._options = options
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """For redis-py."""
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it, empty; returns once it answers."""
        assert await self._start(), "redis-server ended"

    async def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self._process is not None:
            with suppress(ProcessLookupError):  # a Ctrl-C reaches it too
                self._process.kill()
            await self._process.wait()
            self._process = None
        self._socket.unlink(missing_ok=True)

    def stop(self) -> None:
        """Let it fall silent, without closing its connections."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on where it was stopped."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def ask(self, *command: str) -> Any:
        """Run a command, by the way of nobody else."""
        async with redis.asyncio.Redis(unix_socket_path=str(self._socket)) as client:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]

    async def _start(self) -> bool:
        program = shutil.which("redis-server")
        assert program is not None, "apt-get install redis-server"
        self._process = await asyncio.create_subprocess_exec(
            *(program, *self._arguments()), stdout=asyncio.subprocess.DEVNULL
        )
        while self._process.returncode is None:
            if await self._answers():
                return True
            await asyncio.sleep(0.01)
        return False

    def _arguments(self) -> list[str]:
        place = ["--port", "0", "--unixsocket", str(self._socket), "--dir", str(self._directory)]
        return [*place, "--save", "", *self._options]

    async def _answers(self) -> bool:
        with suppress(OSError):
            reader, writer = await asyncio.open_unix_connection(self._socket)
            writer.write(b"PING\r\n")
            answered = bool(await reader.readline())
            writer.close()
            await writer.wait_closed()
            return answered
        return False


class NetworkRedisServer(RedisServer):
    """Listens on a port of 127.0.0.1 as well, with TLS if it has a certificate."""

    def __init__(self, directory: Path, *options: str, certificate: Certificate | None = None) -> None:
        super().__init__(directory, *options)
        self._certificate = certificate
        self.port = 0
        """Known once it is started."""

    async def replicate(self, primary: "NetworkRedisServer") -> None:
        """Become a replica of another one that has none; returns once each knows that it is."""
        await self.ask("REPLICAOF", "127.0.0.1", str(primary.port))

        async def condition() -> bool:
            [told, heard] = [await server.ask("INFO", "replication") for server in (primary, self)]
            online = told.get("slave0", {}).get("state") == "online"
            return online and bool(heard["master_link_status"] == "up")

        await until(condition)

    async def hand_over(self, replica: "NetworkRedisServer") -> None:
        """Change places with a replica, which loses no write; returns once both are what the other was."""
        await self.ask("FAILOVER", "TO", "127.0.0.1", str(replica.port))

        async def condition() -> bool:
            roles = [(await server.ask("ROLE"))[0] for server in (self, replica)]
            return roles == [b"slave", b"master"]

        await until(condition)

    async def come_back(self) -> None:
        """Start it again where it was."""
        assert await self._start(), "redis-server ended"

    @property
    def host(self) -> str:
        """For URLs."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """For redis-py, without options of TLS."""
        return f"{'rediss' if self._certificate else 'redis'}://{self.host}"

    async def start(self) -> None:
        """Start it on a port that is free."""
        for _ in range(ATTEMPTS):
            self._choose_ports()
            if await self._start():
                return
            await self.kill()
        raise AssertionError("redis-server finds no port")

    def _choose_ports(self) -> None:
        # Below those that Linux gives to clients.
        self.port = random.randrange(10_000, 30_000)

    def _arguments(self) -> list[str]:
        return [*super()._arguments(), "--bind", "127.0.0.1", *self._listening()]

    def _listening(self) -> list[str]:
        if self._certificate is None:
            return ["--port", str(self.port)]
        own = self._certificate
        return [
            *("--tls-port", str(self.port), "--tls-auth-clients", "no"),
            *("--tls-cert-file", str(own.pair.certificate), "--tls-key-file", str(own.pair.key)),
            *("--tls-ca-cert-file", str(own.file), "--tls-replication", "yes"),
        ]


class ClusterServer(NetworkRedisServer):
    """A whole Cluster, of one node, unless it has some slots only."""

    def __init__(
        self,
        directory: Path,
        *options: str,
        slots: tuple[int, int] = (0, 16383),
        certificate: Certificate | None = None,
    ) -> None:
        super().__init__(directory, *options, certificate=certificate)
        self._slots = slots
        self._bus = 0

    async def start(self) -> None:
        """Start it; whether it is whole is another matter."""
        await super().start()
        await self.ask("CLUSTER", "ADDSLOTSRANGE", *map(str, self._slots))

    async def meet(self, other: "ClusterServer") -> None:
        """Make one Cluster of both."""
        await self.ask("CLUSTER", "MEET", "127.0.0.1", str(other.port), str(other._bus))

    async def whole(self) -> None:
        """Wait until all slots are known to be served."""

        async def condition() -> bool:
            return b"cluster_state:ok" in await self.ask("CLUSTER", "INFO")

        await until(condition)

    def _choose_ports(self) -> None:
        super()._choose_ports()
        self._bus = random.randrange(30_000, 32_000)

    def _arguments(self) -> list[str]:
        options = ["--cluster-enabled", "yes", "--cluster-port", str(self._bus)]
        options += ["--tls-cluster", "yes"] if self._certificate else []
        return [*super()._arguments(), *options]


class SentinelServer(NetworkRedisServer):
    """A Sentinel that watches a Redis as `main`, and needs nobody's consent to replace it."""

    def __init__(
        self,
        directory: Path,
        master: NetworkRedisServer,
        *options: str,
        certificate: Certificate | None = None,
    ) -> None:
        super().__init__(directory, certificate=certificate)
        self._master = master
        self._lines = options

    def _arguments(self) -> list[str]:
        options = self._listening()
        lines = [f"{name[2:]} {value}" for name, value in zip(options[::2], options[1::2], strict=True)]
        if self._certificate:
            lines.append("port 0")
        lines += [
            *(f"dir {self._directory}", f"unixsocket {self._socket}", "bind 127.0.0.1"),
            f"sentinel monitor main 127.0.0.1 {self._master.port} 1",
            "sentinel down-after-milliseconds main 500",
            "sentinel failover-timeout main 3000",
            *self._lines,
        ]
        configuration = self._directory / "sentinel.conf"
        configuration.write_text("\n".join(lines))
        return [str(configuration), "--sentinel"]


Server = TypeVar("Server", bound=RedisServer)


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[Server]:
    """Start a server and kill it in the end."""
    try:
        await server.start()
        yield server
    finally:
        await server.kill()
