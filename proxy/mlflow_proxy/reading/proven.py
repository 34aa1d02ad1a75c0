"""Answers shared by all callers with a proof that they may read the model (``access.sharing = "proven"``)."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import structlog

from mlflow_proxy.access.sharing import Caller
from mlflow_proxy.errors import RefusedAloneError
from mlflow_proxy.metrics import Metrics
from mlflow_proxy.mlflow_api.reads import Read, question_about
from mlflow_proxy.outcome import Outcome
from mlflow_proxy.party import Party
from mlflow_proxy.reading.answer import Answer, Ask, Reader, from_store
from mlflow_proxy.reading.memory import Memory
from mlflow_proxy.reading.personal import Personal, PersonalRoutes, RouteKey
from mlflow_proxy.reading.proofs import PROOF, asked_by, described, is_proof, needs_proof
from mlflow_proxy.reading.store import Entry
from mlflow_proxy.term import Terms, together

log = structlog.get_logger(__name__)

_ASKED = frozenset({Outcome.STORED, Outcome.MISS, Outcome.REQUEST})
"""The workspace was asked with the caller's own credential."""


class _Verdict(NamedTuple):
    """The workspace's decision on a caller and a model.

    ``refusal`` is its answer to a caller that may not read the model; ``created`` is the model's creation
    timestamp for one that may, None if the workspace did not state it, so that nothing can be shared.
    ``terms`` is until when the decision holds, None for one that was asked for.
    """

    refusal: Answer | None = None
    created: int | None = None
    terms: Terms | None = None


class Proven:
    """Asks ``below`` in the common partition of callers with a proof, else in the caller's own partition.

    ``ask`` is the top of the stack; ``disown`` drops a stored answer that proved wrong.
    """

    def __init__(
        self,
        below: Reader,
        ask: Ask,
        disown: Callable[[Answer], Awaitable[None]],
        memory: Memory,
        metrics: Metrics,
    ) -> None:
        self._below = below
        self._ask = ask
        self._disown = disown
        self._memory = memory
        self._metrics = metrics
        self._personal_routes = PersonalRoutes()

    async def read(self, question: Read, caller: Caller, party: Party) -> Answer:
        """See Reader.read. Without common answers, every credential has its own."""
        model = question.model
        if not caller.common or model is None:
            return await self._below.read(question, caller, party)
        asked, leapt = self._memory.generations.moment, self._memory.clock.leapt()
        if not needs_proof(question):
            answer = await self._below.read(question, caller, party)
            if is_proof(question) and answer.terms is None:
                # Not what this process has stored: it was noted when it came, and says nothing newer.
                self._memory.proofs.note(asked_by(question), model, answer.response, answer.as_of, asked)
            return answer
        verdict = await self._verdict(question, model, caller, party)
        if verdict.refusal is not None:
            return verdict.refusal
        if verdict.created is None:
            return (await self._below.read(question, caller, party))._replace(terms=None)
        answer = await self._read_shared(question, caller, verdict.created, party)
        lasted = self._memory.generations.files_hold(asked) and self._memory.clock.leapt() == leapt
        if answer.outcome not in _ASKED and not lasted:
            # The caller's permission may have been withdrawn while it waited for another caller's answer.
            known = self._memory.proofs.get(asked_by(question), model, self._memory.clock.now())
            if known is None or known.refusal is not None:
                return await self.read(question, caller, party)
        if answer.terms is None:
            return answer
        proof = together(verdict.terms, (self._personal_routes.term,))
        return answer._replace(terms=together(answer.terms, proof))

    async def _verdict(self, question: Read, model: str, caller: Caller, party: Party) -> _Verdict:
        now, proofs, credential = self._memory.clock.now(), self._memory.proofs, asked_by(question)
        known = proofs.get(credential, model, now)
        if known is not None and known.refusal is None:
            return _Verdict(created=known.created, terms=(proofs.term(credential, model),))
        if known is not None and known.refusal is not None and not caller.fresh:
            entry = Entry(known.refusal, model, None, False, known.as_of, known.until)
            terms = (proofs.term(credential, model),)
            return _Verdict(from_store(question.key, entry, Outcome.HIT, known.as_of, now, terms))
        # Under the same API prefix: another one may accept other credentials.
        proof = question_about(question.prefix, PROOF, {"name": model}, question.partition)
        self._metrics.proofs.inc()
        answer = await self._ask(proof, caller, party)
        if answer.response.status == 200 and proofs.get(credential, model, now) is None:
            # A stored answer was too old to be a proof, or permissions were written since its question.
            await self._disown(answer)
            answer = await self._ask(proof, caller, party)
        if answer.response.status != 200:
            # Asked for each time, and counted: not what the memo may repeat.
            return _Verdict(answer._replace(terms=None))
        return _Verdict(created=described(answer.response, model))

    async def _read_shared(self, question: Read, caller: Caller, created: int, party: Party) -> Answer:
        """Return the common answer for callers that may read the model, or the caller's own."""
        now = self._memory.clock.now()
        if self._memory.store.get(question.key, now) is not None:
            return await self._below.read(question, caller, party)
        common = question.within(caller.common_partition(created))
        if (personal := self._personal_routes.known(_key(common), now)) is not None:
            self._metrics.personal_answers.labels(question.route.name, personal).inc()
            return await self._below.read(question, caller, party)
        answer = await self._read_common(common, caller, party)
        if answer is None or (answer.personal is not None and answer.outcome is Outcome.COLLAPSED):
            # This caller was refused, or the answer belongs to another caller: ask with its own credential.
            return await self._below.read(question, caller, party)
        if answer.outcome in _ASKED and answer.response.status == 200:
            self._note_personal(common, answer.personal)
        return answer

    async def _read_common(self, common: Read, caller: Caller, party: Party) -> Answer | None:
        """Return the answer in the common partition; None if the workspace refuses this caller alone (429).

        A caller that waited for the call of a refused caller asks again, with its own credential or that of
        the next flight's first caller.
        """
        while True:
            try:
                return await self._below.read(common, caller, party)
            except RefusedAloneError as error:
                if error.client == caller.client:
                    return None

    def _note_personal(self, common: Read, personal: Personal | None) -> None:
        """Note whether answers of this route can be shared; warn the operator once if they cannot."""
        if personal is not None:
            self._metrics.personal_answers.labels(common.route.name, personal).inc()
            log.debug("answer is its caller's own", route=common.route.name, reason=personal)
        if self._personal_routes.note(_key(common), personal, self._memory.clock.now()):
            log.warning(
                "answers of the workspace cannot be shared",
                route=common.route.name,
                reason=personal,
                remedy="if a gateway adds Vary or Cache-Control: private without need, stop it there",
            )


def _key(common: Read) -> RouteKey:
    return common.partition, common.route.name
