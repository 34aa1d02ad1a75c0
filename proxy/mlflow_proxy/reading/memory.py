"""The state of the readers: stored answers, proofs, refusals, statuses; and its invalidation by writes."""

from mlflow_proxy.clock import Clock
from mlflow_proxy.reading.generations import Generations
from mlflow_proxy.reading.proofs import Proofs
from mlflow_proxy.reading.refusals import Refusals
from mlflow_proxy.reading.store import Invalidation, MemoryStore
from mlflow_proxy.reading.versions import VersionBook


class Memory:
    """Everything that one process has learnt from the workspace.

    ``most_bytes`` bounds the stored answers; ``proof_ttl`` and ``refusal_ttl`` are in seconds.
    """

    def __init__(self, most_bytes: int, proof_ttl: float, refusal_ttl: float, clock: Clock) -> None:
        self.clock = clock
        self.generations = Generations()
        self.store = MemoryStore(most_bytes)
        self.proofs = Proofs(proof_ttl, refusal_ttl, self.generations)
        self.versions = VersionBook()
        self.refusals = Refusals()

    def forget(self, what: Invalidation) -> int:
        """Drop everything that a write outdated; returns how many stored answers were dropped."""
        self.generations.note(what)
        self.proofs.forget(what)
        if what.files:
            self.versions.forget(what.models)
        return self.store.invalidate(what)
