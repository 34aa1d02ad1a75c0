"""What the emulated workspace and its storage have in common: listen, record, spoil, answer.

What belongs here: the part of an emulated server that is the same whatever it answers.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable

from aiohttp import web

from mlflow_proxy.demo.answers import Answer, FaultHook, Reset, deliver, no_fault
from mlflow_proxy.demo.journal import Arrival, Arrivals, Journal


class EmulatedServer(ABC):
    """An HTTP server whose every request is recorded and can be made to fail.

    `fault` is asked about every request and may be set at any time. An answer takes `latency` seconds;
    `monotonic` gives the times of arrival, in seconds.
    """

    def __init__(self, host: str, port: int, *, monotonic: Callable[[], float], latency: float = 0.0) -> None:
        self.fault: FaultHook = no_fault
        self._journal = Journal()
        self._gate = asyncio.Event()
        self._gate.set()
        self._monotonic = monotonic
        self._latency = latency
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """The origin, without a trailing slash; known once started."""
        return f"http://{self._host}:{self._port}"

    @property
    def arrivals(self) -> Arrivals:
        """Every request since the start or the last reset."""
        return self._journal.arrivals

    async def until(self, condition: Callable[[Arrivals], bool]) -> None:
        """Wait until `condition` holds of the arrivals; the caller brings the time-out."""
        await self._journal.until(condition)

    def reset(self) -> None:
        """Forget what arrived."""
        self.arrivals.clear()

    def hold(self) -> None:
        """Keep back every answer from now on; calls arrive and take effect all the same."""
        self._gate.clear()

    def release(self) -> None:
        """Send the answers that were kept back, and answer at once again."""
        self._gate.set()

    async def start(self) -> None:
        """Listen; port 0 becomes a free one, which a later start takes again.

        Raises OSError if the port is taken.
        """
        app = web.Application()
        app.router.add_route("*", r"/{path:[\s\S]*}", self._serve)
        # Cancellation makes a client that hangs up visible, and lets `stop` end the answers that hang.
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port, backlog=1024).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening and cut the connections."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @abstractmethod
    def _arrival(self, request: web.Request) -> Arrival:
        """Say what the request is."""

    @abstractmethod
    async def _answer(self, request: web.Request, arrival: Arrival) -> Answer:
        """Decide the answer and take its effects, at once."""

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        arrival = self._arrival(request)
        self._journal.record(arrival)
        try:
            fault = self.fault(request)
            answer = fault if isinstance(fault, Answer) else await self._answer(request, arrival)
            await self._gate.wait()
            if self._latency > 0:
                await asyncio.sleep(self._latency)
            response = await deliver(request, answer, fault)
            arrival.status = None if isinstance(fault, Reset) else response.status
        except (asyncio.CancelledError, ConnectionError):
            arrival.cancelled = True
            raise
        finally:
            self._journal.notify()
        return response
