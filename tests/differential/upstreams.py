"""What the run needs of an upstream: who asks what, what is changed, and what is answered directly."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from tests.differential.judge import Asker
from tests.differential.questions import Question
from tests.differential.timeline import Said

Pair = tuple[Asker, Question]


@dataclass(frozen=True)
class Write:
    """A call that changes something; ``fields`` are those of who may make it.

    ``path`` has no API prefix if it begins without a slash. ``model`` and ``askers`` are what may be answered
    differently after it, None for all.
    """

    what: str
    method: str
    path: str
    body: Mapping[str, Any]
    fields: tuple[tuple[str, str], ...]
    model: str | None = None
    askers: frozenset[str] | None = None

    def concerns(self, pair: Pair) -> bool:
        """Whether an answer may be another one after it."""
        asker, question = pair
        if self.askers is not None and asker.name not in self.askers:
            return False
        return self.model is None or question.model in {None, self.model}


class Upstream(Protocol):
    """One upstream, with all that is needed to ask and to change it."""

    prefixes: tuple[str, ...]
    """The API's, which are answered alike."""
    askers: list[Asker]
    questions: list[Question]

    @property
    def url(self) -> str:
        """Where it listens."""
        ...

    @property
    def pairs(self) -> list[Pair]:
        """Everybody with every question."""
        ...

    async def directly(self, pairs: Iterable[Pair]) -> dict[tuple[str, Question], Said]:
        """Ask without the proxy."""
        ...

    def draw(self, chance: Random) -> Write:
        """Return a change that makes a difference now."""
        ...


@dataclass
class Everyone:
    """Who asks what: the part that all upstreams have alike."""

    askers: list[Asker] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)

    @property
    def pairs(self) -> list[Pair]:
        """Everybody with every question."""
        return [(asker, question) for asker in self.askers for question in self.questions]
