"""What is known of who may read which model: proofs that the workspace gave, for as long as they count.

Pure; ``now`` comes in, of ``clock.Clock``. Credentials are known by their partitions only, never in
clear.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

from cachetools import LRUCache

from mlflow_proxy.mlflow_api.answers import json_object, model_created
from mlflow_proxy.mlflow_api.messages import StoredResponse
from mlflow_proxy.mlflow_api.model_names import folded
from mlflow_proxy.mlflow_api.reads import Read
from mlflow_proxy.mlflow_api.routes import Freshness
from mlflow_proxy.reading.generations import Generations, Moment
from mlflow_proxy.reading.store import Invalidation

PROOF = "registered-models/get"
"""The call that proves Can Read on a registered model, which its versions and their files inherit. Clients
make it anyway, before they ask for anything else about the model (facts.md 2)."""
REFUSED = frozenset({401, 403, 404})
"""Answers by which the workspace says that this credential has nothing to read there."""

_UNDERSTOOD = frozenset({"alias", "name", "page_token", "path", "stages", "version"})
"""Parameters of calls about one model. Another could be one by which some server chooses the model (``Name``,
``name[]``), so that the proof would be about a model that the answer is not about."""

_MOST_BYTES = 40 * 2**20
"""Of proofs, about 100,000; a proof forgotten is one call. Rotated tokens leave no more behind."""
_MOST_WITHDRAWALS = 4096
"""Remembered as long as a stored answer may contradict them, which is seconds."""
_OVERHEAD = 400
"""Bytes of a proof with its key, beside the workspace's words if it refused."""
_LARGEST_REFUSAL = 64 * 1024
"""Bytes of a body that is remembered; it may hold what was asked for."""


class Credential(NamedTuple):
    """A credential as proofs know it: by its partition, under one API prefix."""

    partition: str
    prefix: str


@dataclass(frozen=True, slots=True)
class Proof:
    """What the workspace said to one credential about one model; ``refusal`` is its answer if it said no.

    ``created`` tells the model from another one that has its name later: who may read the one has proven
    nothing about the other, which may have had other readers. None if the workspace did not say, or named
    another model: then nothing is shared.
    """

    until: float
    refusal: StoredResponse | None
    created: int | None = None


class Proofs:
    """Proofs by credential and model.

    ``granted`` and ``refused`` are the seconds for which a yes and a no count, ``most_bytes`` is what all of
    them may take. ``generations`` knows of the writes since a question was asked.
    """

    def __init__(
        self, granted: float, refused: float, generations: Generations, most_bytes: int = _MOST_BYTES
    ) -> None:
        self._granted = granted
        self._refused = refused
        self._generations = generations
        self._known: LRUCache[tuple[Credential, str], Proof] = LRUCache(most_bytes, getsizeof=_size)
        self._refused_at: LRUCache[tuple[Credential, str], float] = LRUCache(_MOST_WITHDRAWALS)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, credential: Credential, model: str, now: float) -> Proof | None:
        """Return what the workspace said, None if it has to be asked (again)."""
        known = self._known.get((credential, model))
        if known is not None and now >= known.until:
            del self._known[credential, model]
            return None
        return known

    def note(
        self, credential: Credential, model: str, response: StoredResponse, as_of: float, asked: Moment
    ) -> None:
        """Learn from an answer to ``PROOF``.

        ``as_of`` is a moment (monotonic seconds) before the workspace decided it, ``asked`` the one among the
        writes when it was asked.
        """
        granted = response.status == 200
        # Most writes change no permission, and must not wear out what is granted.
        if not (self._generations.files_hold(asked) if granted else self._generations.holds(asked, None)):
            return
        if granted:
            if as_of < self._refused_at.get((credential, model), as_of):
                return  # a stored answer, or one that was slow: the workspace has said otherwise since
            created = described(response, model)
            # What does not describe the model is a gateway's word (a login page), or a server's that does not
            # say when it was created: it shares nothing, and is asked for anew soon.
            counts = self._granted if created is not None else min(self._granted, self._refused)
            proof = Proof(as_of + counts, None, created)
            known = self._known.get((credential, model))
            if known is not None and known.until > proof.until and replace(proof, until=known.until) == known:
                return  # the same, of a stored answer: it takes nothing away from the newer one
            self._known[credential, model] = proof
        elif response.status in REFUSED and len(response.body) <= _LARGEST_REFUSAL:
            self._known[credential, model] = Proof(as_of + self._refused, response)
        else:
            self._known.pop((credential, model), None)

    def withdraw(self, credential: Credential, model: str, now: float) -> None:
        """Forget what one credential was granted: it was refused something about the model.

        What was granted before ``now`` proves nothing any more.
        """
        known = self._known.get((credential, model))
        if known is not None and known.refusal is None:
            del self._known[credential, model]
        self._refused_at[credential, model] = now

    def forget(self, what: Invalidation) -> None:
        """Forget refusals about what was written, and what was granted if permissions may have changed."""
        chosen = None if what.models is None else set(map(folded, what.models))
        for (credential, model), proof in list(self._known.items()):
            concerned = chosen is None or folded(model) in chosen
            if concerned and (what.files or proof.refusal is not None):
                del self._known[credential, model]


def _size(proof: Proof) -> int:
    if proof.refusal is None:
        return _OVERHEAD
    fields = sum(len(name) + len(value) for name, value in proof.refusal.headers)
    return _OVERHEAD + len(proof.refusal.body) + fields


def described(response: StoredResponse, model: str) -> int | None:
    """Return when the model was created that an answer to ``PROOF`` describes, None if it does not say.

    Nor does it if it names another model. A workspace that reads names in a way of its own (without case,
    without blanks at their ends) may do so in one call and not in another; then it cannot be told what it has
    proven.
    """
    return model_created(json_object(response.body) or {}, model)


def asked_by(read: Read) -> Credential:
    """Name the credential that asks, under the API prefix where it does: another knows other credentials."""
    return Credential(read.partition, read.prefix)


def needs_proof(read: Read) -> bool:
    """Whether an answer may be shared by all who can read the model that it is about.

    What is about no model in particular, or is itself the proof, stays each credential's own. So does what is
    asked with parameters that nobody has heard of.
    """
    return (
        read.model is not None
        and read.route.path != PROOF
        and read.route.freshness is not Freshness.DISCOVERY
        and _UNDERSTOOD.issuperset(name for name, _ in read.key.asked)
    )


def is_proof(read: Read) -> bool:
    """Whether a read proves something: it asks about one model by its name, and says nothing else."""
    return read.route.path == PROOF and read.model is not None and read.key.asked == (("name", read.model),)
