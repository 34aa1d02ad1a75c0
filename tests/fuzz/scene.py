"""What inputs go through: a proxy of each mode, a strict workspace, and ears for what goes wrong."""

import asyncio
import gc
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog
from structlog.typing import EventDict, WrappedLogger

from mlflow_proxy.settings import AccessSettings, BudgetSettings, CacheSettings, ConnectionSettings
from tests.fuzz.expected import PRINCIPAL
from tests.fuzz.grammar import MODES
from tests.fuzz.http1 import DoubtfulError, IncompleteError, Message, take_response
from tests.fuzz.upstream import UPSTREAM, Recorder, stored, workspace
from tests.integration.support import proxied

_MUCH = 10**6
PATIENCE = 30.0
"""Seconds until something that has to come counts as missing."""
GRACE = 0.15
"""Seconds in which a proxy may make up its mind about bytes that say nothing clear. What it does later is
seen as well, since then the connection is closed from this side and read to its end."""


@dataclass
class Ears:
    """Hears what the proxy, asyncio and aiohttp say when something went wrong."""

    heard: list[str] = field(default_factory=list)

    def taken(self) -> list[str]:
        """Return what was heard since the last time."""
        heard, self.heard = self.heard, []
        return heard

    def structured(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        if method in {"error", "exception", "critical"}:
            self.heard.append(structlog.processors.format_exc_info(logger, method, event).__repr__())
        raise structlog.DropEvent

    def of_loop(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.heard.append(f"event loop: {context.get('message')} {context.get('exception')!r}")


class _Handler(logging.Handler):
    def __init__(self, ears: Ears) -> None:
        super().__init__(logging.WARNING)
        self._ears = ears

    def emit(self, record: logging.LogRecord) -> None:
        self._ears.heard.append(f"{record.name}: {self.format(record)}")


@contextmanager
def listening() -> Iterator[Ears]:
    """Hear everything until the context is left. Must be entered in the event loop."""
    ears, before, loop = Ears(), structlog.get_config(), asyncio.get_running_loop()
    handler, root, handled = _Handler(ears), logging.getLogger(), loop.get_exception_handler()
    structlog.configure(processors=[ears.structured])
    root.addHandler(handler)
    loop.set_exception_handler(ears.of_loop)
    try:
        yield ears
    finally:
        # What nobody retrieved is told when it is collected.
        gc.collect()
        loop.set_exception_handler(handled)
        root.removeHandler(handler)
        structlog.configure(**before)


@dataclass
class Scene:
    """The proxies' URLs and the workspaces behind them, by mode, and the one storage."""

    urls: dict[str, str]
    workspaces: dict[str, Recorder]
    storage: Recorder
    ears: Ears

    def forget(self) -> None:
        """Begin a new batch."""
        for each in (*self.workspaces.values(), self.storage):
            each.forget()
        self.ears.taken()

    async def quiet(self) -> str:
        """Wait until nothing is under way; returns what still is when patience is over."""
        for mode, url in self.urls.items():
            ends = asyncio.get_running_loop().time() + PATIENCE
            while (left := await _under_way(url)) != (0, 0):
                await asyncio.sleep(0.01)
                if asyncio.get_running_loop().time() > ends:
                    return f"{mode}: {left[0]} flights and {left[1]} requests do not end"
        return ""


async def _under_way(url: str) -> tuple[int, int]:
    answer = await ask(url, "/-/status.json")
    status = json.loads(answer.body)
    return status["flights"], status["requests"]


@asynccontextmanager
async def scene(directory: Path) -> AsyncIterator[Scene]:
    """Start everything; ``directory`` takes a file with a token."""
    token = directory / "token"
    token.write_bytes(PRINCIPAL.removeprefix(b"Bearer "))
    budget = BudgetSettings(
        registry_limit=_MUCH,
        runs_search_limit=_MUCH,
        experiments_limit=_MUCH,
        log_batch_limit=_MUCH,
        tracking_limit=_MUCH,
    )
    telling = ConnectionSettings(forwarded_fields="always")
    cache = CacheSettings.model_validate({"max_bytes": 2**20, "max_entry_bytes": 2**18})
    async with AsyncExitStack() as stack:
        ears = stack.enter_context(listening())
        storage = await stack.enter_async_context(Recorder(stored, 'ETag: "storage"'))
        workspaces, urls = {}, {}
        for mode in MODES:
            answer = workspace(lambda: storage.url, echo=mode != "proven")
            there = await stack.enter_async_context(Recorder(answer, f"{UPSTREAM}: 1"))
            access = AccessSettings.model_validate(
                {"sharing": mode, **({"token_file": str(token)} if mode == "service" else {})}
            )
            urls[mode] = await stack.enter_async_context(
                proxied(there.url, cache=cache, budget=budget, access=access, connections=telling)
            )
            workspaces[mode] = there
        yield Scene(urls, workspaces, storage, ears)


@dataclass
class Conversation:
    """What came back over one connection, in order."""

    answers: list[Message] = field(default_factory=list)
    wrong: str = ""
    """What is no HTTP about it."""
    left: bytes = b""
    """What came after the last whole answer."""
    closed: bool = False
    """The proxy closed in order."""
    broken: bool = False
    """It was reset."""
    given_up: bool = False
    """The sender closed its side first."""
    silent: bool = False
    """Something should have come that did not."""


async def converse(
    url: str, pieces: list[bytes], methods: list[bytes], *, expected: int, sure: bool
) -> Conversation:
    """Send the pieces, read until so many answers have come, then close this side and read to the end.

    With ``sure`` they have to come; without, there is nothing to wait for beyond a grace. ``methods`` are
    those of the requests, as far as they are known.
    """
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    said = Conversation()
    try:
        with suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0)
        try:
            async with asyncio.timeout(PATIENCE if sure else GRACE):
                while len(said.answers) < expected and await _read(reader, said, methods):
                    if said.answers and said.answers[-1].last:
                        break
        except TimeoutError:
            said.silent = sure
        if not said.closed and not said.broken:
            said.given_up = True
            with suppress(OSError):
                writer.write_eof()
            try:
                async with asyncio.timeout(PATIENCE):
                    while await _read(reader, said, methods):
                        pass
            except TimeoutError:
                said.silent = True
    finally:
        writer.transport.abort()
    return said


async def _read(reader: asyncio.StreamReader, said: Conversation, methods: list[bytes]) -> bool:
    """Take in what comes next; returns whether more may."""
    try:
        data = await reader.read(1 << 16)
    except ConnectionError:
        said.broken = True
        return False
    said.closed = not data
    said.left += data
    while said.left and not said.wrong:
        method = methods[len(said.answers)] if len(said.answers) < len(methods) else b"GET"
        try:
            answer, said.left = take_response(said.left, method, closed=said.closed)
        except IncompleteError:
            break
        except DoubtfulError as error:
            said.wrong = error.reason
            break
        if answer.status >= 200:
            said.answers.append(answer)
    return not said.closed and not said.wrong


async def ask(url: str, target: str, credential: bytes = b"") -> Message:
    """Make one plain request over a connection of its own."""
    shown = b"Authorization: %b\r\n" % credential if credential else b""
    head = b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n%b\r\n" % (target.encode(), shown)
    said = await converse(url, [head], [b"GET"], expected=1, sure=True)
    if len(said.answers) != 1 or said.wrong:
        raise ConnectionError(f"{target} was not answered: {said}")
    return said.answers[0]
