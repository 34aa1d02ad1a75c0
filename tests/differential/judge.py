"""What was said directly, and whether an answer through the proxy is one of it. Times come in."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tests.differential.questions import FACADE_LISTING, Question, proof, said
from tests.differential.timeline import Change, History, Possible, Said, Slack

SPOILT = "spoilt"
"""In an answer that a gateway made up for one caller."""
_MARKER = re.compile(r"whose\.([\w-]*)\.([\w-]*)\.([\w-]*)\.([\w-]*)\.end")
_REFUSALS = frozenset({400, 401, 403, 404})
_NAMES = re.compile(r"/(dapi-\w+|m\d|[\d.]+)$")
_IN_FULL = 2
"""Findings of a kind that are told in full."""
_EMPTY = Said(200, '{"files": []}')
"""A client that is told so reports success without a file."""
_NOTHING = object()
_SHOWN = 6
"""States of a history that a finding tells."""
_JITTER = 0.25
"""Seconds that a call may take at the upstream without any client noticing."""
_KEPT = 120.0
"""Seconds after which what is over is forgotten."""


def marker(token: str, user: str, address: str, tenant: str) -> str:
    """Return what says whose something is, in characters that any field and document takes."""
    return (
        "whose." + ".".join(re.sub(r"[^\w-]", "-", part) for part in (token, user, address, tenant)) + ".end"
    )


@dataclass(frozen=True)
class Asker:
    """A caller: the fields that it sends with every request, and how its answers are marked, if they are.

    ``reference`` names who may read everything where it asks.
    """

    name: str
    fields: tuple[tuple[str, str], ...]
    reference: str
    marker: str = ""
    tenant: str = ""


@dataclass(frozen=True)
class Asked:
    """One request through the proxy and its answer. Times are in monotonic seconds."""

    asker: Asker
    question: Question
    target: str
    began: float
    ended: float
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def outcome(self) -> str:
        """What Cache-Status says, without numbers."""
        value = next((value for name, value in self.headers if name.lower() == "cache-status"), "none")
        return re.sub(r"; ttl=.*", "", value.partition("; ")[2]) or value


class Verdict(StrEnum):
    """What an answer is."""

    SAME = "as the upstream answers"
    TORN = "put together by the upstream while it changed, of what it answered this caller before and after"
    SPOILT = "made up by the gateway for this caller"
    REFUSED = "refused, as the upstream may have"
    OVER_REFUSED = "refused although the upstream would not have"
    STALE = "older than a write through the proxy"
    LEAK = "not what the upstream would have answered this caller"


FINDINGS = frozenset({Verdict.STALE, Verdict.LEAK})


def is_torn(answer: Said, possible: Iterable[Said]) -> bool:
    """Whether each part of a model, as it was told, is one of what was possible at some of these moments.

    MLflow's server reads a model, its versions and its aliases by several queries, so that a change can
    come between: asked directly while a model was being deleted, 53 of 1,094 answers were such.
    """
    found = list(possible)
    told, *parts = (_model(each) for each in (answer, *(each for each in found if not each.refused)))
    if not told or len(found) < 2:
        return False
    return all(any(part.get(name, _NOTHING) == value for part in parts) for name, value in told.items())


def _model(said: Said) -> dict[str, Any]:
    document = json.loads(said.body) if said.body.startswith("{") else {}
    model = document.get("registered_model", {})
    return model if isinstance(model, dict) else {}


@dataclass
class Judge:
    """Knows what was possible at any moment.

    ``ttl`` is for how many seconds an answer, and a proof, may be used again. With ``proven``, who was
    allowed to read a model at one such moment may be told what it was at another.
    """

    ttl: float
    proven: bool
    histories: dict[tuple[str, Question], History] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    """Causes of what was refused for no reason."""
    kinds: Counter[str] = field(default_factory=Counter)
    """What was found."""
    findings: list[str] = field(default_factory=list)
    """The first of each kind."""
    wrong: list[str] = field(default_factory=list)
    """Where the direct answers are not what this believed: faults of this program, not of the proxy."""
    _longest: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def longest(self) -> float:
        """Seconds that the slowest answer took."""
        return max(self._longest.values(), default=0.0)

    def learn(self, change: Change | None, answers: Mapping[tuple[str, Question], Said]) -> None:
        """Note the direct answers after a change; None for the first ones."""
        if change is not None:
            self.changes.append(change)
        for pair, answer in answers.items():
            history = self.histories.get(pair)
            if history is None:
                self.histories[pair] = History(answer)
            elif change is not None:
                history.add(change, answer)
                history.forget(change.began - _KEPT)

    def unknown(self, asker: Asker, question: Question) -> bool:
        """Whether the upstream does not know a caller now."""
        return self.histories[asker.name, question].last.status == 401

    def refuses(self, asker: Asker, question: Question) -> bool:
        """Whether the upstream tells a caller nothing now."""
        return self.histories[asker.name, question].last.refused

    def audit(self, answers: Mapping[tuple[str, Question], Said]) -> None:
        """Compare direct answers, while nothing changes, with what is believed."""
        for (name, question), answer in answers.items():
            believed = self.histories[name, question].last
            if answer != believed:
                self.wrong.append(f"{name}: {question}: {answer} and not {believed}")

    def judge(self, asked: Iterable[Asked]) -> None:
        """Judge answers; every change that had begun when they came has been learnt."""
        asked = list(asked)
        for each in asked:
            second = int(each.ended)
            self._longest[second] = max(self._longest[second], each.ended - each.began)
        for each in asked:
            verdict, why = self._verdict(each)
            self.verdicts[verdict] += 1
            self.outcomes[each.outcome] += 1
            if verdict is Verdict.OVER_REFUSED:
                self.refused[f"{each.status} {each.outcome}: {why}"] += 1
            if verdict in FINDINGS:
                kind = f"{verdict.name}: {why}{self._after(each) if verdict is Verdict.STALE else ''}"
                self.kinds[kind] += 1
                if self.kinds[kind] <= _IN_FULL:
                    self.findings.append("\n".join(self._told(each, kind)))

    def slack(self, asked: Asked) -> Slack:
        """Return how old an answer may be: what is kept was decided before the call ended that brought it.

        Who waited for that call waited no shorter than it took, so the longest wait is added.
        """
        seconds = range(int(asked.began - 2 * self.ttl) - 1, int(asked.ended) + 1)
        return Slack(self.ttl + _JITTER + max(self._longest.get(second, 0.0) for second in seconds))

    def _verdict(self, asked: Asked) -> tuple[Verdict, str]:
        foreign = list(_foreign(asked))
        if foreign:
            return Verdict.LEAK, foreign[0]
        if SPOILT.encode() in asked.body and asked.asker.marker:
            return Verdict.SPOILT, ""
        slack = self.slack(asked)
        late = Slack(slack.past, slack.past)
        answer = said(asked.question, asked.status, asked.body)
        if not answer.refused:
            if answer in self._possible(asked, slack):
                return Verdict.SAME, ""
            if is_torn(answer, self._possible(asked, slack)):
                return Verdict.TORN, ""
            may = any(not each.refused for each in self._possible(asked, slack))
            shown = "told something else" if may else "told although refused"
            if asked.question.endpoint == FACADE_LISTING and asked.asker.marker and answer == _EMPTY:
                shown = "an empty directory, perhaps made of what is no listing"
            return (Verdict.STALE if answer in self._possible(asked, late) else Verdict.LEAK), shown
        if self._may_be_refused(asked, slack):
            return Verdict.REFUSED, ""
        if answer.status in _REFUSALS and self._may_be_refused(asked, late):
            return Verdict.STALE, "still refused"
        return Verdict.OVER_REFUSED, asked.question.endpoint

    def _possible(self, asked: Asked, slack: Slack) -> set[Said]:
        own = self._states(asked.asker.name, asked.question, asked, slack)
        found = {each.said for each in own}
        model = asked.question.model
        if not self.proven or model is None or asked.question == proof(model):
            return found
        # A permission and what it is about may have been asked for at two moments, if the model is the same.
        own = self._states(asked.asker.name, proof(model), asked, slack)
        allowed = {each.said.created for each in own if each.said.status == 200}
        models = [
            each
            for each in self._states(asked.asker.reference, proof(model), asked, slack)
            if each.said.status == 200 and each.said.created in allowed
        ]
        theirs = self._states(asked.asker.reference, asked.question, asked, slack)
        return found | {
            each.said for each in theirs if any(each.overlaps(one.since, one.until) for one in models)
        }

    def _may_be_refused(self, asked: Asked, slack: Slack) -> bool:
        questions = [asked.question]
        if self.proven and asked.question.model is not None:
            questions.append(proof(asked.question.model))
        return any(
            each.said.refused
            for question in questions
            for each in self._states(asked.asker.name, question, asked, slack)
        )

    def _states(self, name: str, question: Question, asked: Asked, slack: Slack) -> list[Possible]:
        return self.histories[name, question].possible(asked.began, asked.ended, slack)

    def _after(self, asked: Asked) -> str:
        """Return the write that an answer is older than."""
        questions = [asked.question, *([proof(asked.question.model)] if asked.question.model else [])]
        written = [
            change
            for question in questions
            for change, _ in self.histories[asked.asker.name, question].later
            if change.through and change.ended < asked.began
        ]
        if not written:
            return ""
        return f", after {_NAMES.sub('/...', max(written, key=lambda change: change.ended).call)}"

    def _told(self, asked: Asked, kind: str) -> Iterator[str]:
        yield kind
        yield f"  {asked.asker.name} asked {asked.question} as {asked.target}"
        yield f"  from {asked.began:.3f} to {asked.ended:.3f}; at most {self.slack(asked).past:.3f} s old"
        yield f"  with {asked.asker.fields}"
        yield f"  answered {asked.status} ({asked.outcome}) {asked.body[:600]!r}"
        yield f"  {asked.headers}"
        questions = {
            asked.question: None,
            **({proof(asked.question.model): None} if asked.question.model else {}),
        }
        for name in {asked.asker.name: None, asked.asker.reference: None}:
            for question in questions:
                history = self.histories[name, question]
                yield f"  directly {name} got to {question.endpoint}: at first {history.first}"
                for change, answer in history.later[-_SHOWN:]:
                    how = "through" if change.through else "past"
                    when = f"{change.began:.3f}-{change.ended:.3f}"
                    yield f"    {when} {how} the proxy, {change.what}, {change.call}: {answer}"


def _foreign(asked: Asked) -> Iterator[str]:
    """Yield where an answer carries another caller's mark; a part that the proxy left out is no other's."""
    own = _MARKER.fullmatch(asked.asker.marker)
    if own is None:
        return
    places = [
        *((f"the field {name}", value) for name, value in asked.headers),
        ("the body", asked.body.decode(errors="replace")),
    ]
    for place, text in places:
        for found in _MARKER.finditer(text):
            if any(part not in {"", mine} for part, mine in zip(found.groups(), own.groups(), strict=True)):
                yield f"another's mark in {place} of a {asked.status}"
