"""Facts that answers carry beside what was asked: refusals of a credential, and statuses of versions."""

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
    """Notes these facts in ``memory``; calls ``outdate`` when a version was deleted and created again."""

    def __init__(self, memory: Memory, outdate: Callable[[Invalidation], object]) -> None:
        self._memory = memory
        self._outdate = outdate

    def note(self, question: Read, response: StoredResponse, caller: Caller, asked: Moment) -> None:
        """Note the statuses of the versions in an answer, or that the workspace refused its caller."""
        if response.status in REFUSED:
            self._note_refusal(question, response.status, caller)
        if question.route.freshness is not Freshness.MUTABLE or response.status != 200:
            return
        if not self._memory.generations.files_hold(asked):
            return  # the answer may describe versions that were deleted meanwhile
        scopes = [scope(question)]
        if (
            caller.common
            and is_proof(question)
            and (created := described(response, question.model or "")) is not None
        ):
            # A proof describes the model, so its versions' statuses hold for every caller with such a proof.
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
        # A 401 refuses the credential for every model.
        self._memory.refusals.note(caller.partition, None if status == 401 else question.model, now)
        if status in {401, 403} and question.model is not None:
            credential = asked_by(question.owned_by(caller.partition))
            self._memory.proofs.withdraw(credential, question.model, now)


def scope(question: Read) -> Scope:
    """Return the API prefix and partition within which a question names versions."""
    return question.prefix, question.partition
