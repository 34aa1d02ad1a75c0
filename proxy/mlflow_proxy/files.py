"""Files that operators replace while the proxy runs: read again when they change, never half-written ones.

If a file cannot be read or parsed, its last valid content stays in force. ``tls`` checks its files once a
second in the background, ``access.files`` when a request needs the content.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from mlflow_proxy.errors import InvalidSettingsError, UnreadableError

log = structlog.get_logger(__name__)

Content = TypeVar("Content")
Stamp = tuple[int, int, int, int]
"""Device, inode, size and time of the last change: what tells one state of a file from the next."""

INTERVAL = 1.0
"""Seconds between two looks at a file, and for which one that is written in place must not have changed."""
Problem = OSError | UnreadableError | InvalidSettingsError


class Reloaded(Generic[Content]):
    """What some files say together.

    ``read`` returns it, or raises one of ``Problem``, which the first time is the caller's; it blocks on the
    disk. ``setting`` names them in the log. ``wall_clock`` is that of the times at which files change: with
    it, a file that is written in place counts only when it no longer grows. Without it ``read`` has to notice
    the half of a file by itself, as half a certificate does not load.
    """

    def __init__(
        self,
        files: Sequence[Path],
        read: Callable[[], Content],
        setting: str,
        wall_clock: Callable[[], float] | None = None,
    ) -> None:
        self._files = files
        self._read = read
        self._setting = setting
        self._wall_clock = wall_clock
        # Looked at before they are read: what changes in between is a change.
        self._seen = self._look()
        self._growing: tuple[Stamp | None, ...] | None = None
        self._complained = False
        self.current = read()

    def refresh(self, *, believed: bool = False) -> bool:
        """Take over what the files say if they have changed; returns whether that was done.

        ``believed`` is for a caller that cannot wait until they no longer grow. Runs in one thread at a time.
        """
        seen = self._look()
        if seen == self._seen:
            self._complained = False
            return False
        if not believed and self._may_grow(seen):
            self._growing = seen
            return False
        try:
            self.current = self._read()
        except (OSError, UnreadableError, InvalidSettingsError) as error:
            self.complain(reason(error))
            return False
        self._seen, self._growing, self._complained = seen, None, False
        log.info("changed file read again", setting=self._setting, files=self._names())
        return True

    def complain(self, problem: str) -> None:
        """Log why the files cannot be used, once until they can: reasons change while they are written."""
        if not self._complained:
            self._complained = True
            log.error(
                "changed file cannot be used; what it said before stays in force",
                setting=self._setting,
                files=self._names(),
                reason=problem,
            )

    def _look(self) -> tuple[Stamp | None, ...]:
        return tuple(map(_stamp, self._files))

    def _may_grow(self, seen: tuple[Stamp | None, ...]) -> bool:
        """Whether one was written in place, not replaced, or replaced by files that took turns at one inode.

        Its writer may not have finished. What still looks the same at the next look is believed.
        """
        if self._wall_clock is None or seen == self._growing:
            return False
        now = self._wall_clock()
        return any(
            new is not None and old is not None and new[:2] == old[:2] and now - new[3] / 1e9 < INTERVAL
            for new, old in zip(seen, self._seen, strict=True)
            if new != old
        )

    def _names(self) -> list[str]:
        return [str(file) for file in self._files]


def reason(problem: Problem) -> str:
    """Say what is wrong with a file."""
    return (problem.strerror or type(problem).__name__) if isinstance(problem, OSError) else str(problem)


def _stamp(file: Path) -> Stamp | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
