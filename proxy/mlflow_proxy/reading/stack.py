"""The stack of readers, put together."""

from dataclasses import dataclass

from mlflow_proxy.access.sharing import Access, Caller
from mlflow_proxy.forwarding import Forwarding
from mlflow_proxy.metrics import Metrics
from mlflow_proxy.mlflow_api.reads import Read
from mlflow_proxy.party import Party
from mlflow_proxy.reading.answer import Answer, Reader
from mlflow_proxy.reading.cached import Cached
from mlflow_proxy.reading.coalesced import Coalesced
from mlflow_proxy.reading.fetched import Fetched
from mlflow_proxy.reading.freshness import Lifetimes
from mlflow_proxy.reading.kept import Kept
from mlflow_proxy.reading.learning import Learning
from mlflow_proxy.reading.memory import Memory
from mlflow_proxy.reading.noticed import Noticed
from mlflow_proxy.reading.proven import Proven
from mlflow_proxy.reading.shared import FleetCache, Shared
from mlflow_proxy.reading.writes import Writes
from mlflow_proxy.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Rules:
    """The operator's settings: seconds, and bytes for ``largest``, the most that one answer may have.

    ``stale_if_error`` is how long expired answers are served while the workspace cannot answer; ``patience``
    is the longest that an answer may take to arrive.
    """

    lifetimes: Lifetimes
    stale_if_error: float
    patience: float
    largest: int


@dataclass(frozen=True, slots=True)
class Stack:
    """The readers that other modules use: ``top`` to ask, ``flights`` to count the flights."""

    top: Reader
    flights: Coalesced


def build(
    workspace: Workspace,
    memory: Memory,
    writes: Writes,
    fleet: FleetCache | None,
    access: Access,
    forwarding: Forwarding,
    metrics: Metrics,
    rules: Rules,
) -> Stack:
    """Return the readers, stacked. The lowest and the highest ask questions of their own at the top."""

    async def ask(question: Read, caller: Caller, party: Party) -> Answer:
        return await proven.read(question, caller, party)

    learning = Learning(memory, writes.note)
    fetched = Fetched(workspace, ask, memory, learning, access, rules.lifetimes, rules.largest)
    shared = fetched if fleet is None else Shared(fetched, fleet, memory, learning, access, rules.patience)
    kept = Kept(shared, memory, access)
    noticed = Noticed(kept, forwarding, metrics)
    coalesced = Coalesced(noticed, memory.generations, memory.clock)
    cached = Cached(
        *(coalesced, fetched, memory, workspace.circuit),
        stale_if_error=rules.stale_if_error,
        patience=rules.patience,
    )
    proven = Proven(cached, ask, writes.disown, memory, metrics)
    return Stack(proven, coalesced)
