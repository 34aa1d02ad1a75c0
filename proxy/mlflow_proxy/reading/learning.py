"""What the answers that pass by say beside what they were asked for: refusals, and statuses of versions."""

from collections.abc import Callable

import structlog

from mlflow_proxy.access.sharing import Caller
from mlflow_proxy.mlflow_api import answers
from mlflow_proxy.mlflow_api.messages import StoredResponse
from mlflow_proxy.mlflow_api.reads import Read
from mlflow_proxy.mlflow_api.routes import Freshness
from mlflow_proxy.reading.generations import Moment
from mlflow_proxy.reading.memory import Memory
from mlflow_proxy.reading.proofs import REFUSED, asked_by, described, is_proof
from mlflow_proxy.reading.store import Invalidation
from mlflow_proxy.reading.versions import Scope

log = structlog.get_logger(__name__)


class Learning:
    """Notes in ``memory`` what answers say; ``outdate`` is called when a version turns out to be another."""

    def __init__(self, memory: Memory, outdate: Callable[[Invalidation], object]) -> None:
        self._memory = memory
        self._outdate = outdate

    def note(self, question: Read, response: StoredResponse, caller: Caller, asked: Moment) -> None:
        """Note the statuses of versions that an answer describes, and whether its caller was refused it."""
        if response.status in REFUSED:
            self._note_refusal(question, response.status, caller)
        if question.route.freshness is not Freshness.MUTABLE or response.status != 200:
            return
        if not self._memory.generations.files_hold(asked):
            return  # it may be about versions that are gone
        scopes = [scope(question)]
        if (
            caller.common
            and is_proof(question)
            and (created := described(response, question.model or "")) is not None
        ):
            # What proves to one caller that it may read the model describes it to all who have proven that.
            scopes.append((question.prefix, caller.common_partition(created)))
        now = self._memory.clock.now()
        versions = self._memory.versions
        for seen in answers.versions(answers.json_object(response.body) or {}):
            replaced = [versions.observe(each, seen, now) for each in scopes]
            if any(replaced):
                log.info("model version was created anew", model=seen.model, version=seen.version)
                self._outdate(Invalidation(frozenset({seen.model}), files=True))
                for each in scopes:
                    versions.observe(each, seen, now)

    def _note_refusal(self, question: Read, status: int, caller: Caller) -> None:
        now = self._memory.clock.now()
        # A 401 refuses the credential as such.
        self._memory.refusals.note(caller.partition, None if status == 401 else question.model, now)
        if status in {401, 403} and question.model is not None:
            credential = asked_by(question.owned_by(caller.partition))
            self._memory.proofs.withdraw(credential, question.model, now)


def scope(question: Read) -> Scope:
    """Return all that chooses which versions a question is about."""
    return question.prefix, question.partition
