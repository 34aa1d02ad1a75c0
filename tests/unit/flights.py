"""Shared calls under observation: the reader that makes them, over one that answers when a test says so."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from mlflow_proxy.access.sharing import Caller
from mlflow_proxy.clock import Clock
from mlflow_proxy.mlflow_api.caller_fields import ANONYMOUS
from mlflow_proxy.mlflow_api.messages import Client, StoredResponse
from mlflow_proxy.mlflow_api.reads import Key, Read
from mlflow_proxy.mlflow_api.routes import match
from mlflow_proxy.outcome import Outcome
from mlflow_proxy.party import Party
from mlflow_proxy.reading.answer import Answer
from mlflow_proxy.reading.coalesced import Coalesced
from mlflow_proxy.reading.generations import Generations
from mlflow_proxy.reading.store import Entry

ROUTE = match("GET", "/api/2.0/mlflow/model-versions/list-artifacts")
LATER = 1000.0


def read(model: str = "m") -> Read:
    return Read(Key("partition", "GET", ROUTE.path, (("name", model),)), ROUTE, model, "1")


def response(body: bytes = b"{}") -> StoredResponse:
    return StoredResponse(200, "OK", (), body)


@dataclass(frozen=True, eq=False)
class Flight:
    """What a call of the reader below gets to know."""

    party: Party
    question: Read
    generations: Generations
    began: int

    @property
    def deadline(self) -> float:
        return self.party.deadline

    @property
    def holds(self) -> bool:
        """Whether nothing was written that concerns it."""
        return self.generations.holds(self.began, self.question.model)


Call = Callable[[Flight], Awaitable[StoredResponse]]


class Flights:
    """The reader, over one below that makes whatever call a question brings with it."""

    def __init__(self) -> None:
        self.generations = Generations()
        self._coalesced = Coalesced(self, self.generations, Clock(time.monotonic, time.time))
        self._calls: dict[Caller, tuple[Call, int]] = {}
        """With the moment among the writes at which it was asked for."""

    def __len__(self) -> int:
        return len(self._coalesced)

    async def read(self, question: Read, caller: Caller, party: Party) -> Answer:
        call, began = self._calls[caller]
        found = await call(Flight(party, question, self.generations, began))
        return Answer(question.key, Entry(found, question.model, "1", False, 0.0, 0.0), Outcome.MISS, 0.0)

    async def fetch(
        self, question: Read, deadline: float, waiting: str | Party, call: Call
    ) -> tuple[StoredResponse, bool]:
        """Return what came, and whether it is of a flight that others had started."""
        caller = Caller((), f"number {len(self._calls)}", Client(""), ANONYMOUS, fresh=False)
        self._calls[caller] = call, self.generations.moment
        party = Party(waiting, deadline=deadline) if isinstance(waiting, str) else waiting
        answer = await self._coalesced.read(question, caller, party)
        return answer.response, answer.outcome is Outcome.COLLAPSED


@dataclass
class Calls:
    """Calls that take their time, and what became of them."""

    seconds: float = 10.0
    error: Exception | None = None
    started: int = 0
    cancelled: int = 0
    flights: list[Flight] = field(default_factory=list)

    async def __call__(self, flight: Flight) -> StoredResponse:
        self.started += 1
        self.flights.append(flight)
        number = self.started
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return response(str(number).encode())


Joining = asyncio.Task[tuple[StoredResponse, bool]]


async def join(
    flights: Flights,
    call: Callable[[Flight], Awaitable[StoredResponse]],
    *,
    deadline: float = LATER,
    model: str = "m",
    client: str = "client",
) -> Joining:
    """Ask, and return once the question is in the air."""
    task = asyncio.ensure_future(flights.fetch(read(model), deadline, client, call))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return task
