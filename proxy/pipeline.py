"""The line that every request walks once, from left to right.

    request -> route -> access -> cache lookup -> coalesce -> budget -> upstream (retry) -> cache store
            -> respond

``handle`` is the line for a client's request, ``ask`` for a question that the proxy has to put to the
registry itself. Requests whose answers may be shared take ``_read``, all others ``_forward``. Both end in
``Workspace.call``, which is the part from budget to upstream.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from urllib.parse import quote, urlencode

import structlog
from aiohttp import web

from proxy.access.proofs import (
    PROOF,
    REFUSED,
    Proofs,
    asked_by,
    described,
    is_personal,
    is_proof,
    needs_proof,
    varies_by_credential,
)
from proxy.access.sharing import Access, Asker
from proxy.cache.freshness import NOT_AT_ALL, Lifetimes, lifetime, may_be_stale, survives_metadata_writes
from proxy.cache.refusals import Refusals
from proxy.cache.single_flight import Flight, SingleFlight
from proxy.cache.store import Entry, Invalidation, MemoryStore
from proxy.cache.versions import VersionBook
from proxy.errors import (
    AnswerableError,
    BadRequestError,
    NotShareableError,
    TruncatedError,
    UnreachableError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
)
from proxy.fleet.shared_cache import SharedCache
from proxy.mlflow_api import answers
from proxy.mlflow_api.artifact_paths import rewrite_download_uri
from proxy.mlflow_api.headers import (
    CLIENT,
    NOT_STORED,
    Fields,
    age,
    end_to_end,
    unix_time,
    vary,
    without,
)
from proxy.mlflow_api.messages import StoredResponse, UpstreamRequest
from proxy.mlflow_api.reads import Key, Read, shareable, written_models
from proxy.mlflow_api.routes import API_PREFIXES, Freshness, Invalidates, Route, match
from proxy.mlflow_api.signed_urls import expires_at
from proxy.responses import Outcome, Reply, cache_status, relay, send_stored
from proxy.upstream.client import chunks, fields, read_whole
from proxy.upstream.decoding import decoded
from proxy.upstream.malformed import reason_phrase
from proxy.upstream.retry import UNAVAILABLE
from proxy.workspace import Call, Workspace

log = structlog.get_logger(__name__)

LARGEST_HELD_BODY = 2**20
"""Bytes. Request bodies up to this are held, to be understood and sent again after a 429; larger ones
stream through and get one attempt."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete response and how it came about.

    ``as_of`` is a moment (monotonic seconds) that is not after the workspace's decision. ``age`` in seconds
    if it was stored; ``ttl`` in seconds, below 0, if it has expired.
    """

    key: Key
    response: StoredResponse
    outcome: Outcome
    as_of: float
    age: float | None = None
    ttl: float | None = None


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
        proofs: Proofs | None = None,
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
        self._proofs = proofs
        self._versions = VersionBook()
        self._fleet: SharedCache | None = None
        self.flights: SingleFlight[Answer] = SingleFlight()

    def deadline(self) -> float:
        """Return the event loop's time at which a request that arrives now loses patience."""
        return asyncio.get_running_loop().time() + self._patience

    async def handle(self, request: web.Request, route: Route) -> Reply:
        """Answer a client's request, whatever it is. Raises AnswerableError."""
        headers = end_to_end(request.headers.items())
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
        return await self._forward(request, route, headers, body, asker.client)

    async def ask(
        self, headers: Fields, endpoint: str, parameters: Mapping[str, str], deadline: float
    ) -> Answer:
        """Put a question to the registry on behalf of a client, who may refuse stored answers.

        ``headers`` are that client's end-to-end fields, ``endpoint`` a shareable GET of the route table,
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
        if self._proofs is not None:
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
        matters = self._workspace.limits(route.group) or route.invalidates is not Invalidates.NOTHING
        size = request.content_length
        if matters and size is not None and size <= LARGEST_HELD_BODY:
            return await request.read()
        return None

    async def _admitted(self, read: Read, asker: Asker, deadline: float) -> Answer:
        """Answer a read from what those share who may read the model, once this credential has proven so.

        Without proofs every credential has its own.
        """
        proofs, model = self._proofs, read.model
        if proofs is None or model is None:
            return await self._read(read, asker, deadline)
        if not needs_proof(read):
            epoch = proofs.epoch
            answer = await self._read(read, asker, deadline)
            if is_proof(read):
                proofs.note(asked_by(read), model, answer.response, answer.as_of, epoch)
            return answer
        proof = await self._proof(proofs, read, model, asker, deadline)
        if isinstance(proof, Answer):
            return proof
        if proof is None or self._store.get(read.key, time.monotonic()) is not None:
            return await self._read(read, asker, deadline)
        answer = await self._read(read.within(self._access.common(asker.fields, proof)), asker, deadline)
        if is_personal(answer.response):
            if answer.outcome in {Outcome.COLLAPSED, Outcome.HIT} or (
                varies_by_credential(answer.response) and not asker.fresh
            ):
                # Said to somebody else, who may have lost what this one has; or what each has of its own.
                return await self._read(read, asker, deadline)
            if answer.response.status in {401, 403}:
                proofs.withdraw(asked_by(read), model)
        return answer

    async def _proof(
        self, proofs: Proofs, read: Read, model: str, asker: Asker, deadline: float
    ) -> Answer | int | None:
        """Return what the workspace says to who may not read the model; to who may, when that was created.

        None if it does not say, so that nothing can be shared.
        """
        now = time.monotonic()
        known = proofs.get(asked_by(read), model, now)
        if known is not None:
            if known.refusal is None:
                return known.created
            return Answer(read.key, known.refusal, Outcome.HIT, now, age=0)
        asked = {"name": model}
        answer = await self._ask_beside(read, asker, PROOF, asked, deadline)
        if answer.response.status == 200 and proofs.get(asked_by(read), model, now) is None:
            # It was stored too long ago, or asked before permissions were written, to prove anything.
            await self.disown(answer)
            answer = await self._ask_beside(read, asker, PROOF, asked, deadline)
        return described(answer.response, model) if answer.response.status == 200 else answer

    # -- cache lookup and coalescing ---------------------------------------------------------------

    async def _read(self, read: Read, asker: Asker, deadline: float) -> Answer:
        if asker.fresh:
            alone = Flight(read, deadline, storable=False)
            now = time.monotonic()
            with self._coming_back():
                return Answer(read.key, (await self._fetch(alone, asker)).response, Outcome.REQUEST, now)
        now = time.monotonic()
        entry = self._store.get(read.key, now)
        if entry is not None:
            return Answer(read.key, entry.response, Outcome.HIT, self._decided(entry), now - entry.stored_at)
        try:
            with self._coming_back():
                answer, _, joined = await self.flights.fetch(
                    read, deadline, asker.client, lambda flight: self._fly(flight, asker)
                )
        except (UnreachableError, UpstreamTimeoutError):
            stale = self._stale(read)
            if stale is None:
                raise
            return stale
        if answer.response.status in UNAVAILABLE:
            return self._stale(read) or answer
        return replace(answer, outcome=Outcome.COLLAPSED, age=None) if joined else answer

    @contextmanager
    def _coming_back(self) -> Iterator[None]:
        """Let the clients of a read come back: the Databricks SDK repeats what got a 503, but not a 502.

        Each is told another time. The fleet hears of the failure itself, so that its members share that too.
        """
        try:
            yield
        except UpstreamUnavailableError as error:
            raise self._workspace.circuit.unreachable(str(error)) from error

    def _stale(self, read: Read) -> Answer | None:
        """Return an answer that has expired and that nobody can renew now, if it may be used (RFC 5861)."""
        now = time.monotonic()
        entry = self._store.get_stale(read.key, now, self._stale_if_error)
        if entry is None or not may_be_stale(read.route.freshness, survives=entry.survives_metadata_writes):
            return None
        if entry.stored_at <= self._refusals.last(read.partition, read.model):
            return None
        age, ttl = now - entry.stored_at, entry.expires_at - now
        return Answer(read.key, entry.response, Outcome.STALE, self._decided(entry), age, ttl)

    def _decided(self, entry: Entry) -> float:
        """Return a moment that is not after the workspace's decision: the answer took time to arrive."""
        return entry.stored_at - self._patience

    async def _fly(self, flight: Flight, asker: Asker) -> Answer:
        """Bring an answer: from the fleet if it has it or is fetching it, else from the workspace."""
        key, began = flight.read.key, time.monotonic()
        if self._fleet is None:
            return self._fetched(flight, await self._fetch(flight, asker), began)
        async with self._fleet.turn(flight.read, lambda: flight.deadline) as turn:
            if turn.found is None:
                brought = await self._fetch(flight, asker)
                if self._access.owns(flight.read.partition):
                    turn.brought = brought
                return self._fetched(flight, brought, began)
            entry = turn.found
        self._learn(flight.read, entry.response)
        self._keep(flight, entry)
        if turn.joined:
            return Answer(key, entry.response, Outcome.COLLAPSED, self._decided(entry))
        age = time.monotonic() - entry.stored_at
        return Answer(key, entry.response, Outcome.HIT, self._decided(entry), age)

    def _fetched(self, flight: Flight, entry: Entry, began: float) -> Answer:
        outcome = Outcome.STORED if self._keep(flight, entry) else Outcome.MISS
        return Answer(flight.read.key, entry.response, outcome, min(began, entry.stored_at))

    async def _fetch(self, flight: Flight, asker: Asker) -> Entry:
        """Ask the workspace; the entry has expired already if its answer may not be kept."""
        read = flight.read
        if read.route.freshness is Freshness.LISTING:
            await self._look_up_status(flight, asker)
        # Made of the key here and nowhere else: what else its first client said cannot reach those who share.
        request = read.request(asker.fields, asker.client, fresh=asker.fresh)
        call = Call(read.route.group, request, lambda: flight.deadline, shared=True, party=flight.party)
        async with self._workspace.call(call) as got:
            try:
                body = await read_whole(got, self._largest_entry)
            except TruncatedError as error:
                raise UpstreamUnavailableError(
                    "The workspace broke off in the middle of its answer."
                ) from error
            body = decoded(body, got.headers.getall("Content-Encoding", ()), self._largest_entry)
            kept = tuple(without(self._access.returned(fields(got)), NOT_STORED))
            response = StoredResponse(got.status, reason_phrase(got.reason), kept, body)
        self._learn(read, response)
        return self._entry(read, response, age(got.headers.get("Age")))

    async def _look_up_status(self, flight: Flight, asker: Asker) -> None:
        """Find out whether a version is READY, when that is worth a call: then its files stay as they are."""
        model, version = flight.read.model, flight.read.version
        if model is None or version is None:
            return
        if not self._versions.worth_asking(model, version, time.monotonic(), self._lifetimes.unverified):
            return
        try:
            asked = {"name": model, "version": version}
            await self._ask_beside(flight.read, asker, "model-versions/get", asked, flight.deadline)
        except (AnswerableError, NotShareableError) as error:
            # The listing does not depend on it; it is merely kept for a shorter time.
            log.info("status of model version unknown", model=model, version=version, reason=str(error))

    # -- cache store -------------------------------------------------------------------------------

    def _learn(self, read: Read, response: StoredResponse) -> None:
        """Note the status of the versions that an answer describes, and to whom it was refused."""
        if response.status in REFUSED:
            everything = response.status == 401
            self._refusals.note(read.partition, None if everything else read.model, time.monotonic())
        if read.route.freshness is not Freshness.MUTABLE or response.status != 200:
            return
        now = time.monotonic()
        for seen in answers.versions(answers.json_object(response.body) or {}):
            if self._versions.observe(seen, now):
                log.info("model version was created anew", model=seen.model, version=seen.version)
                self.invalidate(Invalidation(frozenset({seen.model}), files=True))
                self._versions.observe(seen, now)

    def _entry(self, read: Read, response: StoredResponse, age: float) -> Entry:
        """Decide for how long an answer may be kept that was ``age`` seconds old when it came."""
        now = time.monotonic()
        status = None
        if read.model is not None and read.version is not None:
            status = self._versions.status(read.model, read.version)
        seconds = lifetime(
            read.route.freshness,
            response.status,
            self._lifetimes,
            version_status=status,
            url_expires_in=_url_expires_in(read, response, age),
        )
        if "*" in vary(response.headers) or (read.common and varies_by_credential(response)):
            seconds = NOT_AT_ALL
        survives = survives_metadata_writes(read.route.freshness, response.status, status)
        return Entry(response, read.model, read.version, survives, now - age, now - age + seconds)

    def _keep(self, flight: Flight, entry: Entry) -> bool:
        fresh = entry.expires_at > time.monotonic()
        owned = self._access.owns(flight.read.partition)
        return fresh and owned and flight.storable and self._store.put(flight.read.key, entry)

    # -- respond -----------------------------------------------------------------------------------

    async def _respond(self, request: web.Request, read: Read, answer: Answer) -> Reply:
        response = answer.response
        if self._rewrite_dbfs and read.route.path == "model-versions/get-download-uri":
            response = rewrite_download_uri(response, read.model or "", read.version or "")
        return await send_stored(request, response, answer.outcome, answer.age, answer.ttl)

    async def _forward(
        self, request: web.Request, route: Route, headers: Fields, body: bytes | None, client: str
    ) -> Reply:
        """Pass a request through as it is, and its answer back as it comes."""
        deadline = self.deadline()
        passed = UpstreamRequest(
            request.method,
            request.raw_path,
            tuple(without(headers, _OURS)),
            body or b"",
            client,
            public=route.freshness is Freshness.DISCOVERY,
        )
        call = Call(
            route.group,
            passed,
            lambda: deadline,
            shared=False,
            stream=request.content if body is None else None,
        )
        try:
            async with self._workspace.call(call) as response:
                if response.status == 401:
                    self._refusals.note(client.partition(":")[0], None, time.monotonic())
                # The write has happened: whoever asks from here on must see it.
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
            # It may have happened: an answer that was lost says nothing about the write.
            self._invalidate_after(request, route, body)
            raise

    def _invalidate_after(self, request: web.Request, route: Route, body: bytes | None) -> None:
        if route.invalidates is Invalidates.NOTHING:
            return
        models = None
        if route.invalidates is not Invalidates.REGISTRY and body is not None:
            models = written_models(request.raw_path.partition("?")[2], body)
        self.invalidate(Invalidation(models, files=models is None or route.invalidates is Invalidates.MODEL))


_OURS = frozenset({"host", "expect", CLIENT.lower()})
"""The client's ``Host`` names the proxy; ``Expect`` was answered by it."""


def _url_expires_in(read: Read, response: StoredResponse, age: float) -> float | None:
    """Return the seconds from when the answer was made until its signed URL expires, None if unknown."""
    if read.route.freshness is not Freshness.SIGNED_URL or response.status != 200:
        return None
    signed = answers.signed_url(answers.json_object(response.body) or {})
    expiry = expires_at(signed.url) if signed is not None else None
    # By the workspace's clock, which signed it: this machine's may be minutes off.
    made = unix_time(response.header("date") or "")
    return expiry - (time.time() - age if made is None else made) if expiry is not None else None
