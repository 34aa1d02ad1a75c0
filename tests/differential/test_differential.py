"""The differential run in short, whether it finds what is broken on purpose, and how it judges.

`python -m tests.differential` goes on for as long as one likes.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

import mlflow_proxy.access.sharing
import mlflow_proxy.reading.fetched
from mlflow_proxy.access.partition import Partitions, partitions
from mlflow_proxy.mlflow_api.caller_fields import CallerIdentity
from mlflow_proxy.reading.proven import Proven, _Verdict
from mlflow_proxy.reading.writes import Writes
from tests.differential.gateway import Gateway
from tests.differential.judge import Asked, Asker, Judge, Verdict, is_torn, marker
from tests.differential.open_source import open_source
from tests.differential.questions import Question, proof
from tests.differential.run import Plan, Run, report, run
from tests.differential.timeline import Change, History, Possible, Said, Slack

pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning"), pytest.mark.timeout(300)]

_PATIENCE = 60.0
"""Seconds until something that is broken on purpose has to have been found; it takes a few."""


def plan(mode: str, seconds: float = 5.0, until: str = "") -> Plan:
    return Plan(
        seconds,
        mode=mode,
        rate=200,
        pause=0.1,
        ttl=0.5,
        shared=mode != "credential",
        process=False,
        until=until,
    )


def nothing_found(going: Run) -> None:
    told = "\n".join([*report(going), *going.judge.findings[:3]])
    assert not going.judge.findings, told
    assert not going.judge.wrong, told
    assert not going.failed, told
    assert going.judge.verdicts[Verdict.SAME] > 10, told
    assert going.judge.changes, told


@pytest.mark.parametrize("mode", ["credential", "proven"])
async def test_a_gateway_that_tells_callers_apart_and_makes_answers_up(mode: str) -> None:
    async with Gateway(Random(1), tokens=4) as upstream:
        nothing_found(await run(plan(mode), upstream))


async def test_an_open_source_server_with_permissions(tmp_path: Path) -> None:
    short = Plan(8, at_once=8, rate=40, pause=0.1, ttl=0.5, process=False)
    async with open_source(tmp_path, Random(1), finer=False) as upstream:
        nothing_found(await run(short, upstream))
        upstream.finer = True
        nothing_found(await run(replace(short, mode="credential", shared=False), upstream))


# -- whether it can find anything --------------------------------------------------------------------------


async def _proven(*asked: object) -> _Verdict:
    """Take everything for proven, and all models for created at the same time."""
    return _Verdict(created=0)


def _ignoring(name: str) -> dict[str, object]:
    """Return functions for which a field does not tell callers apart."""

    def rest(fields: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        return tuple(field for field in fields if field[0].lower() != name)

    def ignoring(told: CallerIdentity, key: bytes, mode: str) -> Partitions:
        return partitions(CallerIdentity(rest(told.counted), told.credential, rest(told.address)), key, mode)

    return {"partitions": ignoring}


_SHARING = mlflow_proxy.access.sharing
BREAKAGES: dict[str, tuple[object, dict[str, object], str]] = {
    "no proof": (Proven, {"_verdict": _proven}, "LEAK: told although refused"),
    "one partition": (
        _SHARING,
        {"partitions": lambda told, key, mode: Partitions("same", "same", "same")},
        "LEAK: ",
    ),
    "writes unnoticed": (Writes, {"note": lambda *told: 0}, "STALE: told something else"),
    "address": (_SHARING, _ignoring("x-forwarded-for"), "LEAK: told although refused"),
    "user": (_SHARING, _ignoring("x-forwarded-user"), "LEAK: told although refused"),
    "tenant": (_SHARING, _ignoring("x-mlflow-workspace"), "LEAK: told something else"),
    "mark": (mlflow_proxy.reading.fetched, {"why_personal": lambda read, response: None}, "LEAK: "),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
async def test_what_is_broken_is_found(breakage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, broken, kind = BREAKAGES[breakage]
    for name, value in broken.items():
        monkeypatch.setattr(where, name, value)
    async with Gateway(Random(1), tokens=4, spoils=breakage == "mark") as upstream:
        going = await run(plan("proven", _PATIENCE, until=kind), upstream)
    assert any(each.startswith(kind) for each in going.judge.kinds), "\n".join(report(going))


# -- how it judges -----------------------------------------------------------------------------------------

A, B, C = Said(200, "a"), Said(200, "b"), Said(403)


def changed(at: float, *, through: bool) -> Change:
    return Change("", "", at, at + 1, through)


def possible(history: History, began: float, ended: float, slack: float = 5.0) -> set[Said]:
    return {each.said for each in history.possible(began, ended, Slack(slack))}


def test_what_nothing_changed_is_all_that_is_possible() -> None:
    assert History(A).possible(0, 1, Slack(5)) == [Possible(A, -math.inf, math.inf)]


@pytest.mark.parametrize(
    ("through", "began", "ended", "expected"),
    [
        (True, 0, 9.9, {A}),
        (True, 0, 10, {A, B}),  # it may have happened already
        (True, 11, 11, {A, B}),
        (True, 11.1, 12, {B}),
        (False, 11.1, 12, {A, B}),
        (False, 16, 17, {A, B}),
        (False, 16.1, 17, {B}),
    ],
)
def test_a_change(through: bool, began: float, ended: float, expected: set[Said]) -> None:
    history = History(A)
    history.add(changed(10, through=through), B)
    assert possible(history, began, ended) == expected


def test_what_a_later_write_changed_ends_what_was_before_it() -> None:
    history = History(A)
    history.add(changed(10, through=False), B)
    history.add(changed(12, through=True), C)
    assert possible(history, 12.5, 12.6) == {A, B, C}
    assert possible(history, 13.1, 14) == {C}


def test_a_later_write_that_made_no_difference_ends_nothing() -> None:
    history = History(A)
    history.add(changed(10, through=False), B)
    history.add(changed(12, through=True), B)
    assert possible(history, 14, 15) == {A, B}


OWN, OTHER, ROOT = (
    Asker(name, (), "root", marker(name, "", "", "")) for name in ("dapi-own", "dapi-other", "root")
)
QUESTION = Question("model-versions/get", "m", (("name", "m"), ("version", "1")))


def answered(status: int, body: bytes, *headers: tuple[str, str], at: float = 10.0) -> Asked:
    return Asked(OWN, QUESTION, "/", at, at, status, headers, body)


@pytest.fixture
def judge() -> Judge:
    """Return one that knows of a permission withdrawn past the proxy, and of a write through it."""
    judge = Judge(ttl=10, proven=True)
    model = Said(200, "{}", created=1)
    judge.learn(
        None,
        {
            (OWN.name, QUESTION): Said(200, '{"v": 1}'),
            (ROOT.name, QUESTION): Said(200, '{"v": 1}'),
            (OWN.name, proof("m")): model,
            (ROOT.name, proof("m")): model,
        },
    )
    withdrawn, written = Change("", "", 4, 5, through=False), Change("", "", 5.5, 6, through=True)
    judge.learn(withdrawn, {(OWN.name, QUESTION): Said(403), (OWN.name, proof("m")): Said(403)})
    judge.learn(written, {(ROOT.name, QUESTION): Said(200, '{"v": 2}')})
    return judge


@pytest.mark.parametrize(
    ("asked", "verdict"),
    [
        (answered(403, b"{}"), Verdict.REFUSED),
        (answered(403, b"{}", at=1), Verdict.OVER_REFUSED),
        (answered(429, b"{}", at=1), Verdict.OVER_REFUSED),
        (answered(200, b'{"v": 2}'), Verdict.SAME),  # what it is now, with a permission that still counts
        (answered(200, b'{"v": 2}', at=20), Verdict.LEAK),
        (answered(200, b'{"v": 3}'), Verdict.LEAK),
        (answered(200, b"<html>"), Verdict.LEAK),
        (answered(200, f"spoilt {OWN.marker}".encode()), Verdict.SPOILT),
        (answered(200, f"spoilt {OTHER.marker}".encode()), Verdict.LEAK),
        (answered(200, b'{"v": 2}', ("X-Token", OWN.marker)), Verdict.SAME),
        (answered(200, b'{"v": 2}', ("X-Token", marker("", "", "", ""))), Verdict.SAME),
        (answered(200, b'{"v": 2}', ("X-Token", OTHER.marker)), Verdict.LEAK),
        (answered(403, b"{}", ("X-Token", OTHER.marker)), Verdict.LEAK),
    ],
)
def test_a_verdict(judge: Judge, asked: Asked, verdict: Verdict) -> None:
    judge.judge([asked])
    assert judge.verdicts == {verdict: 1}, judge.findings


def test_what_was_there_before_a_write_through_the_proxy_is_stale(judge: Judge) -> None:
    judge.learn(Change("", "", 7, 8, through=True), {(OWN.name, QUESTION): Said(200, '{"v": 4}')})
    judge.judge([answered(200, b'{"v": 1}', at=9)])
    assert judge.verdicts == {Verdict.STALE: 1}
    assert "STALE" in judge.findings[0]


def model(**members: object) -> Said:
    return Said(200, json.dumps({"registered_model": members}, sort_keys=True))


@pytest.mark.parametrize(
    ("answer", "possible", "torn"),
    [
        (
            model(name="m", tags=[1]),
            [model(name="m", tags=[1], aliases=[2]), model(name="m", aliases=[2])],
            True,
        ),
        (model(name="m"), [model(name="m", aliases=[2]), Said(404)], True),
        (
            model(name="m", tags=[1], aliases=[3]),
            [model(name="m", tags=[1]), model(name="m", aliases=[3])],
            True,
        ),
        (model(name="m", tags=[9]), [model(name="m", tags=[1]), model(name="m")], False),
        (model(name="m"), [model(name="m", aliases=[2])], False),
        (model(name="m"), [Said(403), Said(404)], False),
        (model(), [model(name="m"), Said(404)], False),
        (Said(200, "[]"), [Said(200, "{}"), Said(404)], False),
    ],
)
def test_what_the_upstream_put_together_while_it_changed(
    answer: Said, possible: list[Said], torn: bool
) -> None:
    assert is_torn(answer, possible) is torn
