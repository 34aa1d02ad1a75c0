"""What is known of model versions: whether they are READY, and whether they are still the same ones.

Learned from answers that pass by anyway. Nothing here is ever served to a client.
"""

from dataclasses import dataclass

from cachetools import LRUCache

from mlflow_proxy.mlflow_api.answers import READY, VersionStatus
from mlflow_proxy.mlflow_api.model_names import folded

Scope = tuple[str, str]
"""API prefix and partition."""

_MOST_VERSIONS = 100_000
"""About 30 MB at the very most; a version forgotten is one learned again."""


@dataclass(slots=True)
class _Known:
    status: str | None
    creation_timestamp: int | None
    looked_at: float


class VersionBook:
    """Status of model versions by name and version, within a ``scope``.

    A scope is all that chooses which models a name means: the API prefix, and the partition of the answers
    that say so. ``now`` is that of ``mlflow_proxy.clock``.
    """

    def __init__(self) -> None:
        self._known: LRUCache[tuple[Scope, str, str], _Known] = LRUCache(_MOST_VERSIONS)

    def observe(self, scope: Scope, seen: VersionStatus, now: float) -> bool:
        """Take note of a version in an answer.

        Returns True if it is another one than before under the same name: it was deleted and created
        again since, which shows only in the creation timestamp. What an answer leaves out stays as known.
        """
        key = (scope, seen.model, seen.version)
        known = self._known.get(key)
        replaced = (
            known is not None
            and known.creation_timestamp is not None
            and seen.creation_timestamp is not None
            and known.creation_timestamp != seen.creation_timestamp
        )
        status, created = seen.status, seen.creation_timestamp
        if known is not None and not replaced:
            status = known.status if status is None else status
            created = known.creation_timestamp if created is None else created
        self._known[key] = _Known(status, created, now)
        return replaced

    def status(self, scope: Scope, model: str, version: str) -> str | None:
        """Return the last status seen, None for never."""
        known = self._known.get((scope, model, version))
        return known.status if known is not None else None

    def worth_asking(self, scope: Scope, model: str, version: str, now: float, interval: float) -> bool:
        """Whether to spend a call on the status of a version whose files are being listed.

        Not at first: a storm on one version ends sooner than asking pays off. From ``interval`` seconds
        later on yes, until it is known to be READY, once an interval.
        """
        known = self._known.get((scope, model, version))
        if known is None:
            self._known[scope, model, version] = _Known(None, None, now)
            return False
        if known.status == READY or now - known.looked_at < interval:
            return False
        known.looked_at = now
        return True

    def forget(self, models: frozenset[str] | None) -> None:
        """Forget all versions of these models, None for all."""
        # By all that may be the same name, as the store does: forgetting too much is safe.
        concerned = None if models is None else set(map(folded, models))
        for key in [key for key in self._known if concerned is None or folded(key[1]) in concerned]:
            del self._known[key]
