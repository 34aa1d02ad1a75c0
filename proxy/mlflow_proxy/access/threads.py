"""Blocking calls in daemon threads beside the event loop; concurrent callers share one call."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

Result = TypeVar("Result")

MOST_ABANDONED = 4
"""Threads that may hang on after their callers gave up, each of which keeps its call; then no more begin."""


class Blocking(Generic[Result]):
    """A function that blocks, for the event loop.

    ``limit`` is how many seconds a call may take. One that takes longer is given up, not ended: no thread
    can be. It is a daemon, so that the process can end all the same.
    """

    def __init__(self, function: Callable[[], Result], limit: float) -> None:
        self._function = function
        self._limit = limit
        self._running = 0
        self._call: asyncio.Task[Result] | None = None

    async def __call__(self) -> Result:
        """Call it, or wait for the call already under way. Raises what it raises, and TimeoutError."""
        return await asyncio.shield(self.begin())

    def begin(self) -> asyncio.Task[Result]:
        """Call it without waiting, or return the call already under way."""
        if self._call is None or self._call.done():
            self._call = asyncio.create_task(self._in_thread())
            # If no caller waits when it fails, asyncio must not log the error as never retrieved.
            self._call.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._call

    async def close(self) -> None:
        """Give up what is under way."""
        if self._call is not None:
            self._call.cancel()
            await asyncio.wait([self._call])

    async def _in_thread(self) -> Result:
        if self._running > MOST_ABANDONED:
            raise TimeoutError
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()

        def tell(result: Result | None, error: BaseException | None) -> None:
            self._running -= 1
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            result, error = None, None
            try:
                result = self._function()
            except Exception as problem:  # noqa: BLE001 - it is raised where the result is awaited
                error = problem
            with suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(tell, result, error)

        self._running += 1
        threading.Thread(target=run, daemon=True, name="mlflow-proxy-access").start()
        async with asyncio.timeout(self._limit):
            return await future
