"""Asking the workspace, and computing the freshness lifetime of its answer."""

import aiohttp
import structlog

from mlflow_proxy.access.sharing import Access, Caller
from mlflow_proxy.errors import AnswerableError, BadGatewayError, NotShareableError, TruncatedError
from mlflow_proxy.mlflow_api import answers
from mlflow_proxy.mlflow_api.descriptions import is_of
from mlflow_proxy.mlflow_api.headers import NOT_STORED, age, of_decoded, unix_time, vary, without
from mlflow_proxy.mlflow_api.messages import StoredResponse
from mlflow_proxy.mlflow_api.reads import Read, question_about
from mlflow_proxy.mlflow_api.routes import Freshness
from mlflow_proxy.mlflow_api.signed_urls import expires_at
from mlflow_proxy.outcome import Outcome
from mlflow_proxy.party import Party
from mlflow_proxy.reading.answer import Answer, Ask
from mlflow_proxy.reading.freshness import NOT_AT_ALL, Lifetimes, lifetime, survives_metadata_writes
from mlflow_proxy.reading.learning import Learning, scope
from mlflow_proxy.reading.memory import Memory
from mlflow_proxy.reading.personal import shared_form, why_personal
from mlflow_proxy.reading.store import Entry
from mlflow_proxy.upstream.client import fields, read_whole
from mlflow_proxy.upstream.decoding import applied_codings, decoded
from mlflow_proxy.upstream.malformed import reason_phrase
from mlflow_proxy.workspace import Call, Workspace

log = structlog.get_logger(__name__)


class Fetched:
    """Answers of the workspace, each asked for with its caller's credential.

    ``largest`` is the most bytes that an answer may have; ``ask`` is the top of the stack.
    """

    def __init__(
        self,
        workspace: Workspace,
        ask: Ask,
        memory: Memory,
        learning: Learning,
        access: Access,
        lifetimes: Lifetimes,
        largest: int,
    ) -> None:
        self._workspace = workspace
        self._ask = ask
        self._memory = memory
        self._learning = learning
        self._access = access
        self._lifetimes = lifetimes
        self._largest = largest

    async def read(self, question: Read, caller: Caller, party: Party) -> Answer:
        """See Reader.read. The entry of an answer that must not be stored has already expired."""
        clock = self._memory.clock
        began, leapt, asked = clock.now(), clock.leapt(), self._memory.generations.moment
        if question.route.freshness is Freshness.LISTING:
            await self._look_up_status(question, caller, party)
        # Built from the key alone: no other field of the first caller can influence a shared answer.
        request = question.request(caller.identity.fields, caller.client, fresh=caller.fresh)
        call = Call(
            question.route.group,
            request,
            party.until,
            shared=True,
            party=party,
            endpoint=question.route.endpoint,
            common=question.common,
        )
        async with self._workspace.call(call) as got:
            response, seconds_old = await self._whole(got), age(got.headers.get("Age"))
        personal = why_personal(question, response) if question.common else None
        if caller.many or (question.common and personal is None):
            response = shared_form(response)
        owned = question if personal is None else question.owned_by(caller.partition)
        self._learning.note(owned, response, caller, asked)
        # The answer may have arrived before this machine slept and been processed only afterwards.
        entry = self._entry(question, response, seconds_old + clock.leapt() - leapt)
        return Answer(question.key, entry, Outcome.MISS, min(began, entry.stored_at), personal=personal)

    async def _whole(self, got: aiohttp.ClientResponse) -> StoredResponse:
        try:
            body = await read_whole(got, self._largest)
        except TruncatedError as error:
            raise BadGatewayError("The workspace broke off in the middle of its answer.") from error
        codings = got.headers.getall("Content-Encoding", ())
        body = decoded(body, codings, self._largest)
        kept = without(self._access.returned(fields(got)), NOT_STORED)
        if applied_codings(codings):
            kept = of_decoded(kept)
        return StoredResponse(got.status, reason_phrase(got.reason), tuple(kept), body)

    async def _look_up_status(self, question: Read, caller: Caller, party: Party) -> None:
        """Ask whether a version is READY, if worth a call: the files of READY versions never change."""
        model, version = question.model, question.version
        if model is None or version is None:
            return
        now, versions = self._memory.clock.now(), self._memory.versions
        if not versions.worth_asking(scope(question), model, version, now, self._lifetimes.unverified):
            return
        try:
            # Under the same API prefix: another one may accept other credentials.
            about = {"name": model, "version": version}
            status = question_about(question.prefix, "model-versions/get", about, caller.partition)
            await self._ask(status, caller, party)
        except (AnswerableError, NotShareableError) as error:
            # The listing is served all the same; it only stays fresh for a shorter time.
            log.info("status of model version unknown", model=model, version=version, reason=str(error))

    def _entry(self, question: Read, response: StoredResponse, seconds_old: float) -> Entry:
        """Return the response as an entry with its expiry; it was ``seconds_old`` when it arrived."""
        now, latest = self._memory.clock.now(), self._memory.clock.latest_unix()
        status = None
        if question.model is not None and question.version is not None:
            status = self._memory.versions.status(scope(question), question.model, question.version)
        seconds = lifetime(
            question.route.freshness,
            response.status,
            self._lifetimes,
            version_status=status,
            url_expires_in=_url_expires_in(question, response, latest - seconds_old),
        )
        if "*" in vary(response.headers) or (response.status == 200 and not is_of(question.route, response)):
            seconds = NOT_AT_ALL
        survives = survives_metadata_writes(question.route.freshness, response.status, status)
        made = now - seconds_old
        return Entry(response, question.model, question.version, survives, made, made + seconds)


def _url_expires_in(question: Read, response: StoredResponse, latest: float) -> float | None:
    """Return the seconds from the answer's creation until its signed URL expires, None if unknown.

    ``latest`` is the latest time at which the answer can have been made, in Unix time.
    """
    if question.route.freshness is not Freshness.SIGNED_URL or response.status != 200:
        return None
    signed = answers.signed_url(answers.json_object(response.body) or {})
    expiry = expires_at(signed.url, signed.headers) if signed is not None else None
    if expiry is None:
        return None
    # By the workspace's clock, which set the expiry: this machine's may be minutes off.
    made = unix_time(response.header("date") or "")
    return expiry - (latest if made is None else made)
