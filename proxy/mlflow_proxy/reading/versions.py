"""Model versions: whether they are READY, and whether one was deleted and created again under its name.

Taken from answers that clients ask for anyway. Nothing here is ever served to a client.
"""

from dataclasses import dataclass

from cachetools import LRUCache

from mlflow_proxy.mlflow_api.answers import READY, VersionStatus
from mlflow_proxy.mlflow_api.model_names import folded

Scope = tuple[str, str]
"""API prefix and partition."""

_MOST_VERSIONS = 100_000
"""At most about 30 MB; an evicted version is learnt again."""


@dataclass(slots=True)
class _Known:
    status: str | None
    creation_timestamp: int | None
    looked_at: float


class VersionBook:
    """The status of model versions, by scope, model name and version.

    The same name may mean different models under another API prefix or in another partition, hence the scope.
    ``now`` is that of ``mlflow_proxy.clock``.
    """

    def __init__(self) -> None:
        self._known: LRUCache[tuple[Scope, str, str], _Known] = LRUCache(_MOST_VERSIONS)

    def observe(self, scope: Scope, seen: VersionStatus, now: float) -> bool:
        """Note a version that an answer describes.

        Returns True if it was deleted and created again since the last answer, which shows only in the
        creation timestamp. Fields that the answer leaves out keep their last value.
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
        """Return the last status seen, None if none was."""
        known = self._known.get((scope, model, version))
        return known.status if known is not None else None

    def worth_asking(self, scope: Scope, model: str, version: str, now: float, interval: float) -> bool:
        """Whether to spend a call on the status of a version whose files are listed.

        False the first time: a storm on one version ends before the call pays off. Then True once every
        ``interval`` seconds, until the version is known to be READY.
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
        """Drop all versions of these models, None for all models."""
        # Every name that may mean the same model, as in the store: dropping too much is safe.
        concerned = None if models is None else set(map(folded, models))
        for key in [key for key in self._known if concerned is None or folded(key[1]) in concerned]:
            del self._known[key]
