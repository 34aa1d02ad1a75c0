"""Warning the operator of request fields whose values keep equal questions from sharing an answer."""

import structlog

from mlflow_proxy.access.sharing import Caller
from mlflow_proxy.access.splits import Splits
from mlflow_proxy.forwarding import Forwarding
from mlflow_proxy.metrics import Metrics
from mlflow_proxy.mlflow_api.reads import Read
from mlflow_proxy.party import Party
from mlflow_proxy.reading.answer import Answer, Reader

log = structlog.get_logger(__name__)


class Noticed:
    """Inspects every question that no stored answer or flight answers, and passes it to ``below``."""

    def __init__(self, below: Reader, forwarding: Forwarding, metrics: Metrics) -> None:
        self._below = below
        self._forwarding = forwarding
        self._metrics = metrics
        self._splits = Splits()

    async def read(self, question: Read, caller: Caller, party: Party) -> Answer:
        """See Reader.read."""
        self._note(question, caller)
        return await self._below.read(question, caller, party)

    def _note(self, question: Read, caller: Caller) -> None:
        identity = caller.identity
        by = "" if question.common else hash(identity.credential)
        # ``appends``: the operator cannot change which fields this proxy itself adds.
        asked = (self._forwarding.appends, by, *question.key[1:])
        for split in self._splits.note(asked, identity.counted if question.common else identity.fields):
            name, first = self._splits.named(split)
            self._metrics.splits.labels(name, split.setting).inc()
            if first:
                log.warning(
                    "equal questions are asked apart because of a request field",
                    field=name,
                    remedy=split.remedy,
                )
