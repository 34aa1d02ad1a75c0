"""Proofs: the workspace's decisions on whether a credential may read a model, for as long as they are valid.

Pure; ``now`` is that of ``clock.Clock``. Credentials appear as names of partitions only, never in clear.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from cachetools import LRUCache

from mlflow_proxy.mlflow_api.answers import json_object, model_created
from mlflow_proxy.mlflow_api.messages import StoredResponse
from mlflow_proxy.mlflow_api.model_names import folded
from mlflow_proxy.mlflow_api.reads import Read
from mlflow_proxy.mlflow_api.routes import Freshness
from mlflow_proxy.reading.generations import Generations, Moment
from mlflow_proxy.reading.lasting import Lasting
from mlflow_proxy.reading.store import Invalidation
from mlflow_proxy.term import Term

PROOF = "registered-models/get"
"""The call that proves Can Read on a registered model, which its versions and their files inherit. Clients
make it anyway, before they ask for anything else about the model."""
REFUSED = frozenset({401, 403, 404})
"""Statuses by which the workspace says that this credential may not read the model, or that it has none."""

_UNDERSTOOD = frozenset({"alias", "name", "page_token", "path", "stages", "version"})
"""Parameters of calls about one model. A server might choose the model by another one (``Name``, ``name[]``);
then the proof and the answer would be about different models."""

_MOST_BYTES = 40 * 2**20
"""About 100,000 proofs, those of rotated tokens included; an evicted proof costs one call."""
_MOST_WITHDRAWALS = 4096
"""A withdrawal matters only for the seconds in which an older stored answer may contradict it."""
_OVERHEAD = 400
"""Bytes of a proof with its key, beside the response of a refusal."""
_LARGEST_REFUSAL = 64 * 1024
"""Bytes of a refusal's body; larger ones are not remembered. It may quote the request."""


class CredentialKey(NamedTuple):
    """The key of a credential's proofs: its partition, under one API prefix."""

    partition: str
    prefix: str


@dataclass(frozen=True, slots=True)
class Proof:
    """The workspace's decision on one credential and one model, valid until ``until``.

    ``refusal`` is its response if it refused. ``created`` is the model's creation timestamp: a later model of
    the same name needs a new proof, since it may have other readers. None if the workspace did not state it,
    or named another model: then nothing is shared. ``as_of`` is a time at or before the decision.
    """

    until: float
    refusal: StoredResponse | None
    created: int | None = None
    as_of: float = field(default=0.0, compare=False)


class Proofs:
    """Proofs by credential and model.

    ``granted`` and ``refused`` are the seconds for which a grant and a refusal are valid, ``most_bytes``
    bounds all proofs together. ``generations`` counts the writes.
    """

    def __init__(
        self, granted: float, refused: float, generations: Generations, most_bytes: int = _MOST_BYTES
    ) -> None:
        self._granted = granted
        self._refused = refused
        self._generations = generations
        self._known: Lasting[tuple[CredentialKey, str], Proof] = Lasting(
            most_bytes, lambda proof: proof.until, _size
        )
        self._refused_at: LRUCache[tuple[CredentialKey, str], float] = LRUCache(_MOST_WITHDRAWALS)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, credential: CredentialKey, model: str, now: float) -> Proof | None:
        """Return the valid proof, None if the workspace has to be asked."""
        known = self._known.get((credential, model))
        if known is not None and now >= known.until:
            del self._known[credential, model]
            return None
        return known

    def term(self, credential: CredentialKey, model: str) -> Term:
        """Return until when a proof that ``get`` has just returned is valid."""
        return self._known.term((credential, model))

    def note(
        self, credential: CredentialKey, model: str, response: StoredResponse, as_of: float, asked: Moment
    ) -> None:
        """Take the proof from an answer to ``PROOF``.

        ``as_of`` is a time (monotonic seconds) at or before the workspace's decision, ``asked`` the count of
        writes at the question.
        """
        granted = response.status == 200
        # A grant ends only with a write that may change permissions; most writes change none.
        if not (self._generations.files_hold(asked) if granted else self._generations.holds(asked, None)):
            return
        if granted:
            if as_of < self._refused_at.get((credential, model), as_of):
                return  # a stored or slow answer: the workspace has refused the credential since
            created = described(response, model)
            # A 200 that does not describe the model (a gateway's login page), or has no creation timestamp,
            # lets the credential share nothing, and is asked for again soon.
            counts = self._granted if created is not None else min(self._granted, self._refused)
            proof = Proof(as_of + counts, None, created, as_of)
            known = self._known.get((credential, model))
            if known is not None and known.until > proof.until and replace(proof, until=known.until) == known:
                return  # the same grant from a stored answer must not shorten the newer proof
            self._known[credential, model] = proof
        elif response.status in REFUSED and len(response.body) <= _LARGEST_REFUSAL:
            self._known[credential, model] = Proof(as_of + self._refused, response, as_of=as_of)
        else:
            self._known.pop((credential, model), None)

    def withdraw(self, credential: CredentialKey, model: str, now: float) -> None:
        """Drop a credential's grant for a model after a refusal of anything about that model.

        Answers from before ``now`` no longer grant anything.
        """
        known = self._known.get((credential, model))
        if known is not None and known.refusal is None:
            del self._known[credential, model]
        self._refused_at[credential, model] = now

    def forget(self, what: Invalidation) -> None:
        """Drop refusals for the models written, and grants if permissions may have changed."""
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
    """Return the creation timestamp of the model that an answer to ``PROOF`` describes, None if it has none.

    None as well if the answer names another model. A workspace may ignore case, or blanks at the ends of a
    name, in one call and not in another; such an answer does not prove which model later calls are about.
    """
    return model_created(json_object(response.body) or {}, model)


def asked_by(read: Read) -> CredentialKey:
    """Return the key of the asking credential, for this API prefix: another may accept other credentials."""
    return CredentialKey(read.partition, read.prefix)


def needs_proof(read: Read) -> bool:
    """Whether every caller with a proof for the model may share the answer.

    Each credential keeps its own answers to searches, to the proof itself, and to questions with a parameter
    outside ``_UNDERSTOOD``.
    """
    return (
        read.model is not None
        and read.route.path != PROOF
        and read.route.freshness is not Freshness.DISCOVERY
        and _UNDERSTOOD.issuperset(name for name, _ in read.key.asked)
    )


def is_proof(read: Read) -> bool:
    """Whether a read is the proof call: it asks for one model by name, without other parameters."""
    return read.route.path == PROOF and read.model is not None and read.key.asked == (("name", read.model),)
