"""What the readers know: stored answers, proofs, refusals and statuses, and what a write makes of them."""

from mlflow_proxy.clock import Clock
from mlflow_proxy.reading.generations import Generations
from mlflow_proxy.reading.proofs import Proofs
from mlflow_proxy.reading.refusals import Refusals
from mlflow_proxy.reading.store import Invalidation, MemoryStore
from mlflow_proxy.reading.versions import VersionBook


class Memory:
    """All that one process knows of the workspace.

    ``most_bytes`` is for the stored answers; ``clock`` tells when what is known ends.
    """

    def __init__(self, most_bytes: int, proof_ttl: float, refusal_ttl: float, clock: Clock) -> None:
        self.clock = clock
        self.generations = Generations()
        self.store = MemoryStore(most_bytes)
        self.proofs = Proofs(proof_ttl, refusal_ttl, self.generations)
        self.versions = VersionBook()
        self.refusals = Refusals()

    def forget(self, what: Invalidation) -> int:
        """Let no read that begins now see what a write has changed; returns how many answers were dropped."""
        self.generations.note(what)
        self.proofs.forget(what)
        if what.files:
            self.versions.forget(what.models)
        return self.store.invalidate(what)
