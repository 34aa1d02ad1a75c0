"""A write outdates every answer to an earlier question that it concerns. Pure.

One number counts the writes. A reader notes it before it asks, and may store or share the answer only if no
write since then concerns it.
"""

from cachetools import LRUCache

from mlflow_proxy.mlflow_api.model_names import folded
from mlflow_proxy.reading.store import Invalidation

Moment = int
"""The number of writes so far."""

_MOST_MODELS = 10_000
"""Models whose last write is remembered, about 3 MB. An evicted one counts as a write of all models."""


class Generations:
    """The last write of each model, of all models, and of files or permissions of any model."""

    def __init__(self, most_models: int = _MOST_MODELS) -> None:
        self._moment = 0
        self._of_all = 0
        self._of_files = 0
        self._of_model: LRUCache[str, Moment] = LRUCache(most_models)

    @property
    def moment(self) -> Moment:
        """The number of writes so far, to be noted with a question."""
        return self._moment

    def note(self, what: Invalidation) -> None:
        """Count a write."""
        self._moment += 1
        if what.files:
            self._of_files = self._moment
        if what.models is None:
            self._of_all = self._moment
            return
        for model in map(folded, what.models):
            if model not in self._of_model and len(self._of_model) >= self._of_model.maxsize:
                _, forgotten = self._of_model.popitem()
                self._of_all = max(self._of_all, forgotten)
            self._of_model[model] = self._moment

    def holds(self, since: Moment, model: str | None) -> bool:
        """Whether no write since that moment concerns this model (None: any model)."""
        if model is None:
            return since >= self._moment
        return since >= max(self._of_all, self._of_model.get(folded(model), 0))

    def files_hold(self, since: Moment) -> bool:
        """Whether no write since that moment may have changed files or permissions of any model."""
        return since >= self._of_files
