"""When the workspace last refused a credential: expired answers stored before that are not served stale.

Pure; ``now`` is that of ``clock.Clock``. Bounded: an evicted refusal counts as one of every credential.
"""

from collections import OrderedDict

from mlflow_proxy.mlflow_api.model_names import folded_or_none

_MOST_REFUSALS = 10_000
"""Notes kept, about 2 MB; 12 MB if all names are as long as those of models may be."""
_NEVER = float("-inf")


class Refusals:
    """The last refusal of each credential (``partition``), for every model or for one."""

    def __init__(self, most: int = _MOST_REFUSALS) -> None:
        self._most = most
        self._noted: OrderedDict[tuple[str, str | None], float] = OrderedDict()
        self._forgotten = _NEVER

    def note(self, partition: str, model: str | None, now: float) -> None:
        """Note that a credential was refused a model, or every model for None."""
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
