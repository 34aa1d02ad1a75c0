"""Questions that look alike must not get each other's answers."""

import json

import pytest

from tests.integration.poisoning import (
    CREDENTIAL,
    JSON,
    MODES,
    PROVEN,
    SERVICE,
    Access,
    Mode,
    Question,
    ask,
    content,
    got,
    outcome,
    posted,
    reflect,
    send,
    serving,
)
from tests.integration.support import API, CONFIG, LATEST, Head, Upstream

DIFFERENT = [
    (got("name=m&version=1"), got("name=M&version=1")),
    (got("name=m&version=1"), got("name=m&version=01")),
    (got("name=m&version=1"), got("name=m%20&version=1")),
    (got("name=m&version=1"), got("name=m%00&version=1")),
    (got("name=m&version=1"), got("name=m&version=1&Name=n")),
    (got("name=m&version=1"), got("name=m&version=1&x=")),
    (got("name=m&version=1"), got("name=m%26version%3D1")),
    (got("name=a+b&version=1"), got("name=a%2Bb&version=1")),
    (got("name=a%2Fb&version=1"), got("name=a%252Fb&version=1")),
    (got("name=%C3%A9&version=1"), got("name=e%CC%81&version=1")),
    (got("name=m&version=1&path=a"), got("name=m&version=1&path=/a")),
    (got("name=m&version=1&path=a"), got("name=m&version=1&path=a%00")),
    (got("name=m&version=1"), got("name=m&version=1&page_token=t")),
    (got("name=m&version=1"), got("name=m&version=1", "model-versions/get")),
    (got("name=m", LATEST), posted('{"name": "m"}')),
    (got('json:name="m"', LATEST), posted('{"name": "m"}')),
    (got("json%3Aname=%22m%22", LATEST), posted('{"name": "m"}')),
    (got("name=m"), got("name=m", prefix="/ajax-api/2.0/mlflow/")),
    (got("name=m"), got("name=m", prefix="/api/2.0/preview/mlflow/")),
    (posted('{"name": "m"}'), posted('{"name": ["m"]}')),
    (posted('{"name": "1"}'), posted('{"name": 1}')),
    (posted('{"name": null}'), posted('{"name": "null"}')),
    (posted('{"name": true}'), posted('{"name": "true"}')),
    (posted('{"name": "m"}'), posted('{"name": "m", "stages": []}')),
    (posted('{"name": "m", "stages": ["a", "b"]}'), posted('{"name": "m", "stages": ["b", "a"]}')),
    (posted('{"name": "m", "stages": ["a,b"]}'), posted('{"name": "m", "stages": ["a", "b"]}')),
    (posted('{"name": "m"}'), posted('{"Name": "m"}')),
]


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
@pytest.mark.parametrize("mode", [CREDENTIAL, SERVICE], ids=lambda mode: mode.name)
async def test_questions_that_differ_have_answers_of_their_own(
    upstream: Upstream, access: Access, mode: Mode, first: Question, second: Question
) -> None:
    upstream.respond = reflect
    for one, other in ((first, second), (second, first)):
        async with serving(upstream, access(mode)) as url:
            alone = await ask(url, other, mode.victim)
        async with serving(upstream, access(mode)) as url:
            attack = await ask(url, one, mode.attacker)
            after = await ask(url, other, mode.victim)
        assert content(after) == content(alone)
        assert content(after) != content(attack)


ALIKE = [
    (got("name=m&version=1"), got("version=1&name=m")),
    (got("name=m&version=1"), got("%6e%61me=%6D&version=%31")),
    (got("name=a+b&version=1"), got("name=a%20b&version=1")),
    (got("name=m&version=1&path=a/b"), got("name=m&version=1&path=a%2fb%2F")),
    (got("name=m&version=1"), got("name=m&version=1&path=&page_token=")),
    (got("name=~'!()*&version=1"), got("name=%7e%27%21%28%29%2a&version=1")),
    (posted('{"name": "m\u00fc", "stages": []}'), posted('{ "stages":[],\n"n\\u0061me": "m\\u00fc" }')),
]


@pytest.mark.parametrize(("first", "second"), ALIKE)
@pytest.mark.parametrize("mode", [CREDENTIAL, SERVICE], ids=lambda mode: mode.name)
async def test_spellings_of_one_question_are_asked_in_one(
    upstream: Upstream, access: Access, mode: Mode, first: Question, second: Question
) -> None:
    upstream.respond = reflect
    asked: set[bytes] = set()
    for one, other in ((first, second), (second, first)):
        async with serving(upstream, access(mode)) as url:
            replies = [await ask(url, one, mode.attacker), await ask(url, other, mode.victim)]
        assert outcome(replies[1]) == "hit"
        asked.update(reply.body for reply in replies)
    assert len(asked) == 1


DOUBTFUL = [
    got("name=m&name=n"),
    got("name=m&%6eame=n"),
    got("name=m;version=1"),
    got("name=m&&version=1"),
    got("name=m&version"),
    got("=m"),
    got("name=%zz"),
    got("name=%ff"),
    got("name=m&_method=DELETE"),
    (f"{CONFIG}?x=1", b""),
    posted('{"name": "m", "name": "n"}'),
    posted('{"name": "m", "\\u006eame": "n"}'),
    posted('{"name": NaN}'),
    posted('{"name": 1e999}'),
    posted('{"name": 1.0}'),
    posted('{"name": 9007199254740993}'),
    posted('{"name": "\\ud800"}'),
    posted(b'\xef\xbb\xbf{"name": "m"}'),
    posted('{"name": "m"}'.encode("utf-16")),
    posted(b'{"name": "\xff"}'),
    posted('{"name": ' + "[" * 3000 + "]" * 3000 + "}"),
]


@pytest.mark.parametrize("question", DOUBTFUL, ids=repr)
@pytest.mark.parametrize("mode", [CREDENTIAL, PROVEN, SERVICE], ids=lambda mode: mode.name)
async def test_what_can_be_read_in_two_ways_is_asked_by_each(
    upstream: Upstream, access: Access, mode: Mode, question: Question
) -> None:
    upstream.respond = reflect
    target, body = question
    async with serving(upstream, access(mode)) as url:
        for who in (mode.attacker, mode.victim):
            assert outcome(await ask(url, question, who)) == "fwd=bypass"
    assert [(call.target, call.received) for call in upstream.seen] == [(target, body)] * 2


@pytest.mark.parametrize(
    ("method", "fields", "body"),
    [
        ("GET", [], b"{}"),
        ("GET", [JSON], b'{"name": "n"}'),
        ("GET", [("Content-Encoding", "gzip")], b"x"),
        ("POST", [JSON, ("Content-Encoding", "gzip")], b'{"name": "m"}'),
        ("POST", [("Content-Type", "text/plain")], b'{"name": "m"}'),
        ("POST", [("Content-Type", "application/json; charset=utf-7")], b'{"name": "m"}'),
    ],
)
@pytest.mark.parametrize("mode", MODES)
async def test_a_body_that_is_not_in_the_key_is_not_in_a_shared_call(
    upstream: Upstream, access: Access, mode: Mode, method: str, fields: Head, body: bytes
) -> None:
    upstream.respond = reflect
    target = mode.target if method == "GET" else f"{API}{LATEST}"
    who = mode.attacker
    async with serving(upstream, access(mode)) as url:
        attack = await send(url, target, [*who, *fields], body, method=method)
        assert (attack.status, outcome(attack)) == (200, "fwd=bypass")
        if method == "GET":
            assert json.loads((await send(url, target, mode.victim)).body)["body"] == ""
