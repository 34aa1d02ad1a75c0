"""The order in which is asked and changed, and what is told of it."""

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import aiohttp

from mlflow_proxy.serving import serving
from mlflow_proxy.settings import Settings
from tests.chaos.scene import Replica
from tests.differential.judge import FINDINGS, Asked, Asker, Judge
from tests.differential.questions import Question
from tests.differential.timeline import Change
from tests.differential.upstreams import Pair, Upstream, Write
from tests.ports import free_port

_MUCH = 10**6
_AROUND = 8
"""Requests about what is going to be changed, and after it again."""
_HOT = 4
"""Questions that are popular at a time."""
_TOGETHER = (1, 1, 2, 4, 8)
"""How many ask the same at once, if there are so many."""
_STRANGERS = 0.2
"""How often those ask whom the upstream does not know: it has nothing else to tell them."""
_ALIKE = 0.7
"""How often those who ask at once differ in their credential only."""
_OTHER_PREFIX = 0.3
"""How often it is drawn from all."""
_TOLD = 0.8
"""How often of those who ask around a change somebody else is taken than who is refused anyway."""
_AUDIT = 40
"""Changes after which every direct answer is compared with what is believed."""
_NOISE: tuple[tuple[str, str], ...] = (
    ("traceparent", "00-{:032x}-00f067aa0ba902b7-01"),
    ("X-Request-Id", "{:x}"),
    ("Cookie", "AWSALB={:x}"),
    ("X-B3-TraceId", "{:032x}"),
    ("X-Amzn-Trace-Id", "Root=1-67891233-{:024x}"),
)
"""Fields with a new value per request that say nothing about who asks."""


@dataclass(frozen=True)
class Plan:
    """``rate`` requests a second in all for ``seconds``, and a change every ``pause`` seconds.

    ``ttl`` is for how many seconds the proxy may use what it knows. ``through`` is the share of changes that
    it sees.
    """

    seconds: float
    seed: int = 1
    mode: str = "proven"
    name: str = ""
    """Which upstream it is, for people."""
    at_once: int = 64
    """Requests in the air, beyond which no more are made: an upstream that is slow is not swamped."""
    rate: float = 100.0
    pause: float = 1.0
    ttl: float = 2.0
    through: float = 0.6
    shared: bool = True
    """Whether this mode lets credentials share answers at this upstream."""
    process: bool = True
    """Whether the proxy runs as a process of its own, and not in this one."""
    until: str = ""
    """How the kind of a finding begins after which it ends; empty for none."""

    def settings(self) -> dict[str, dict[str, Any]]:
        """Return the proxy's settings."""
        kept = ("listing_ttl", "unverified_ttl", "pending_ttl", "mutable_ttl", "not_found_ttl")
        limits = ("registry_limit", "runs_search_limit", "experiments_limit", "tracking_limit")
        # Signed URLs are valid for 900 seconds and kept for as long as all the rest.
        cache = {**dict.fromkeys(kept, self.ttl), "signed_url_margin": 900 - self.ttl}
        return {
            "access": {"sharing": self.mode, "proof_ttl": self.ttl, "refusal_ttl": self.ttl},
            "cache": cache,
            "budget": dict.fromkeys(limits, _MUCH),
        }


@dataclass
class Run:
    """What goes on."""

    plan: Plan
    upstream: Upstream
    url: str
    session: aiohttp.ClientSession
    judge: Judge
    chance: Random
    answered: deque[Asked] = field(default_factory=deque)
    writes: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def target(self, question: Question) -> str:
        """Return how a question is asked: mostly under the API's first prefix."""
        other = self.chance.random() < _OTHER_PREFIX
        return question.target(self.chance.randrange(_MUCH) if other else 0, self.upstream.prefixes)

    async def ask(self, asker: Asker, question: Question, target: str) -> None:
        """Make a request through the proxy, and keep it to be judged."""
        chance = self.chance
        noise = [
            (name, value.format(chance.getrandbits(63))) for name, value in _NOISE if chance.random() < 0.1
        ]
        if chance.random() < 0.02:
            noise.append(("Cache-Control", "no-cache"))
        began = time.monotonic()
        try:
            async with self.session.request(
                question.method,
                self.url + target,
                json=question.body,
                headers=[*asker.fields, *noise],
                allow_redirects=False,
            ) as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            self.failed[repr(error)[:100]] += 1
            return
        ended, fields = time.monotonic(), tuple(response.headers.items())
        self.answered.append(Asked(asker, question, target, began, ended, response.status, fields, body))

    def spawn(self, asker: Asker, question: Question, target: str) -> None:
        """Ask without waiting for the answer."""
        task = asyncio.create_task(self.ask(asker, question, target))
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled():
            task.result()

    async def reads(self) -> None:
        """Ask for ever: popular questions more often, and by several at once."""
        hot = self.chance.sample(self.upstream.questions, _HOT)
        while True:
            if self.chance.random() < 0.01:
                hot = self.chance.sample(self.upstream.questions, _HOT)
            question = self.chance.choice(hot if self.chance.random() < 0.8 else self.upstream.questions)
            several, target = self.chance.choice(_TOGETHER), self.target(question)
            for asker in self._together(several):
                known = not self.judge.unknown(asker, question)
                if len(self.tasks) < self.plan.at_once and (known or self.chance.random() < _STRANGERS):
                    self.spawn(asker, question, target)
            await asyncio.sleep(self.chance.expovariate(1) * several / self.plan.rate)

    def _together(self, number: int) -> list[Asker]:
        """Choose who asks the same at once: mostly callers whom nothing but their credential tells apart."""
        first = self.chance.choice(self.upstream.askers)
        alike = [each for each in self.upstream.askers if each.fields[1:] == first.fields[1:]]
        others = alike if self.chance.random() < _ALIKE else self.upstream.askers
        return self.chance.sample(others, min(number, len(others)))

    async def changes(self) -> None:
        """Change things for ever, one after the other, and judge what was answered meanwhile."""
        for number in range(1, _MUCH):
            await asyncio.sleep(self.chance.uniform(0.5, 1.5) * self.plan.pause)
            write = self.upstream.draw(self.chance)
            around = [(*pair, self.target(pair[1])) for pair in self._around(write)]
            await asyncio.gather(*(self.ask(*each) for each in around))
            if number % _AUDIT == 0:
                self.judge.audit(await self.upstream.directly(self.upstream.pairs))
            change = await self._change(write)
            for each in around:
                self.spawn(*each)
            concerned = [pair for pair in self.upstream.pairs if write.concerns(pair)]
            self.judge.learn(change, await self.upstream.directly(concerned))
            self.judge_answered()

    def _around(self, write: Write) -> list[Pair]:
        """Choose who asks what before a change and after it again, mostly who is told something now."""
        concerned = [pair for pair in self.upstream.pairs if write.concerns(pair)]
        self.chance.shuffle(concerned)
        concerned.sort(key=lambda pair: self.judge.refuses(*pair) and self.chance.random() < _TOLD)
        return concerned[: min(_AROUND, self.plan.at_once)]

    async def _change(self, write: Write) -> Change:
        through = self.chance.random() < self.plan.through
        base = self.url if through else self.upstream.url
        prefix = "" if write.path.startswith("/") else self.chance.choice(self.upstream.prefixes)
        began = time.monotonic()
        async with self.session.request(
            write.method, base + prefix + write.path, json=write.body, headers=write.fields
        ) as response:
            await response.read()
        ended = time.monotonic()
        self.writes[f"{'through' if through else 'past'}: {response.status}"] += 1
        call = f"{write.method} {prefix}{write.path}"
        return Change(f"{write.what} ({response.status})", call, began, ended, through)

    def judge_answered(self) -> None:
        """Judge all that has been answered: nothing has been changed since the last answers were learnt."""
        asked = list(self.answered)
        self.answered.clear()
        self.judge.judge(asked)

    @property
    def enough(self) -> bool:
        """Whether there is nothing more to find out."""
        return bool(self.plan.until) and any(kind.startswith(self.plan.until) for kind in self.judge.kinds)


async def run(plan: Plan, upstream: Upstream, told: float = 60.0) -> Run:
    """Do it all and return what was found; prints a line every ``told`` seconds."""
    judge = Judge(plan.ttl, plan.shared)
    judge.learn(None, await upstream.directly(upstream.pairs))
    async with (
        proxy(plan, upstream.url) as url,
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(60),
        ) as session,
    ):
        going = Run(plan, upstream, url, session, judge, Random(plan.seed))
        tasks = [asyncio.create_task(going.reads()), asyncio.create_task(going.changes())]
        began = last = time.monotonic()
        try:
            while time.monotonic() < began + plan.seconds and not going.enough:
                done, _ = await asyncio.wait(tasks, timeout=0.2, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                    raise AssertionError("it goes on for ever")
                if time.monotonic() > last + told:
                    last = time.monotonic()
                    print(f"{(last - began) / 60:5.1f} min, {plan.name}: {_line(going)}", flush=True)
        finally:
            for task in [*tasks, *going.tasks]:
                task.cancel()
            await asyncio.gather(*tasks, *going.tasks, return_exceptions=True)
    return going


@asynccontextmanager
async def proxy(plan: Plan, upstream: str) -> AsyncIterator[str]:
    """Serve a proxy in front of an upstream, as a process or in this one; yields its URL.

    Raises AssertionError if it told of errors.
    """
    settings = plan.settings()
    if not plan.process:
        own: Mapping[str, Any] = {"upstream": upstream, "port": 0, "shutdown_grace": 0.01}
        async with serving(Settings.model_validate({**own, **settings})) as url:
            yield url
        return
    flags = [
        f"--{section}.{name.replace('_', '-')}={value}"
        for section, values in settings.items()
        for name, value in values.items()
    ]
    port = free_port()
    arguments = ("--upstream", upstream, "--log-format", "json", "--shutdown-grace", "1", *flags)
    replica = Replica(port, arguments)
    await replica.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await replica.stop()
        for error in replica.errors:
            print(f"the proxy said {error}")


def _line(going: Run) -> str:
    judge = going.judge
    return (
        f"{judge.verdicts.total()} answers, {len(judge.changes)} changes, "
        f"{sum(judge.verdicts[each] for each in FINDINGS)} findings, {len(judge.wrong)} faults of the oracle"
    )


def report(going: Run) -> Iterator[str]:
    """Yield lines for people."""
    judge, plan = going.judge, going.plan
    yield f"{plan}"
    yield _line(going)
    yield f"answers: {json.dumps({verdict.name: number for verdict, number in judge.verdicts.items()})}"
    yield f"by Cache-Status: {json.dumps(dict(judge.outcomes.most_common()))}"
    yield f"changes: {dict(going.writes.most_common())}; requests that failed: {dict(going.failed)}"
    yield f"refused although it was possible: {dict(judge.refused.most_common(12))}"
    yield f"longest wait: {judge.longest:.2f} s"
    yield from (f"FOUND {number} times: {kind}" for kind, number in judge.kinds.most_common())
    yield from (f"WRONG ORACLE: {each}" for each in judge.wrong[:10])
