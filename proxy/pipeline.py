"""The line that every request walks once, from left to right.

    request -> route -> access -> cache lookup -> coalesce -> budget -> upstream (retry) -> cache store
            -> respond

``handle`` is the line for a client's request, ``ask`` for a question that the proxy has to put to the
registry itself. Requests whose answers may be shared take ``_admitted``, which decides by whom (the caller
alone, or all who have proven that they may read the model), and then ``_read``; all others take ``_forward``.
Both end in ``Workspace.call``, which is the part from budget to upstream.
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from urllib.parse import quote, urlencode

import structlog
from aiohttp import web

from proxy.access.common import Personal, PersonalPlaces, Place, shared_form, why_personal
from proxy.access.proofs import PROOF, REFUSED, Proofs, asked_by, described, is_proof, needs_proof
from proxy.access.sharing import Access, Asker
from proxy.access.splits import Splits
from proxy.cache.freshness import NOT_AT_ALL, Lifetimes, lifetime, may_be_stale, survives_metadata_writes
from proxy.cache.refusals import Refusals
from proxy.cache.single_flight import Flight, SingleFlight
from proxy.cache.store import Entry, Invalidation, MemoryStore
from proxy.cache.versions import Scope, VersionBook
from proxy.clock import Clock
from proxy.errors import (
    AnswerableError,
    BadRequestError,
    NotShareableError,
    RefusedAloneError,
    TruncatedError,
    UnreachableError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
)
from proxy.fleet.shared_cache import SharedCache
from proxy.forwarding import Forwarding
from proxy.metrics import Metrics
from proxy.mlflow_api import answers
from proxy.mlflow_api.api_prefixes import API_PREFIXES
from proxy.mlflow_api.artifact_paths import rewrite_download_uri
from proxy.mlflow_api.descriptions import is_of
from proxy.mlflow_api.headers import (
    CLIENT,
    NOT_STORED,
    Fields,
    age,
    of_decoded,
    unix_time,
    vary,
    without,
)
from proxy.mlflow_api.messages import StoredResponse, UpstreamRequest
from proxy.mlflow_api.reads import Key, Read, shareable, written_models
from proxy.mlflow_api.routes import Freshness, Group, Invalidates, Route, match
from proxy.mlflow_api.signed_urls import expires_at
from proxy.responses import Outcome, Reply, cache_status, relay, send_stored
from proxy.upstream.client import chunks, fields, read_whole
from proxy.upstream.decoding import applied_codings, decoded
from proxy.upstream.malformed import reason_phrase
from proxy.upstream.retry import UNAVAILABLE
from proxy.workspace import Attempts, Call, Workspace

log = structlog.get_logger(__name__)

LARGEST_HELD_BODY = 2**20
"""Bytes. Request bodies up to this are held, to be understood and sent again after a 429; larger ones
stream through and get one attempt."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete response and how it came about.

    ``as_of`` is a moment (the clock's ``now``) that is not after the workspace's decision. ``age`` in seconds
    and ``ttl`` in seconds if it was stored, ``ttl`` below 0 if it has expired. ``personal`` is why it is the
    caller's own although it was asked for in a common name; None if others may have it.
    """

    key: Key
    response: StoredResponse
    outcome: Outcome
    as_of: float
    age: float | None = None
    ttl: float | None = None
    personal: Personal | None = None


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge did: answers dropped here, and whether the fleet knows; None if there is none."""

    dropped: int
    told: bool | None


class Pipeline:
    """One workspace, one budget, one cache."""

    def __init__(
        self,
        *,
        workspace: Workspace,
        store: MemoryStore,
        lifetimes: Lifetimes,
        stale_if_error: float,
        patience: float,
        largest_entry: int,
        rewrite_dbfs: bool,
        access: Access,
        proofs: Proofs,
        metrics: Metrics,
        forwarding: Forwarding,
        clock: Clock,
    ) -> None:
        self._workspace = workspace
        self._store = store
        self._lifetimes = lifetimes
        self._stale_if_error = stale_if_error
        self._refusals = Refusals()
        self._patience = patience
        self._largest_entry = largest_entry
        self._rewrite_dbfs = rewrite_dbfs
        self._access = access
        self._forwarding = forwarding
        self._proofs = proofs
        self._places = PersonalPlaces()
        self._splits = Splits()
        self._metrics = metrics
        self._versions = VersionBook()
        self._clock = clock
        self._leapt = clock.leapt()
        self._fleet: SharedCache | None = None
        self.flights: SingleFlight[Answer] = SingleFlight()

    def deadline(self) -> float:
        """Return the event loop's time at which a request that arrives now loses patience."""
        return asyncio.get_running_loop().time() + self._patience

    def fields(self, request: web.Request) -> list[tuple[str, str]]:
        """Return what counts of a client's fields: who asks is made of them, and they go out."""
        return self._forwarding.fields(request)

    async def handle(self, request: web.Request, route: Route) -> Reply:
        """Answer a client's request, whatever it is. Raises AnswerableError."""
        headers = self.fields(request)
        body = await self._held_body(request, route)
        asker = self._access.asker(route, headers)
        read = None
        if body is not None:
            read = shareable(route, request.method, request.raw_path, headers, body, asker.partition)
        if read is not None:
            try:
                answer = await self._admitted(read, asker, self.deadline())
            except NotShareableError as error:
                log.info("answer cannot be shared", route=route.name, reason=str(error))
            else:
                return await self._respond(request, read, answer)
        return await self._forward(request, route, headers, body, asker)

    async def ask(
        self, headers: Fields, endpoint: str, parameters: Mapping[str, str], deadline: float
    ) -> Answer:
        """Put a question to the registry on behalf of a client, who may refuse stored answers.

        ``headers`` are that client's ``fields``, ``endpoint`` a shareable GET of the route table,
        such as ``model-versions/get``; ``deadline`` is in the event loop's time. Errors of the workspace
        are answers; raises AnswerableError when there is none, NotShareableError.
        """
        prefix = API_PREFIXES[0]
        route = match("GET", prefix + endpoint)
        return await self._ask(self._access.asker(route, headers), route, prefix, parameters, deadline)

    async def _ask(
        self, asker: Asker, route: Route, prefix: str, parameters: Mapping[str, str], deadline: float
    ) -> Answer:
        target = f"{prefix}{route.path}?{urlencode(parameters, quote_via=quote)}"
        read = shareable(route, "GET", target, (), b"", asker.partition)
        if read is None:
            raise BadRequestError(f"{route.path} cannot be asked with these parameters.")
        return await self._admitted(read, asker, deadline)

    async def _ask_beside(
        self, read: Read, asker: Asker, endpoint: str, parameters: Mapping[str, str], deadline: float
    ) -> Answer:
        """Ask what has to be known for a read, under its own API prefix: another knows other credentials."""
        route = match("GET", read.prefix + endpoint)
        return await self._ask(asker, route, read.prefix, parameters, deadline)

    async def disown(self, answer: Answer) -> None:
        """Forget an answer that proved wrong, so that it is asked for anew."""
        self._store.discard(answer.key, answer.response)
        if self._fleet is not None:
            await self._fleet.discard(answer.key)

    def join(self, fleet: SharedCache | None) -> None:
        """Share answers with other proxies from now on, None for not."""
        self._fleet = fleet

    def invalidate(self, what: Invalidation) -> int:
        """Let no read that begins now see what was true before, here or at another proxy of the fleet.

        Returns how many answers were dropped here.
        """
        dropped = self.forget(what)
        if self._fleet is not None:
            self._fleet.tell(what)
        return dropped

    def forget(self, what: Invalidation) -> int:
        """Let no read that begins here now see what was true before: stored answers go, flights are shut.

        Returns how many answers were dropped.
        """
        dropped = self._store.invalidate(what)
        self.flights.invalidate(what.concerns)
        self._proofs.forget(what.models, granted=what.files)
        if what.files:
            self._versions.forget(what.models)
        return dropped

    async def purge(self, what: Invalidation) -> Purged:
        """Do what a write would, without one; returns once the fleet can know of it."""
        dropped = self.invalidate(what)
        if self._fleet is None:
            return Purged(dropped, told=None)
        await self._fleet.told()
        return Purged(dropped, told=self._fleet.connected)

    # -- route and access --------------------------------------------------------------------------

    async def _held_body(self, request: web.Request, route: Route) -> bytes | None:
        """Return the request's body, or None if it is to be streamed."""
        if not request.can_read_body:
            return b""
        # A write of unknown reach drops everything, whatever its body says.
        named = route.invalidates not in {Invalidates.NOTHING, Invalidates.REGISTRY}
        matters = named or route.group is not Group.NONE
        size = request.content_length
        if matters and size is not None and size <= LARGEST_HELD_BODY:
            return await request.read()
        return None

    async def _admitted(self, read: Read, asker: Asker, deadline: float) -> Answer:
        """Answer a read from what those share who may read the model, once this credential has proven so.

        Where nothing is shared so, every credential has its own.
        """
        model = read.model
        if not asker.common or model is None:
            return await self._read(read, asker, deadline)
        if not needs_proof(read):
            epoch = self._proofs.epoch
            answer = await self._read(read, asker, deadline)
            if is_proof(read):
                self._proofs.note(asked_by(read), model, answer.response, answer.as_of, epoch)
            return answer
        (_, withdrawn), leapt = self._proofs.epoch, self._clock.leapt()
        proof = await self._proof(read, model, asker, deadline)
        if isinstance(proof, Answer):
            return proof
        if proof is None:
            return await self._read(read, asker, deadline)
        answer = await self._read_proven(read, asker, proof, deadline)
        lasted = self._proofs.epoch[1] == withdrawn and self._clock.leapt() == leapt
        if answer.outcome not in _ASKED and not lasted:
            # What others were told may have been written after this caller's access ended.
            known = self._proofs.get(asked_by(read), model, self._clock.now())
            if known is None or known.refusal is not None:
                return await self._admitted(read, asker, deadline)
        return answer

    async def _read_proven(self, read: Read, asker: Asker, created: int, deadline: float) -> Answer:
        """Answer a read from what those share who may read its model, or alone.

        ``created`` is when the model was.
        """
        now = self._clock.now()
        if self._store.get(read.key, now) is not None:
            return await self._read(read, asker, deadline)
        common = read.within(asker.common_partition(created))
        if (personal := self._places.known(_place(common), now)) is not None:
            self._metrics.personal_answers.labels(read.route.name, personal).inc()
            return await self._read(read, asker, deadline)
        shared = await self._read_common(common, asker, deadline)
        if shared is None or (shared.personal is not None and shared.outcome is Outcome.COLLAPSED):
            # Said to another caller, which may have lost what this one has; or what each has of its own.
            return await self._read(read, asker, deadline)
        return shared

    async def _read_common(self, common: Read, asker: Asker, deadline: float) -> Answer | None:
        """Answer a read that others share; None if the workspace refuses this caller while it answers them.

        Who waited for such a caller's call asks anew, with its own credential or the next one's.
        """
        while True:
            try:
                return await self._read(common, asker, deadline)
            except RefusedAloneError as error:
                if error.client == asker.client:
                    return None

    async def _proof(self, read: Read, model: str, asker: Asker, deadline: float) -> Answer | int | None:
        """Return what the workspace says to who may not read the model; to who may, when that was created.

        None if it does not say, so that nothing can be shared.
        """
        now = self._clock.now()
        known = self._proofs.get(asked_by(read), model, now)
        if known is not None and known.refusal is None:
            return known.created
        if known is not None and known.refusal is not None and not asker.fresh:
            return Answer(read.key, known.refusal, Outcome.HIT, now, age=0, ttl=known.until - now)
        asked = {"name": model}
        self._metrics.proofs.inc()
        answer = await self._ask_beside(read, asker, PROOF, asked, deadline)
        if answer.response.status == 200 and self._proofs.get(asked_by(read), model, now) is None:
            # It was stored too long ago, or asked before permissions were written, to prove anything.
            await self.disown(answer)
            answer = await self._ask_beside(read, asker, PROOF, asked, deadline)
        return described(answer.response, model) if answer.response.status == 200 else answer

    # -- cache lookup and coalescing ---------------------------------------------------------------

    async def _read(self, read: Read, asker: Asker, deadline: float) -> Answer:
        if asker.fresh:
            alone = Flight(read, deadline, storable=False)
            now = self._clock.now()
            with self._coming_back():
                fetched, personal = await self._fetch(alone, asker)
            return Answer(read.key, fetched.response, Outcome.REQUEST, now, personal=personal)
        now = self._clock.now()
        entry = self._store.get(read.key, now)
        if entry is not None:
            return self._stored(read.key, entry, Outcome.HIT, now)
        self._part_from_before_a_leap()
        try:
            with self._coming_back():
                answer, _, joined = await self.flights.fetch(
                    read, deadline, asker.client, lambda flight: self._fly(flight, asker)
                )
        except (UnreachableError, UpstreamTimeoutError):
            stale = self._stale(read, asker)
            if stale is None:
                raise
            return stale
        if answer.response.status in UNAVAILABLE and (stale := self._stale(read, asker)) is not None:
            return stale
        return replace(answer, outcome=Outcome.COLLAPSED, age=None, ttl=None) if joined else answer

    def _part_from_before_a_leap(self) -> None:
        """Let nobody join what was asked before this machine slept: its answer may be from then, too."""
        leapt = self._clock.leapt()
        if leapt != self._leapt:
            self._leapt = leapt
            self.flights.invalidate(lambda model: True)

    @contextmanager
    def _coming_back(self) -> Iterator[None]:
        """Let the clients of a read come back: the Databricks SDK repeats what got a 503, but not a 502.

        Each is told another time. The fleet hears of the failure itself, so that its members share that too.
        """
        try:
            yield
        except UpstreamUnavailableError as error:
            raise self._workspace.circuit.unreachable(str(error)) from error

    def _stale(self, read: Read, asker: Asker) -> Answer | None:
        """Return an answer that has expired and that nobody can renew now, if it may be used (RFC 5861)."""
        now = self._clock.now()
        entry = self._store.get_stale(read.key, now, self._stale_if_error)
        if entry is None or not may_be_stale(read.route.freshness, survives=entry.survives_metadata_writes):
            return None
        if entry.stored_at <= self._refusals.last(asker.partition, read.model):
            return None
        return self._stored(read.key, entry, Outcome.STALE, now)

    def _stored(self, key: Key, entry: Entry, outcome: Outcome, now: float) -> Answer:
        age, ttl = now - entry.stored_at, entry.expires_at - now
        return Answer(key, entry.response, outcome, self._decided(entry), age, ttl)

    def _decided(self, entry: Entry) -> float:
        """Return a moment that is not after the workspace's decision: the answer took time to arrive."""
        return entry.stored_at - self._patience

    async def _fly(self, flight: Flight, asker: Asker) -> Answer:
        """Bring an answer: from the fleet if it has it or is fetching it, else from the workspace."""
        key, began, epoch = flight.read.key, self._clock.now(), self._versions.epoch
        self._note_split(flight.read, asker)
        if self._fleet is None:
            return self._fetched(flight, asker, *await self._fetch(flight, asker), began)
        async with self._fleet.turn(flight.read, lambda: flight.deadline) as turn:
            if turn.found is None:
                brought, personal = await self._fetch(flight, asker)
                if self._access.owns(flight.read.partition):
                    turn.brought = brought if personal is None else _of_no_use_to_others(brought)
                return self._fetched(flight, asker, brought, personal, began)
            entry = turn.found
        personal = why_personal(flight.read, entry.response) if flight.read.common else None
        if personal is not None:
            return Answer(key, entry.response, Outcome.COLLAPSED, self._decided(entry), personal=personal)
        self._learn(flight.read, entry.response, asker, epoch)
        self._keep(flight, flight.read, entry)
        if turn.joined:
            return Answer(key, entry.response, Outcome.COLLAPSED, self._decided(entry))
        return self._stored(key, entry, Outcome.HIT, self._clock.now())

    def _fetched(
        self, flight: Flight, asker: Asker, entry: Entry, personal: Personal | None, began: float
    ) -> Answer:
        """Keep an answer of the workspace, for all who may read the model or for its caller alone."""
        read = flight.read
        owned = read if personal is None else read.owned_by(asker.partition)
        outcome = Outcome.STORED if self._keep(flight, owned, entry) else Outcome.MISS
        return Answer(owned.key, entry.response, outcome, min(began, entry.stored_at), personal=personal)

    async def _fetch(self, flight: Flight, asker: Asker) -> tuple[Entry, Personal | None]:
        """Ask the workspace; the entry has expired already if its answer may not be kept.

        Returns also why the answer is this caller's own, if it was asked for in a common name.
        """
        read, epoch, leapt = flight.read, self._versions.epoch, self._clock.leapt()
        if read.route.freshness is Freshness.LISTING:
            await self._look_up_status(flight, asker)
        # Made of the key here and nowhere else: what else its first client said cannot reach those who share.
        request = read.request(asker.told.fields, asker.client, fresh=asker.fresh)
        call = Call(
            read.route.group,
            request,
            lambda: flight.deadline,
            shared=True,
            party=flight.party,
            endpoint=read.route.endpoint,
            common=read.common,
        )
        async with self._workspace.call(call) as got:
            try:
                body = await read_whole(got, self._largest_entry)
            except TruncatedError as error:
                raise UpstreamUnavailableError(
                    "The workspace broke off in the middle of its answer."
                ) from error
            codings = got.headers.getall("Content-Encoding", ())
            body = decoded(body, codings, self._largest_entry)
            kept = without(self._access.returned(fields(got)), NOT_STORED)
            if applied_codings(codings):
                kept = of_decoded(kept)
            response = StoredResponse(got.status, reason_phrase(got.reason), tuple(kept), body)
        personal = why_personal(read, response) if read.common else None
        if read.common:
            self._note_place(read, response, personal)
        if asker.many or (read.common and personal is None):
            response = shared_form(response)
        self._learn(read if personal is None else read.owned_by(asker.partition), response, asker, epoch)
        # It may have come before this machine slept, and was seen afterwards only.
        slept = self._clock.leapt() - leapt
        return self._entry(read, response, age(got.headers.get("Age")) + slept), personal

    def _note_place(self, read: Read, response: StoredResponse, personal: Personal | None) -> None:
        """Note whether answers of this kind can be shared at all; tell the operator where they cannot."""
        if response.status != 200:
            return  # a refusal or a failure: the caller's own, and nothing that the next would get
        if personal is not None:
            self._metrics.personal_answers.labels(read.route.name, personal).inc()
            log.debug("answer is its caller's own", route=read.route.name, reason=personal)
        if self._places.note(_place(read), personal, self._clock.now()):
            log.warning(
                "answers of the workspace cannot be shared",
                route=read.route.name,
                reason=personal,
                remedy="if a gateway on the way says so and need not, stop it there",
            )

    def _note_split(self, read: Read, asker: Asker) -> None:
        """Tell the operator of fields that keep a question from being the same as the one before it."""
        told = asker.told
        by = "" if read.common else hash(told.credential)
        # What this proxy adds itself, or no longer does, is nothing that an operator could change.
        question = (self._forwarding.appends, by, *read.key[1:])
        for split in self._splits.note(question, told.counted if read.common else told.fields):
            name, first = self._splits.named(split)
            self._metrics.splits.labels(name, split.setting).inc()
            if first:
                log.warning(
                    "equal questions are asked apart because of a request field",
                    field=name,
                    remedy=split.remedy,
                )

    async def _look_up_status(self, flight: Flight, asker: Asker) -> None:
        """Find out whether a version is READY, when that is worth a call: then its files stay as they are."""
        model, version = flight.read.model, flight.read.version
        if model is None or version is None:
            return
        now, scope = self._clock.now(), _scope(flight.read)
        if not self._versions.worth_asking(scope, model, version, now, self._lifetimes.unverified):
            return
        try:
            asked = {"name": model, "version": version}
            await self._ask_beside(flight.read, asker, "model-versions/get", asked, flight.deadline)
        except (AnswerableError, NotShareableError) as error:
            # The listing does not depend on it; it is merely kept for a shorter time.
            log.info("status of model version unknown", model=model, version=version, reason=str(error))

    # -- cache store -------------------------------------------------------------------------------

    def _learn(self, read: Read, response: StoredResponse, asker: Asker, epoch: int) -> None:
        """Note the status of the versions that an answer describes, and that it was refused to its caller.

        ``epoch`` is that of the versions in which it was asked.
        """
        if response.status in REFUSED:
            everything = response.status == 401
            self._refusals.note(asker.partition, None if everything else read.model, self._clock.now())
        if response.status in {401, 403} and read.model is not None:
            asked = asked_by(read.owned_by(asker.partition))
            self._proofs.withdraw(asked, read.model, self._clock.now())
        if read.route.freshness is not Freshness.MUTABLE or response.status != 200:
            return
        if epoch != self._versions.epoch:
            return  # it may be about versions that are gone
        scopes = [_scope(read)]
        if asker.common and is_proof(read) and (created := described(response, read.model or "")) is not None:
            # What proves to one caller that it may read the model describes it to all who have proven that.
            scopes.append((read.prefix, asker.common_partition(created)))
        now = self._clock.now()
        for seen in answers.versions(answers.json_object(response.body) or {}):
            replaced = [self._versions.observe(scope, seen, now) for scope in scopes]
            if any(replaced):
                log.info("model version was created anew", model=seen.model, version=seen.version)
                self.invalidate(Invalidation(frozenset({seen.model}), files=True))
                for scope in scopes:
                    self._versions.observe(scope, seen, now)

    def _entry(self, read: Read, response: StoredResponse, age: float) -> Entry:
        """Decide for how long an answer may be kept that was ``age`` seconds old when it came."""
        now = self._clock.now()
        status = None
        if read.model is not None and read.version is not None:
            status = self._versions.status(_scope(read), read.model, read.version)
        seconds = lifetime(
            read.route.freshness,
            response.status,
            self._lifetimes,
            version_status=status,
            url_expires_in=_url_expires_in(read, response, self._clock.latest_unix() - age),
        )
        if "*" in vary(response.headers) or (response.status == 200 and not is_of(read.route, response)):
            seconds = NOT_AT_ALL
        survives = survives_metadata_writes(read.route.freshness, response.status, status)
        return Entry(response, read.model, read.version, survives, now - age, now - age + seconds)

    def _keep(self, flight: Flight, read: Read, entry: Entry) -> bool:
        fresh = entry.expires_at > self._clock.now()
        owned = self._access.owns(read.partition)
        return fresh and owned and flight.storable and self._store.put(read.key, entry)

    # -- respond -----------------------------------------------------------------------------------

    async def _respond(self, request: web.Request, read: Read, answer: Answer) -> Reply:
        response = answer.response
        if self._rewrite_dbfs and read.route.path == "model-versions/get-download-uri":
            response = rewrite_download_uri(response, read.model or "", read.version or "")
        return await send_stored(request, response, answer.outcome, answer.age, answer.ttl)

    async def _forward(
        self, request: web.Request, route: Route, headers: Fields, body: bytes | None, asker: Asker
    ) -> Reply:
        """Pass a request through as it is, and its answer back as it comes."""
        deadline = self.deadline()
        passed = UpstreamRequest(
            request.method,
            request.raw_path,
            tuple(without(headers, _OURS)),
            body or b"",
            asker.client,
            public=route.freshness is Freshness.DISCOVERY,
        )
        attempts = Attempts()
        call = Call(
            route.group,
            passed,
            lambda: deadline,
            shared=False,
            stream=request.content if body is None else None,
            attempts=attempts,
            endpoint=route.endpoint,
        )
        try:
            async with self._workspace.call(call) as response:
                if response.status == 401:
                    self._refusals.note(asker.partition, None, self._clock.now())
                if attempts.may_have_worked:
                    # Whoever asks from here on must see it.
                    self._invalidate_after(request, route, body)
                    if self._fleet is not None and route.invalidates is not Invalidates.NOTHING:
                        await self._fleet.told()
                return await relay(
                    request,
                    response.status,
                    reason_phrase(response.reason),
                    [*self._access.returned(fields(response)), cache_status(Outcome.BYPASS)],
                    chunks(response),
                )
        except BaseException:
            if attempts.may_have_worked:
                # An answer that was lost says nothing about the write: it may have happened, or do so yet.
                self._invalidate_after(request, route, body)
                asyncio.get_running_loop().call_later(
                    self._patience, self._invalidate_after, request, route, body
                )
            raise

    def _invalidate_after(self, request: web.Request, route: Route, body: bytes | None) -> None:
        if route.invalidates is Invalidates.NOTHING:
            return
        models = None
        if route.invalidates is not Invalidates.REGISTRY and body is not None:
            models = written_models(request.raw_path.partition("?")[2], body)
        self.invalidate(Invalidation(models, files=models is None or route.invalidates is Invalidates.MODEL))


_ASKED = frozenset({Outcome.STORED, Outcome.MISS, Outcome.REQUEST})
"""The workspace was asked with the caller's own credential."""
_OURS = frozenset({"host", "expect", CLIENT.lower()})
"""The client's ``Host`` names the proxy; ``Expect`` was answered by it."""


def _scope(read: Read) -> Scope:
    return read.prefix, read.partition


def _place(read: Read) -> Place:
    return read.partition, read.route.name


def _of_no_use_to_others(entry: Entry) -> Entry:
    """Return what those at other proxies learn of an answer that is its caller's own: to ask themselves."""
    return replace(entry, response=StoredResponse(entry.response.status, "", (), b""), expires_at=0.0)


def _url_expires_in(read: Read, response: StoredResponse, latest: float) -> float | None:
    """Return the seconds from when the answer was made until its signed URL ends, None if unknown.

    ``latest`` is when it was made at the latest, in Unix time.
    """
    if read.route.freshness is not Freshness.SIGNED_URL or response.status != 200:
        return None
    signed = answers.signed_url(answers.json_object(response.body) or {})
    expiry = expires_at(signed.url, signed.headers) if signed is not None else None
    # By the workspace's clock, which signed it: this machine's may be minutes off.
    made = unix_time(response.header("date") or "")
    return expiry - (latest if made is None else made) if expiry is not None else None
