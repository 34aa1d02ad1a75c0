"""Several worker processes on one listening address: how they are started, replaced and stopped.

The parent listens, supervises and does nothing else. Workers are forked, not spawned: modules and settings
are read once, sockets are inherited as they are, and the parent has neither a thread nor an event loop that
a fork could break.
"""

import asyncio
import contextlib
import multiprocessing
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import structlog
from pydantic import SecretStr

from mlflow_proxy import logs, preflight, serving
from mlflow_proxy.errors import InvalidSettingsError
from mlflow_proxy.listener import binding
from mlflow_proxy.settings import FleetSettings, Settings

log = structlog.get_logger(__name__)

_SETTLED = 60.0
"""Seconds after which a death no longer counts as one at start."""
_LONGEST_PAUSE = 30
"""Seconds until a worker is replaced at the latest."""
_SLACK = 10.0
"""Seconds a worker may need to stop, beside the grace for its requests."""


@dataclass
class Backoff:
    """How long to wait until a worker that died is replaced: longer each time that it died early."""

    early_deaths: int = 0

    def after(self, lived: float) -> float:
        """Count a death after so many seconds; returns the seconds to wait: 0, or 1, 2, 4... up to 30."""
        self.early_deaths = self.early_deaths + 1 if lived < _SETTLED else 0
        return float(min(1 << self.early_deaths >> 1, _LONGEST_PAUSE))


def run(settings: Settings) -> int:
    """Serve with several workers until a signal stops them; returns the exit status.

    Raises InvalidSettingsError if the first worker cannot serve with these settings, or nothing can.
    """
    if "fork" not in multiprocessing.get_all_start_methods():
        raise InvalidSettingsError("workers: this system cannot fork; set --workers 1")
    preflight.refuse_one_port(settings)  # before the parent binds both
    settings = _with_secret(settings)
    with contextlib.ExitStack() as stack:
        shared = asyncio.run(binding.listen(settings.host, settings.port))
        for each in shared:
            stack.enter_context(each)
        admin = asyncio.run(binding.listen(settings.admin.host, settings.admin.port, "admin."))
        for each in admin:
            stack.enter_context(each)
        private = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(settings.workers)
        ]
        told = stack.enter_context(_told_to_stop())
        return _Supervisor(settings, shared, admin, private, told).run()


def _with_secret(settings: Settings) -> Settings:
    """Let workers share answers at least with each other, if not with other proxies."""
    if settings.fleet.secret.get_secret_value():
        return settings
    return settings.model_copy(update={"fleet": FleetSettings(secret=SecretStr(secrets.token_hex(32)))})


@dataclass
class _Slot:
    """The place of one worker, whichever process fills it."""

    number: int
    backoff: Backoff = field(default_factory=Backoff)
    process: BaseProcess | None = None
    started_at: float = 0.0
    due: float = 0.0
    """When to start the next process (monotonic seconds)."""


class _Supervisor:
    """Restarts workers that end, until a signal to stop makes ``told`` readable."""

    def __init__(
        self,
        settings: Settings,
        shared: Sequence[socket.socket],
        admin: Sequence[socket.socket],
        private: Sequence[socket.socket],
        told: socket.socket,
    ) -> None:
        self._settings = settings
        self._shared = shared
        self._admin = admin
        self._private = private
        self._told = told
        self._slots = [_Slot(number) for number in range(len(private))]
        # Only the parent holds the end that can be written to: when it is gone, the workers read the end.
        self._parent, self._alive = os.pipe()

    def run(self) -> int:
        """Return the exit status. Raises InvalidSettingsError if the first worker does."""
        try:
            if self._first_serves():
                self._keep()
            elif not self._stopping():
                log.error("the first worker died before it served")
                return 1
        finally:
            clean = self._end()
        return 0 if clean else 1

    def _first_serves(self) -> bool:
        """Start one worker first, so that an error which all workers would meet is reported once."""
        said, saying = multiprocessing.Pipe(duplex=False)
        with said:
            with saying:
                self._start(self._slots[0], saying)
            if said not in wait([said, self._told]):
                return False
            try:
                problem = said.recv()
            except EOFError:
                return False
        if problem is not None:
            raise problem
        return True

    def _keep(self) -> None:
        while not self._stopping():
            for slot in self._slots:
                if slot.process is not None and not slot.process.is_alive():
                    self._bury(slot, slot.process)
                if slot.process is None and slot.due <= time.monotonic():
                    self._start(slot)
            wait([self._told, *(process.sentinel for process in self._processes())], self._idle())

    def _idle(self) -> float | None:
        """Return the seconds until a worker is due, None if all are there."""
        due = [slot.due for slot in self._slots if slot.process is None]
        return max(min(due) - time.monotonic(), 0.0) if due else None

    def _start(self, slot: _Slot, saying: Connection | None = None) -> None:
        crew = [f"http://127.0.0.1:{each.getsockname()[1]}" for each in self._private]
        place = serving.Place(slot.number, self._shared, self._admin, self._private[slot.number], crew)
        slot.process = multiprocessing.get_context("fork").Process(
            target=self._work, args=(place, saying), name=f"worker-{slot.number}"
        )
        slot.started_at = time.monotonic()
        # Until a worker drops the parent's handlers, a signal to it would wake the parent as if sent to it.
        signal.pthread_sigmask(signal.SIG_BLOCK, serving.stop_signals())
        try:
            slot.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, serving.stop_signals())

    def _bury(self, slot: _Slot, process: BaseProcess) -> None:
        pause = slot.backoff.after(time.monotonic() - slot.started_at)
        slot.due = time.monotonic() + pause
        log.error(
            "worker died",
            worker=slot.number,
            pid=process.pid,
            status=process.exitcode,
            replaced_in=pause,
        )
        process.close()
        slot.process = None

    def _end(self) -> bool:
        """Stop the workers and wait for them; returns whether all ended as they should."""
        for listening in (*self._shared, *self._admin):
            listening.close()  # so that new connections are refused as soon as no worker takes any
        processes = self._processes()
        for process in processes:
            process.terminate()
        # aiohttp takes the grace twice: until it cancels what runs, and until that has noticed.
        settings = self._settings
        deadline = time.monotonic() + settings.shutdown_delay + 2 * settings.shutdown_grace + _SLACK
        for process in processes:
            process.join(max(deadline - time.monotonic(), 0.0))
            if process.is_alive():
                log.error("worker does not stop and is killed", pid=process.pid)
                process.kill()
                process.join()
        # A worker signalled before it handles signals, or while it exits, ends by the signal itself.
        return all(process.exitcode in {0, -signal.SIGTERM} for process in processes)

    def _processes(self) -> list[BaseProcess]:
        return [slot.process for slot in self._slots if slot.process is not None]

    def _stopping(self) -> bool:
        return bool(wait([self._told], 0))

    def _work(self, place: serving.Place, saying: Connection | None) -> None:
        """Be a worker: all of its process's life."""
        os.close(self._alive)
        signal.set_wakeup_fd(-1)
        told_by = serving.stop_signals()
        # Ctrl-C on a terminal reaches every process, and so does the terminal's end; the parent passes it on.
        for number in told_by:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, told_by)
        logs.begin_anew()
        structlog.contextvars.bind_contextvars(worker=place.number)
        say = saying.send if saying is not None else _no_report
        try:
            with logs.in_background():
                asyncio.run(_serve(self._settings, place, self._parent, lambda url: say(None)))
        except InvalidSettingsError as problem:
            if saying is None:
                raise
            say(problem)


async def _serve(
    settings: Settings, place: serving.Place, parent: int, started: Callable[[str], None]
) -> None:
    loop = asyncio.get_running_loop()
    loop.add_reader(parent, partial(_orphaned, loop, parent))
    await serving.run(settings, started, place)


def _orphaned(loop: asyncio.AbstractEventLoop, parent: int) -> None:
    loop.remove_reader(parent)
    signal.raise_signal(signal.SIGTERM)
    log.error("parent died")


def _no_report(problem: InvalidSettingsError | None) -> None:
    """Ignore the report of a later worker: the parent waits only for the first."""


@contextlib.contextmanager
def _told_to_stop() -> Iterator[socket.socket]:
    """Yield what can be read from once a signal to stop has come."""
    told, telling = socket.socketpair()
    with told, telling:
        telling.setblocking(False)
        # Python writes to it for every signal with a handler of its own, and these have one from here on.
        signal.set_wakeup_fd(telling.fileno(), warn_on_full_buffer=False)
        told_by = serving.stop_signals()
        before = [(number, signal.signal(number, lambda number, frame: None)) for number in told_by]
        try:
            yield told
        finally:
            for number, handler in before:
                signal.signal(number, handler)
            signal.set_wakeup_fd(-1)
