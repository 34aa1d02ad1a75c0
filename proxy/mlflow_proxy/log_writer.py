"""How lines of the log reach standard error without anything that logs having to wait for it.

The reader of a pipe may stand still or be gone, a disk may be full or slow. So a thread writes, from a queue
of bounded length: what finds it full, or cannot be written, is dropped and counted. No error comes back.
"""

import io
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread

_MOST = 4096
"""Lines that wait at most."""
_PATIENCE = 1.0
"""Seconds for what waits to be written until a process goes on without it: at its end, or while it forks."""


class LogWriter(io.TextIOBase):
    """A stream to a descriptor: each text that is written to it is one line, or several that belong together.

    Text is written in the order in which it came, each by one call of the system, so that lines of several
    processes do not mix. ``in_background`` starts the thread. Outside it, each line has a thread of its own
    and is waited for, not longer than a second, and not if an earlier one is still there: so it is with
    processes that fork, which are to have no thread when they do, and before and after a process serves.

    ``_waiting`` is a SimpleQueue because a line may come from a finalizer while another one is put in: its
    ``put`` may be interrupted by itself.
    """

    def __init__(self, descriptor: int, most: int = _MOST) -> None:
        self._descriptor = descriptor
        self._most = most
        self.reset()

    def reset(self) -> None:
        """Begin anew, in a process that was forked: what waits is its parent's."""
        self._waiting: SimpleQueue[str | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._in_background = False
        self._refused = 0
        self._failed = 0
        self._torn = False

    @property
    def dropped(self) -> int:
        """How many lines were not written, or not to their end."""
        return self._refused + self._failed

    def drop(self) -> None:
        """Count a line that there is no text of."""
        self._refused += 1

    def write(self, text: str, /) -> int:
        """Take a line with its end; returns its length. Never raises."""
        if self._waiting.qsize() >= self._most:
            self.drop()
            return len(text)
        self._waiting.put(text)
        stuck = self._thread is not None and self._thread.is_alive()
        if not (self._in_background or stuck) and self._start():
            self._stop()
        return len(text)

    @contextmanager
    def in_background(self) -> Iterator[None]:
        """Let nothing wait for lines. Those that are left at the end are written within a second or not."""
        self._in_background = self._start()
        try:
            yield
        finally:
            if self._in_background:
                self._stop()
            self._in_background = False

    def _start(self) -> bool:
        """Start a thread behind one that may be there still; returns whether one could be had."""
        thread = Thread(target=self._work, args=(self._thread,), name="log", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False
        self._thread = thread
        return True

    def _stop(self) -> None:
        self._waiting.put(None)
        if self._thread is not None:
            self._thread.join(_PATIENCE)

    def _work(self, before: Thread | None) -> None:
        if before is not None:
            before.join()
        while (text := self._waiting.get()) is not None:
            self._write(text)

    def _write(self, text: str) -> None:
        # Behind a line that was cut off, as by a full disk, the next one must not go on in the middle.
        left = (b"\n" if self._torn else b"") + text.encode(errors="backslashreplace")
        try:
            while left:
                written = self._write_some(left)
                left = left[written:]
                self._torn = True
        except OSError:
            self._failed += 1
        else:
            self._torn = False

    def _write_some(self, data: bytes) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            # Another process that shares the descriptor has made it non-blocking.
            select.select([], [self._descriptor], [])
            return 0
