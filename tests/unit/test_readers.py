"""Each reader of the stack over a fake one below it, in virtual time where it matters."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from mlflow_proxy.access.sharing import Access, Caller
from mlflow_proxy.clock import Clock
from mlflow_proxy.errors import (
    BadGatewayError,
    GatewayTimeoutError,
    RefusedAloneError,
    ServiceUnavailableError,
)
from mlflow_proxy.metrics import Metrics
from mlflow_proxy.mlflow_api.caller_fields import ANONYMOUS
from mlflow_proxy.mlflow_api.messages import Client, StoredResponse
from mlflow_proxy.mlflow_api.reads import Key, Read, question_about
from mlflow_proxy.outcome import Outcome
from mlflow_proxy.party import Party
from mlflow_proxy.reading.answer import Answer
from mlflow_proxy.reading.cached import Cached
from mlflow_proxy.reading.kept import Kept
from mlflow_proxy.reading.learning import Learning
from mlflow_proxy.reading.memory import Memory
from mlflow_proxy.reading.personal import Personal
from mlflow_proxy.reading.proofs import PROOF
from mlflow_proxy.reading.proven import Proven
from mlflow_proxy.reading.shared import Shared, Turn
from mlflow_proxy.reading.store import Entry, Invalidation
from mlflow_proxy.upstream.circuit import Circuit

PREFIX = "/api/2.0/mlflow/"
MODEL = b'{"registered_model": {"name": "m", "creation_timestamp": 7}}'
LISTING = b'{"root_uri": "dbfs:/m", "files": []}'
WRITE = Invalidation(frozenset({"m"}), files=True)


def caller(name: str = "a", *, common: str = "", fresh: bool = False) -> Caller:
    return Caller((), name, Client(name), ANONYMOUS, fresh, common=common)


def listing(partition: str = "a", model: str = "m") -> Read:
    return question_about(PREFIX, "model-versions/list-artifacts", {"name": model, "version": "1"}, partition)


def entry(body: bytes = LISTING, status: int = 200, lasts: float = 100.0, stored: float = 0.0) -> Entry:
    made = time.monotonic() - stored
    return Entry(StoredResponse(status, "", (), body), "m", "1", True, made, made + lasts)


def answer(question: Read, of: Entry | None = None, *, personal: Personal | None = None) -> Answer:
    return Answer(question.key, of or entry(), Outcome.MISS, time.monotonic(), personal=personal)


@dataclass
class Below:
    """A reader that answers as it is told, and notes what it was asked."""

    respond: Callable[[Read, Caller], Awaitable[Answer]]
    asked: list[tuple[Read, Caller]] = field(default_factory=list)

    async def read(self, question: Read, caller: Caller, party: Party) -> Answer:
        self.asked.append((question, caller))
        return await self.respond(question, caller)


async def fresh_answer(question: Read, caller: Caller) -> Answer:
    return answer(question)


def raising(error: Exception) -> Callable[[Read, Caller], Awaitable[Answer]]:
    async def respond(question: Read, caller: Caller) -> Answer:
        raise error

    return respond


@pytest.fixture
def memory() -> Memory:
    return Memory(10**6, proof_ttl=300, refusal_ttl=5, clock=Clock(time.monotonic, time.time))


# -- cached ----------------------------------------------------------------------------------------


def cached(memory: Memory, below: Below, direct: Below | None = None, stale_if_error: float = 0.0) -> Cached:
    return Cached(*(below, direct or below, memory, Circuit()), stale_if_error=stale_if_error, patience=20.0)


async def test_a_fresh_answer_is_a_hit_and_an_expired_one_is_not(memory: Memory) -> None:
    below = Below(fresh_answer)
    reader, question = cached(memory, below), listing()
    memory.store.put(question.key, kept := entry(stored=30.0))
    hit = await reader.read(question, caller(), Party("a"))
    assert (hit.outcome, hit.entry, below.asked) == (Outcome.HIT, kept, [])
    assert hit.as_of == kept.stored_at - 20.0, "it took time to arrive"
    memory.store.put(question.key, entry(stored=30.0, lasts=20.0))
    assert (await reader.read(question, caller(), Party("a"))).outcome is Outcome.MISS


async def test_callers_that_refuse_stored_answers_ask_directly(memory: Memory) -> None:
    below, direct = Below(fresh_answer), Below(fresh_answer)
    question = listing()
    memory.store.put(question.key, entry())
    found = await cached(memory, below, direct).read(question, caller(fresh=True), Party("a"))
    assert (found.outcome, len(below.asked), len(direct.asked)) == (Outcome.REQUEST, 0, 1)


@pytest.mark.parametrize("error", [ServiceUnavailableError("down", 2), GatewayTimeoutError("late")])
async def test_expired_answers_serve_while_there_is_no_other(memory: Memory, error: Exception) -> None:
    question = listing()
    memory.store.put(question.key, entry(stored=30.0, lasts=20.0))
    reader = cached(memory, Below(raising(error)), stale_if_error=60.0)
    assert (await reader.read(question, caller(), Party("a"))).outcome is Outcome.STALE
    memory.refusals.note("a", "m", time.monotonic())
    with pytest.raises(type(error)):
        await reader.read(question, caller(), Party("a"))


async def test_a_502_is_a_503_with_a_retry_after(memory: Memory) -> None:
    reader = cached(memory, Below(raising(BadGatewayError("broke off"))))
    with pytest.raises(ServiceUnavailableError, match="broke off") as refused:
        await reader.read(listing(), caller(), Party("a"))
    assert int(refused.value.headers["Retry-After"]) >= 1


# -- kept ------------------------------------------------------------------------------------------


async def test_what_came_is_stored(memory: Memory) -> None:
    question = listing()
    found = await Kept(Below(fresh_answer), memory, Access(b"k")).read(question, caller(), Party("a"))
    assert found.outcome is Outcome.STORED
    assert memory.store.get(question.key, time.monotonic()) is found.entry


async def test_what_a_write_has_outdated_meanwhile_is_not(memory: Memory) -> None:
    async def respond(question: Read, caller: Caller) -> Answer:
        memory.forget(WRITE)
        return answer(question)

    for model, outcome in (("m", Outcome.MISS), ("other", Outcome.STORED)):
        question = listing(model=model)
        found = await Kept(Below(respond), memory, Access(b"k")).read(question, caller(), Party("a"))
        assert found.outcome is outcome
        assert (memory.store.get(question.key, time.monotonic()) is None) == (outcome is Outcome.MISS)


async def test_a_personal_answer_is_stored_for_its_caller_alone(memory: Memory) -> None:
    common = listing().within("common")

    async def respond(question: Read, caller: Caller) -> Answer:
        return answer(question, personal=Personal.VARY)

    found = await Kept(Below(respond), memory, Access(b"k")).read(common, caller("a"), Party("a"))
    assert found.key.partition == "a"
    assert memory.store.get(common.key, time.monotonic()) is None
    assert memory.store.get(listing("a").key, time.monotonic()) is not None


async def test_another_members_personal_answer_is_stored_for_nobody(memory: Memory) -> None:
    async def respond(question: Read, caller: Caller) -> Answer:
        return answer(question, personal=Personal.VARY)._replace(outcome=Outcome.COLLAPSED)

    await Kept(Below(respond), memory, Access(b"k")).read(listing(), caller(), Party("a"))
    assert len(memory.store) == 0


# -- shared ----------------------------------------------------------------------------------------


@dataclass
class Fleet:
    """A fleet in which one answer lies, or none."""

    found: Entry | None = None
    joined: bool = False
    brought: Entry | None = None
    connected: bool = True

    @asynccontextmanager
    async def turn(self, read: Read, deadline: Callable[[], float]) -> AsyncIterator[Turn]:
        turn = Turn(self.found, self.joined)
        yield turn
        self.brought = turn.brought

    async def discard(self, key: Key) -> None:
        raise AssertionError

    def announce(self, what: Invalidation) -> None:
        raise AssertionError

    async def announced(self) -> None:
        raise AssertionError


def shared(memory: Memory, below: Below, fleet: Fleet) -> Shared:
    return Shared(below, fleet, memory, Learning(memory, lambda what: None), Access(b"k"), 20.0)


@pytest.mark.parametrize(("joined", "outcome"), [(False, Outcome.HIT), (True, Outcome.COLLAPSED)])
async def test_what_the_fleet_has_is_not_asked_for(memory: Memory, joined: bool, outcome: Outcome) -> None:
    below, fleet = Below(fresh_answer), Fleet(entry(), joined)
    found = await shared(memory, below, fleet).read(listing(), caller(), Party("a"))
    assert (found.entry, found.outcome, below.asked) == (fleet.found, outcome, [])


async def test_what_is_fetched_the_fleet_gets(memory: Memory) -> None:
    fleet = Fleet()
    found = await shared(memory, Below(fresh_answer), fleet).read(listing(), caller(), Party("a"))
    assert (found.outcome, fleet.brought) == (Outcome.MISS, found.entry)


async def test_of_a_personal_answer_it_gets_nothing_but_the_word(memory: Memory) -> None:
    async def respond(question: Read, caller: Caller) -> Answer:
        return answer(question, personal=Personal.VARY)

    fleet = Fleet()
    await shared(memory, Below(respond), fleet).read(listing().within("common"), caller(), Party("a"))
    assert fleet.brought is not None
    assert (fleet.brought.response.body, fleet.brought.expires_at) == (b"", 0.0)


# -- proven ----------------------------------------------------------------------------------------


@dataclass
class Proving:
    """The reader, over one that answers proofs and all else, and is the top at once."""

    memory: Memory
    may_read: set[str]
    disowned: int = 0

    def __post_init__(self) -> None:
        self.below = Below(self.respond)
        self.reader = Proven(self.below, self.ask, self.disown, self.memory, Metrics())

    async def respond(self, question: Read, caller: Caller) -> Answer:
        if question.route.path != PROOF:
            return answer(question)
        allowed = caller.partition in self.may_read
        return answer(question, entry(MODEL) if allowed else entry(b"no", 403))

    async def ask(self, question: Read, caller: Caller, party: Party) -> Answer:
        return await self.reader.read(question, caller, party)

    async def disown(self, answer: Answer) -> None:
        self.disowned += 1

    async def read(self, name: str) -> Answer:
        return await self.reader.read(listing(name), caller(name, common="all"), Party(name))

    def asked(self) -> list[tuple[str, str]]:
        return [(question.route.path, question.partition) for question, _ in self.below.asked]


async def test_who_has_proven_it_asks_in_the_common_name(memory: Memory) -> None:
    proving = Proving(memory, {"a", "b"})
    for name in "ab":
        assert (await proving.read(name)).key.partition == caller(name, common="all").common_partition(7)
    common = ("model-versions/list-artifacts", "common-all-7")
    assert proving.asked() == [(PROOF, "a"), common, (PROOF, "b"), common]


async def test_who_may_not_is_refused_with_the_workspaces_words(memory: Memory) -> None:
    proving = Proving(memory, {"a"})
    await proving.read("a")
    refused = await proving.read("c")
    assert (refused.response.status, refused.response.body) == (403, b"no")
    assert (await proving.read("c")).outcome is Outcome.HIT, "the refusal counts for a while"
    assert proving.asked()[2:] == [(PROOF, "c")]


async def test_a_proof_counts_no_longer_once_permissions_were_written(memory: Memory) -> None:
    proving = Proving(memory, {"a"})
    await proving.read("a")
    memory.forget(WRITE)
    proving.may_read.clear()
    assert (await proving.read("a")).response.status == 403


async def test_who_waited_while_permissions_were_written_proves_it_again(memory: Memory) -> None:
    proving = Proving(memory, {"a"})
    respond = proving.below.respond

    async def written_meanwhile(question: Read, caller: Caller) -> Answer:
        found = await respond(question, caller)
        if question.common:
            memory.forget(WRITE)
            proving.may_read.clear()
            return found._replace(outcome=Outcome.COLLAPSED)
        return found

    proving.below.respond = written_meanwhile
    assert (await proving.read("a")).response.status == 403


async def test_one_that_the_workspace_refuses_alone_asks_for_itself(memory: Memory) -> None:
    proving = Proving(memory, {"a"})
    respond = proving.below.respond

    async def refusing(question: Read, caller: Caller) -> Answer:
        if question.common:
            raise RefusedAloneError(caller.client)
        return await respond(question, caller)

    proving.below.respond = refusing
    assert (await proving.read("a")).key.partition == "a"


async def test_where_nothing_is_shared_each_has_its_own(memory: Memory) -> None:
    proving = Proving(memory, {"a"})
    await proving.reader.read(listing("a"), caller("a"), Party("a"))
    assert proving.asked() == [("model-versions/list-artifacts", "a")]
