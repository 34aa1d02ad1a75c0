"""Listings for clients: each page is parsed once, and each directory assembled once, for all clients.

What is made of stored answers stays with them: a page with the answer that it was read of, a directory with
that of its first page. So it takes its part of the store's memory, and goes when that answer is evicted,
replaced, disowned or made wrong by a write. A directory is used again only while all of its other pages are
stored and fresh as well: asking for them would lead to nothing else.

The pipeline decides whether a client may be served: each client asks it at least for the first page. A
directory is kept only if all its pages are stored in one partition: a client that gets one may get them all.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple, TypeVar
from weakref import WeakValueDictionary

from mlflow_proxy.access.sharing import Caller
from mlflow_proxy.artifacts.directories import Directory, Page, Part, Pausing, put_together, read_page
from mlflow_proxy.artifacts.registry import FileRegistry
from mlflow_proxy.clock import Clock
from mlflow_proxy.errors import BadGatewayError
from mlflow_proxy.mlflow_api.artifact_paths import ModelFile
from mlflow_proxy.mlflow_api.messages import StoredResponse
from mlflow_proxy.outcome import Outcome
from mlflow_proxy.reading.answer import Answer
from mlflow_proxy.reading.store import Entry, MemoryStore
from mlflow_proxy.term import Terms, together

_LARGEST = 32 * 2**20
"""Bytes of all pages of one directory, some 200,000 files, so that one whose last page never comes ends."""

T = TypeVar("T")


class Found(NamedTuple):
    """A directory that its caller may see; the rest is as of ``reading.answer.Answer``."""

    directory: Directory
    outcome: Outcome
    age: float | None
    ttl: float | None
    entry: Entry | None = None
    """The stored answer that it is as old as, if all of it was stored."""
    terms: Terms | None = None


class Listings:
    """Lists directories of model versions. ``store`` is where the pipeline keeps its answers."""

    def __init__(self, registry: FileRegistry, store: MemoryStore, clock: Clock) -> None:
        self._registry = registry
        self._store = store
        self._clock = clock
        self._at_work: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    async def find(self, caller: Caller, where: ModelFile, deadline: float) -> Found | Answer:
        """Return a directory, or the workspace's answer if it is none.

        ``caller`` and ``deadline`` are as of ``Pipeline.ask``. Raises AnswerableError.
        """
        answers: list[Answer] = []
        pages: list[Page] = []
        seen: set[str] = set()
        token, size = "", 0
        while True:
            answer = await self._registry.page(caller, where, token, deadline)
            if answer.response.status != 200:
                return answer
            answers.append(answer)
            if (found := self._stored(answers[0])) is not None:
                return found
            try:
                pages.append(await self._page(answer, where))
                token, size = pages[-1].token, size + len(answer.response.body)
                if token in seen or size > _LARGEST:
                    raise BadGatewayError(
                        f"The workspace's listing goes round, or has no end within {_LARGEST >> 20} MiB."
                    )
            except BadGatewayError:
                await self._registry.disown(answer)
                raise
            if not token:
                return _described(await self._directory(answers, pages), answers)
            seen.add(token)

    def _stored(self, first: Answer) -> Found | None:
        """Return the directory that begins with this answer, if all of its pages could be had from the store.

        That they are looked up keeps them from being the least recently used.
        """
        directory = self._store.made(first.key, first.response)
        if not isinstance(directory, Directory):
            return None
        now = self._clock.now()
        entries = [
            entry
            for key, response in directory.parts
            if (entry := self._store.get(key, now)) is not None and entry.response is response
        ]
        if len(entries) < len(directory.parts):
            return None
        ends_first = min(entries, key=lambda entry: entry.expires_at)
        age, ttl = now - ends_first.stored_at, ends_first.expires_at - now
        others = tuple(self._store.term(key) for key, _ in directory.parts[1:])
        return Found(directory, Outcome.HIT, age, ttl, ends_first, together(first.terms, others))

    async def _page(self, answer: Answer, where: ModelFile) -> Page:
        key, response = answer.key, answer.response
        async with self._alone(response):
            made = self._store.made(key, response)
            if isinstance(made, Directory):
                return made.pages[0]
            if isinstance(made, Page):
                return made
            page = await _worked(read_page(response.body, where.path))
            self._store.make(key, response, page, page.size)
            return page

    async def _directory(self, answers: list[Answer], pages: list[Page]) -> Directory:
        first, parts = answers[0], tuple((answer.key, answer.response) for answer in answers)
        async with self._alone(pages[-1]):
            made = self._store.made(first.key, first.response)
            if isinstance(made, Directory) and _same(made.parts, parts):
                return made
            directory = await _worked(put_together(pages, parts))
            if len({key.partition for key, _ in parts}) == 1:
                self._store.make(first.key, first.response, directory, pages[0].size + directory.size)
            return directory

    def _alone(self, on: StoredResponse | Page) -> asyncio.Lock:
        """Let one client at a time work on something: the others find it done."""
        return self._at_work.setdefault(id(on), asyncio.Lock())


async def _worked(work: Pausing[T]) -> T:
    """Do work, and let others have their turn wherever it may be interrupted."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            result: T = done.value
            return result
        await asyncio.sleep(0)


def _same(some: Sequence[Part], others: Sequence[Part]) -> bool:
    return len(some) == len(others) and all(
        one is other for (_, one), (_, other) in zip(some, others, strict=True)
    )


def _described(directory: Directory, answers: list[Answer]) -> Found:
    """Return a directory with how its pages came about."""
    last = answers[-1]
    stored = [(answer.ttl, number) for number, answer in enumerate(answers) if answer.ttl is not None]
    if stored:
        first_to_end = answers[min(stored)[1]]
        if first_to_end.outcome is Outcome.STALE or last.outcome is Outcome.HIT:
            last = first_to_end  # it speaks for all that expires, or has expired, first
    return Found(directory, last.outcome, last.age, last.ttl)
