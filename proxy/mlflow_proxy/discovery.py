"""Asking the upstream what kind of server it is, in the background, for as long as the proxy serves.

What belongs here: when it is asked, and with what call. What an answer proves is decided in
``mlflow_api.upstream_kind``.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import NoReturn

from mlflow_proxy.errors import AnswerableError, NotShareableError, TruncatedError
from mlflow_proxy.mlflow_api.messages import UpstreamRequest
from mlflow_proxy.mlflow_api.reads import OWN_FIELDS
from mlflow_proxy.mlflow_api.routes import Group
from mlflow_proxy.mlflow_api.upstream_kind import DOCUMENT, KnownUpstream, UpstreamKind, by_document
from mlflow_proxy.upstream.client import read_whole
from mlflow_proxy.upstream.decoding import decoded
from mlflow_proxy.workspace import Call, Workspace

HEAD_START = 1.0
"""Seconds that a start may be held up by the first question."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds between two questions while the upstream has no answer."""
_LEAST_LIFETIME = 60.0
"""Seconds that an answer counts for at least, whatever the settings say."""
_LARGEST = 64 * 1024
"""Bytes of the document at most; it has less than one thousand."""

_LOOK = 10.0
"""Seconds between two looks at the clock, which may leap: the event loop does not see that."""

Ask = Callable[[], Awaitable[UpstreamKind | None]]
"""Asks once; None if the answer, or its absence, proves nothing."""


async def ask(workspace: Workspace, patience: float) -> UpstreamKind | None:
    """Fetch the upstream's document without a credential, within ``patience`` seconds.

    ``Cache-Control: no-cache`` keeps an mlflow-proxy in between from answering from its store. Returns what
    the answer proves, None if it proves nothing or there is no answer.
    """
    deadline = asyncio.get_running_loop().time() + patience
    request = UpstreamRequest("GET", DOCUMENT, (*OWN_FIELDS, ("Cache-Control", "no-cache")), public=True)
    try:
        call = Call(Group.NONE, request, lambda: deadline, shared=True, probe=True)
        async with workspace.call(call) as got:
            codings = got.headers.getall("Content-Encoding", ())
            try:
                body = decoded(await read_whole(got, _LARGEST), codings, _LARGEST)
            except NotShareableError:
                body = b""  # too large, or in a coding not asked for: the document it is not
            return by_document(got.status, body)
    except (AnswerableError, TruncatedError):
        return None


@dataclass(frozen=True, slots=True)
class Discovery:
    """Keeps what is known of the upstream up to date.

    Attributes:
        known: what is to be kept up to date.
        ask: asks the upstream once.
        lifetime: seconds that an answer counts for.
        jitter: uniform in [0, 1): members of a fleet that start together do not ask together.
        changed: called when the kind has become another one.
        clock: by which answers grow old.

    """

    known: KnownUpstream
    ask: Ask
    lifetime: float
    jitter: Callable[[], float]
    changed: Callable[[], None]
    clock: Callable[[], float]

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Keep asking in the background until the context is left.

        Is entered when the upstream has answered, or has not for ``HEAD_START`` seconds: what the first
        clients of a proxy that starts together with them are served, and under which fields, depends on it.
        """
        asked = asyncio.Event()

        async def ask_once() -> UpstreamKind | None:
            try:
                return await self.ask()
            finally:
                # The start that waits for this goes on only after ``keep_asking`` has learnt what was found.
                asked.set()

        task = asyncio.create_task(replace(self, ask=ask_once).keep_asking())
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(HEAD_START):
                    await asked.wait()
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def keep_asking(self) -> NoReturn:
        """Ask at once, again with growing pauses until there is an answer, and then whenever that is old.

        An answer that finds no workspace parts all callers, and may be a gateway's while the workspace starts
        or is mended: the first counts for a minute, each further one for twice as long.
        """
        unanswered = others = 0
        lifetime = max(_LEAST_LIFETIME, self.lifetime)
        while True:
            found = await self.ask()
            if found is None:
                unanswered += 1
                longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(unanswered - 1, 30))
                await asyncio.sleep(longest * (1 + self.jitter()) / 2)
                continue
            unanswered = 0
            if self.known.learn(found):
                self.changed()
            if found.is_databricks:
                others = 0
                await _old(self.clock, lifetime)
            else:
                await _old(self.clock, min(lifetime, _LEAST_LIFETIME * 2.0 ** min(others, 30)))
                others += 1


async def _old(clock: Callable[[], float], lifetime: float) -> None:
    """Wait until an answer that came now is so old."""
    until = clock() + lifetime
    while (left := until - clock()) > 0:  # noqa: ASYNC110 - looks at what has no event
        await asyncio.sleep(min(left, _LOOK))
