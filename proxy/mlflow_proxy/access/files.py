"""A file that a request needs to know the contents of, as they are now or were a second ago."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic

import structlog

from mlflow_proxy.access.threads import Blocking
from mlflow_proxy.errors import InvalidSettingsError, UnreadableError
from mlflow_proxy.files import INTERVAL, Content, Reloaded, reason
from mlflow_proxy.term import Term

log = structlog.get_logger(__name__)

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
        self._setting = setting
        self._warning = warning
        self._clock = clock
        self._look = Blocking(self._look_now, _LIMIT)
        self._believed = False
        try:
            self._file = Reloaded([path], lambda: parse(_read(path)), setting, wall_clock)
        except (OSError, UnreadableError) as error:
            raise InvalidSettingsError(
                f"{setting}: {path} cannot be used: {reason(error)}; give the path of a file that can"
            ) from None
        self._looked_at = clock()
        self.term = Term(self._looked_at + INTERVAL)
        """Until when ``current`` returns the same without another look, moved on by each that finds it."""
        self._warn()

    async def current(self) -> Content:
        """Return what the file says, no older than a second."""
        oldest = self._clock() - INTERVAL
        # Twice if it joined a look that had been under way for long, and may have seen what was before.
        while self._looked_at <= oldest:
            await self._see()
        return self._file.current

    async def reread(self) -> Content:
        """Return what the file says now, although it may be in the middle of being written."""
        asked = self._clock()
        await self._see(believed=True)
        if self._looked_at < asked:
            await self._see(believed=True)  # it joined a look that may have seen what was before
        return self._file.current

    async def close(self) -> None:
        """Stop looking."""
        await self._look.close()

    async def _see(self, *, believed: bool = False) -> None:
        self._believed |= believed
        try:
            await self._look()
        except TimeoutError:
            self._file.complain("reading it takes too long")
            self._looked_at = self._clock()
            self.term.until = self._looked_at + INTERVAL

    def _look_now(self) -> None:
        """Read the file if it has changed. Runs in a thread, one at a time."""
        believed, self._believed = self._believed, False
        self._looked_at = self._clock()
        if self._file.refresh(believed=believed):
            self.term = self.term.followed(self._looked_at + INTERVAL)
            self._warn()
        else:
            self.term.until = self._looked_at + INTERVAL

    def _warn(self) -> None:
        if warning := self._warning(self._file.current):
            log.warning(warning, setting=self._setting, path=str(self._path))


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise UnreadableError(f"it is larger than {_LARGEST} bytes")
    return data
