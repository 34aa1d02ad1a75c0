"""Whom the workspace turned away, and when: what was stored before that is not given out once it has expired.

Pure; ``now`` is of ``clock.Clock``. Bounded: what has to be forgotten counts as a refusal of everybody.
"""

from collections import OrderedDict

from mlflow_proxy.mlflow_api.model_names import folded_or_none

_MOST_REFUSALS = 10_000
"""Notes kept, about 2 MB; 12 MB if all names are as long as those of models may be."""
_NEVER = float("-inf")


class Refusals:
    """The last refusal of each credential (``partition``), of everything or about one model."""

    def __init__(self, most: int = _MOST_REFUSALS) -> None:
        self._most = most
        self._noted: OrderedDict[tuple[str, str | None], float] = OrderedDict()
        self._forgotten = _NEVER

    def note(self, partition: str, model: str | None, now: float) -> None:
        """Note a refusal of everything about a model, None for whatever the credential may ask."""
        key = partition, folded_or_none(model)
        self._noted[key] = now
        self._noted.move_to_end(key)
        if len(self._noted) > self._most:
            _, self._forgotten = self._noted.popitem(last=False)

    def last(self, partition: str, model: str | None) -> float:
        """Return when this credential was last refused anything that concerns a model, -inf for never."""
        return max(
            self._forgotten,
            self._noted.get((partition, None), _NEVER),
            self._noted.get((partition, folded_or_none(model)), _NEVER),
        )
