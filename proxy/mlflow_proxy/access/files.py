"""Files that others replace while the proxy runs: read again when they change, never half-written ones.

A file that cannot be read or understood keeps what it said before.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from mlflow_proxy.access.threads import Blocking
from mlflow_proxy.errors import InvalidSettingsError, UnreadableError

log = structlog.get_logger(__name__)

Content = TypeVar("Content")
Stamp = tuple[int, int, int, int]
"""Device, inode, size and time of the last change: what tells one state of a file from the next."""

INTERVAL = 1.0
"""Seconds between two looks at a file."""
_LIMIT = 5.0
"""Seconds a look may take, on a file system that hangs."""
_LARGEST = 2**20
"""Bytes."""


class WatchedFile(Generic[Content]):
    """One file, read at once: raises InvalidSettingsError, naming ``setting``, if that cannot be done.

    ``parse`` makes of its bytes what it means, or raises UnreadableError. ``warning`` returns what to log
    when that comes into force, empty for nothing. ``wall_clock`` is that of the times at which files change,
    ``clock`` any other one.
    """

    def __init__(
        self,
        path: Path,
        parse: Callable[[bytes], Content],
        setting: str,
        *,
        warning: Callable[[Content], str] = lambda content: "",
        clock: Callable[[], float],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._parse = parse
        self._setting = setting
        self._warning = warning
        self._clock = clock
        self._wall_clock = wall_clock
        self._look = Blocking(self._look_now, _LIMIT)
        self._problem = ""
        self._growing: Stamp | None = None
        self._believed = False
        try:
            self._stamp, data = _read(path)
            self._content = parse(data)
        except (OSError, UnreadableError) as error:
            raise InvalidSettingsError(
                f"{setting}: {path} cannot be used: {_reason(error)}; give the path of a file that can"
            ) from None
        self._looked_at = clock()
        self._warn()

    async def current(self) -> Content:
        """Return what the file says, no older than a second."""
        oldest = self._clock() - INTERVAL
        # Twice if it joined a look that had been under way for long, and may have seen what was before.
        while self._looked_at <= oldest:
            await self._see()
        return self._content

    async def reread(self) -> Content:
        """Return what the file says now, although it may be in the middle of being written."""
        asked = self._clock()
        await self._see(believed=True)
        if self._looked_at < asked:
            await self._see(believed=True)  # it joined a look that may have seen what was before
        return self._content

    async def close(self) -> None:
        """Stop looking."""
        await self._look.close()

    async def _see(self, *, believed: bool = False) -> None:
        self._believed |= believed
        try:
            await self._look()
        except TimeoutError:
            self._complain("reading it takes too long")
            self._looked_at = self._clock()

    def _look_now(self) -> None:
        """Read the file if it has changed. Runs in a thread, one at a time."""
        believed, self._believed = self._believed, False
        self._looked_at = self._clock()
        try:
            found = _stamp(os.stat(self._path))
            if found == self._stamp:
                return
            rests = self._wall_clock() - found[3] / 1e9 >= INTERVAL
            if not (believed or rests) and found[:2] == self._stamp[:2] and found != self._growing:
                # Written in place, not replaced, or replaced more than once by files that took turns at one
                # inode: whoever writes may not have finished. What still looks the same at the next look is
                # believed.
                self._growing = found
                return
            stamp, data = _read(self._path)
            content = self._parse(data)
        except (OSError, UnreadableError) as error:
            self._complain(_reason(error))
            return
        self._stamp, self._content, self._growing, self._problem = stamp, content, None, ""
        log.info("file read again", setting=self._setting, path=str(self._path))
        self._warn()

    def _warn(self) -> None:
        if warning := self._warning(self._content):
            log.warning(warning, setting=self._setting, path=str(self._path))

    def _complain(self, reason: str) -> None:
        if reason != self._problem:
            self._problem = reason
            log.error(
                "file cannot be used; what it said before stays in force",
                setting=self._setting,
                path=str(self._path),
                reason=reason,
            )


def _read(path: Path) -> tuple[Stamp, bytes]:
    with path.open("rb") as file:
        stamp = _stamp(os.fstat(file.fileno()))
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise UnreadableError(f"it is larger than {_LARGEST} bytes")
    return stamp, data


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _reason(error: OSError | UnreadableError) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
