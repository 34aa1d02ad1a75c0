"""A redis-server of the test's own, that can be killed and come back empty."""

import asyncio
import shutil
import signal
from contextlib import suppress
from pathlib import Path


class RedisServer:
    """Listens on a socket in `directory`; `options` are of redis-server."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._socket = directory / "redis.sock"
        self._options = options
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """For redis-py."""
        return f"unix://{self._socket}"

    async def start(self) -> None:
        """Start it, empty; returns once it answers."""
        program = shutil.which("redis-server")
        assert program is not None, "apt-get install redis-server"
        self._process = await asyncio.create_subprocess_exec(
            *(program, "--port", "0", "--unixsocket", str(self._socket), "--save", "", *self._options),
            stdout=asyncio.subprocess.DEVNULL,
        )
        while not await self._answers():
            assert self._process.returncode is None, "redis-server ended"
            await asyncio.sleep(0.01)

    async def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self._process is not None:
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

    async def _answers(self) -> bool:
        with suppress(OSError):
            reader, writer = await asyncio.open_unix_connection(self._socket)
            writer.write(b"PING\r\n")
            answered = bool(await reader.readline())
            writer.close()
            await writer.wait_closed()
            return answered
        return False
