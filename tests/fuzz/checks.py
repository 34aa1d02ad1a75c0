"""What has to hold for whatever is sent: of each conversation by itself, and of a batch together."""

import asyncio
import json
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tests.fuzz import expected
from tests.fuzz.expected import PRINCIPAL, Allowed, allowed, end_to_end, shown, told
from tests.fuzz.grammar import Wire
from tests.fuzz.http1 import Message, Reading, read_requests
from tests.fuzz.scene import Conversation, Scene, ask, converse
from tests.fuzz.upstream import BROKEN, CANARY, TREASURE, UPSTREAM, body_meaning, digest, meaning

_READS = 3
"""A read may be asked twice more, when a stored answer or another's refusal proved nothing."""
_CANARY = f"/api/2.0/mlflow/registered-models/get?name={CANARY}"
_CANARY_CREDENTIAL = b"Bearer may-canary"
_PREFIXES = ("/api/2.0/preview/mlflow/", "/ajax-api/2.0/mlflow/")
_MAY = "may"
_TRUNCATED = "a truncated body looks complete"
_OWN = (
    ("accept-encoding", "gzip, deflate"),
    ("cache-control", "no-cache"),
    ("content-type", "application/json"),
)
"""Fields of a call that others may share; its User-Agent is the proxy's too."""
_EXCEPTION = re.compile(r"\b([A-Za-z_]+(?:Error|Exception))\b")
_OF_THE_PARSER = "aiohttp.http_exceptions."


@dataclass(frozen=True)
class Finding:
    """Something that must not be: which check says so, what it saw, and the input if it is one."""

    check: str
    detail: str
    wire: Wire | None = None


@dataclass
class Plan:
    """Which doubts are not sent and which checks are not made, because the proxy is known to fail them."""

    relaxed: frozenset[str] = frozenset()
    sent: int = 0
    skipped: int = 0
    reached: int = 0
    """Requests that arrived at a workspace."""
    findings: list[Finding] = field(default_factory=list)


async def batch(scene: Scene, wires: Sequence[Wire], plan: Plan) -> list[Finding]:
    """Send all at once and check everything; returns what was found."""
    scene.forget()
    sent: list[tuple[Wire, Reading]] = []
    for wire in wires:
        reading = read_requests(wire.data)
        if reading.doubt in plan.relaxed:
            plan.skipped += 1
        else:
            sent.append((wire, reading))
    plan.sent += len(sent)
    conversations = await asyncio.gather(*(_one(scene, wire, reading) for wire, reading in sent))
    found = [
        Finding(check, detail, wire)
        for (wire, reading), said in zip(sent, conversations, strict=True)
        for check, detail in about_answers(wire, reading, said)
    ]
    if restless := await scene.quiet():
        found.append(Finding("something does not end", restless))
    found += [
        Finding(check, detail, sent[0][0] if len(sent) == 1 else None)
        for check, detail in [*_about_arrivals(scene, sent), *_about_storage(scene), *_heard(scene)]
    ]
    plan.reached += sum(len(each.requests) for each in scene.workspaces.values())
    found += [Finding(check, detail) async for check, detail in _canaries(scene)]
    return [each for each in found if each.check not in plan.relaxed]


async def _one(scene: Scene, wire: Wire, reading: Reading) -> Conversation:
    requests = reading.requests
    methods = [request.method for request in requests]
    if reading.head is not None:
        methods.append(reading.head.method)
    return await converse(
        scene.urls[wire.mode],
        wire.pieces(),
        methods,
        expected=len(requests) + bool(reading.doubt),
        sure=not reading.doubt,
    )


# -- what comes back ---------------------------------------------------------------------------------------


def about_answers(wire: Wire, reading: Reading, said: Conversation) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the answers to one input."""
    if said.wrong:
        yield "an answer is no perfect HTTP", f"{said.wrong}: {said.left[:200]!r}"
        return
    most = len(reading.requests) + bool(reading.doubt or reading.incomplete)
    if len(said.answers) > most:
        yield "more answers than requests", f"{len(said.answers)} to {most}; {reading.doubt}"
    if said.silent:
        yield "no answer", f"{len(said.answers)} of {len(reading.requests)} came; {reading.doubt}"
    short = len(said.answers) < len(reading.requests) and not any(answer.last for answer in said.answers)
    if short and said.closed and not said.given_up:
        yield "closed without an answer", f"{len(said.answers)} of {len(reading.requests)} came"
    if said.left and said.closed and not said.given_up:
        yield "an answer breaks off in order", repr(said.left[:200])
    if b"HTTP/1.0" not in wire.data and any(answer.first[0] != b"HTTP/1.1" for answer in said.answers):
        # RFC 9110 section 2.5: the version is the sender's own.
        yield "an answer in HTTP/1.0", repr(said.answers[-1])
    for request, answer in zip(reading.requests, said.answers, strict=False):
        yield from _about_answer(request, answer, wire.mode)
    for answer in said.answers[len(reading.requests) :]:
        if answer.status < 400 and reading.head is None:
            yield f"doubt is answered: {reading.doubt}", f"{answer.status} {answer.body[:80]!r}"
        yield from _own_error(answer, b"GET" if reading.head is None else reading.head.method)


def _about_answer(request: Message, answer: Message, mode: str) -> Iterator[tuple[str, str]]:
    if request.method == b"HEAD" or answer.status in {204, 304}:
        return
    if not answer.all(UPSTREAM.lower().encode()):
        yield from _own_error(answer, request.method)
        yield from _about_files(request, answer, mode)
        return
    if BROKEN.encode() in request.target:
        yield _TRUNCATED, repr(answer)
        return
    try:
        said = json.loads(answer.body)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        yield "a body is not what the workspace said", repr(answer.body[:200])
        return
    if "asked" not in said:
        return  # one of its errors
    yield from _about_whose(request, said, mode, answer.body)
    if _canonical(*said["asked"]) != _canonical(*meaning(request.target)):
        yield "the answer to another question", f"{request.target!r} got {answer.body[:300]!r}"
    if request.body and request.method == b"POST" and said.get("body") != body_meaning(request.body):
        yield "the answer to another body", f"{request.body[:80]!r} got {answer.body[:300]!r}"
    if said["method"].encode() != request.method:
        yield "the answer to another method", f"{request.method!r} got {answer.body[:300]!r}"


def _about_whose(
    request: Message, said: dict[str, object], mode: str, body: bytes
) -> Iterator[tuple[str, str]]:
    own = " ".join(value for values in shown(request) for value in values).strip()
    shows = said.get("shown")
    if isinstance(shows, str):
        shows = expected.spaced(expected.text(shows.encode("latin-1")))
    mine = {PRINCIPAL.decode()} if mode == "service" else {expected.spaced(own)}
    if "/.well-known/" in str(said["asked"]):
        mine.add("")
    if shows is not None and shows not in mine:
        yield "an answer under another credential", f"{own!r} got {body[:300]!r}"
    if TREASURE.encode() in body and mode != "service" and _MAY not in own:
        yield "a secret for who may not see it", f"{own!r} got {body[:300]!r}"


def _canonical(path: str, asked: Iterable[Sequence[str]]) -> object:
    for prefix in _PREFIXES:
        if path.startswith(prefix):
            path = "/api/2.0/mlflow/" + path.removeprefix(prefix)
    return path, expected.canonical(path, [(name, value) for name, value in asked])


def _own_error(answer: Message, method: bytes) -> Iterator[tuple[str, str]]:
    if answer.status < 400 or method == b"HEAD" or answer.all(UPSTREAM.lower().encode()):
        return
    try:
        said = json.loads(answer.body)
    except ValueError:
        said = None
    told = isinstance(said, dict) and said.get("error_code") and said.get("message")
    if answer.status == 500:
        yield "the proxy failed", repr(answer.body[:200])
    elif not told or answer.all(b"content-type") != (b"application/json",):
        yield "an error is not the API's JSON", f"{answer.status} {answer.body[:120]!r}"


def _about_files(request: Message, answer: Message, mode: str) -> Iterator[tuple[str, str]]:
    if answer.status >= 400 or request.target.startswith(b"/-/"):
        return
    file = allowed(request, mode).file
    if file is None or request.method != b"GET":
        yield "a success of the proxy's own", f"{answer.status} {answer.body[:200]!r}"
    elif answer.all(b"etag"):
        if BROKEN in file[2]:
            yield _TRUNCATED, repr(answer)
        elif answer.body != digest(*file).encode():
            yield "another file", f"{file} got {answer.body[:200]!r}"
    elif f'"{digest(*file)}"'.encode() not in answer.body:
        yield "the listing of another directory", f"{file} got {answer.body[:200]!r}"


# -- what arrives ------------------------------------------------------------------------------------------


def _about_arrivals(scene: Scene, sent: Sequence[tuple[Wire, Reading]]) -> Iterator[tuple[str, str]]:
    for mode, workspace in scene.workspaces.items():
        for reason, data in workspace.violations:
            yield f"the workspace got what is no perfect request: {reason}", f"{mode}: {data[-300:]!r}"
        readings = [reading for wire, reading in sent if wire.mode == mode]
        yield from _unexplained(mode, workspace.requests, readings, workspace.url)
        heads = {_head(r) for reading in readings for r in [*reading.requests, reading.head] if r is not None}
        if mode == "service":
            heads = {(method, target) for method, target, _ in heads}  # type: ignore[misc]
        for begun in workspace.begun:
            seen = _head(begun)
            if (seen[:2] if mode == "service" else seen) not in heads and not _is_asked(
                begun, mode, readings
            ):
                yield "a request nobody made was begun", f"{mode}: {begun}"


def _head(request: Message) -> tuple[bytes, bytes, expected.Shown]:
    return request.method, request.target.removesuffix(b"?"), shown(request)


def _is_asked(request: Message, mode: str, readings: Sequence[Reading]) -> bool:
    path, asked = meaning(request.target)
    question = expected.question(request, shown(request))[:3]
    may = [allowed(each, mode) for reading in readings for each in [*reading.requests, reading.head] if each]
    return any(
        (path, asked, shown(request)) in each.lookups
        # What was begun has no body yet.
        or (each.question is not None and each.question[:3] == question)
        for each in may
    )


def _unexplained(
    mode: str, arrived: Sequence[Message], readings: Sequence[Reading], url: str
) -> Iterator[tuple[str, str]]:
    together, passed = Allowed(), Counter[expected.Passed]()
    questions = Counter[expected.Question]()
    fields: dict[object, list[list[tuple[str, str]]]] = defaultdict(list)
    for request in (request for reading in readings for request in reading.requests):
        one = allowed(request, mode)
        together.lookups |= one.lookups
        for each in one.passed:
            passed[each] += _READS if one.lookups else 1
            fields[each].append(told(request))
        if one.question is not None:
            questions[one.question] += _READS
            fields[one.question].append(told(request))
    # The façade, and answers from the cache, need no more than a head.
    heads = [reading.head for reading in readings if reading.head is not None]
    together.lookups |= {lookup for head in heads for lookup in allowed(head, mode).lookups}
    for request in arrived:
        key = expected.passed(request)
        path, asked = meaning(request.target)
        lookup = request.method == b"GET" and (path, asked, shown(request)) in together.lookups
        if request.all(b"host") != (url.removeprefix("http://").encode(),):
            yield "another Host", f"{mode}: {request}"
        if expected.of_one_connection(request):
            yield "a field that belongs to one connection goes further", f"{mode}: {request}"
        question = expected.question(request, shown(request))
        if passed[key] > 0:
            passed[key] -= 1
            sent_with = fields[key]
        elif questions[question] > 0:
            questions[question] -= 1
            sent_with = fields[question]
        else:
            if not lookup:
                yield "a request nobody made", f"{mode}: {request}"
            continue
        if mode != "service" and not lookup and not _alike(request, sent_with):
            yield "fields are not what was sent", f"{mode}: {end_to_end(request)} of {sent_with}"


def _alike(request: Message, candidates: Sequence[list[tuple[str, str]]]) -> bool:
    arrived = end_to_end(request)
    if arrived in candidates:
        return True
    # What is shared is asked with fields of the proxy's own, beside those that say who asks.
    shared = ("/mlflow/", "/.well-known/")
    if not any(part in request.target.decode("latin-1") for part in shared):
        return False
    kept = [pair for pair in arrived if pair not in _OWN and not pair[1].startswith("mlflow-proxy/")]
    return any(all(pair in _spaced(candidate) for pair in _spaced(kept)) for candidate in candidates)


def _spaced(fields: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, expected.spaced(value) if name == "cookie" else value) for name, value in fields]


def _about_storage(scene: Scene) -> Iterator[tuple[str, str]]:
    for reason, data in scene.storage.violations:
        yield f"storage got what is no perfect request: {reason}", repr(data[-300:])
    for request in [*scene.storage.requests, *scene.storage.begun]:
        if shown(request) != ((), ()) or request.all(b"authorization") or request.all(b"cookie"):
            yield "storage got a credential", repr(request)
        path, _, query = request.target.partition(b"?")
        name = path.split(b"/")[1]
        if not query.endswith(b"X-Amz-Signature=" + digest(name.decode("latin-1")).encode()):
            yield "storage was asked for what nobody signed", repr(request)
        if request.all(b"x-amz-signed") != (name,):
            yield "storage did not get what was signed", repr(request)


def _heard(scene: Scene) -> Iterator[tuple[str, str]]:
    for line in scene.ears.taken():
        if _OF_THE_PARSER in line:
            yield "logged: the parser's error", line[-3000:]
            continue
        kind = _EXCEPTION.findall(line)
        yield f"logged: {kind[-1] if kind else line[:40]}", line[-3000:]


# -- whether all is well afterwards -------------------------------------------------------------------------


async def _canaries(scene: Scene) -> AsyncIterator[tuple[str, str]]:
    for mode, url in scene.urls.items():
        try:
            answer = await ask(url, _CANARY, _CANARY_CREDENTIAL)
            said = json.loads(answer.body)
            own = PRINCIPAL if mode == "service" else _CANARY_CREDENTIAL
            right = (
                answer.status == 200
                and _canonical(*said["asked"]) == _canonical(*meaning(_CANARY.encode()))
                and said["shown"] == own.decode()
            )
            if not right:
                yield "the canary is ill", f"{mode}: {answer}"
            if (await ask(url, "/-/healthz")).status != 200:
                yield "the proxy is not healthy", mode
        except (ConnectionError, ValueError, KeyError) as error:
            yield "the canary is dead", f"{mode}: {error!r}"
