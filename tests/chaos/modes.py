"""Who may be served what under each `access.sharing`, and what changes about it meanwhile.

What belongs here: the clients' and the proxies' credentials, the changes of permissions, clients and tokens,
and the judgement of every answer and of every call that arrived. Times are in monotonic seconds.
"""

import asyncio
import hashlib
import itertools
import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

from mlflow_proxy.demo.journal import Arrival
from mlflow_proxy.demo.workspace import DISCOVERY, EmulatedWorkspace
from tests.integration.support import raw

Sharing = Literal["credential", "proven", "service"]

TEAMS = ("red", "green", "blue")
EVERYONE = "everyone"
SECRET = "dapi-"
"""Begins every credential here, and nothing else."""
SHUT_OUT = "it was shut out meanwhile"
_FACADE = "/api/2.0/mlflow-artifacts/artifacts"
_LOOKS = 2.0
"""Seconds after which a proxy believes a file that was replaced: one, and another if it was replaced before
within that time, since two files may take turns at one inode and look like one that is being written."""
_SETTLED = 10.0
"""Seconds after something was given back in which a refusal may still be on its way: for excuses only."""
_TRIES = 5
"""How often somebody tries what has been taken away, each time that he comes round."""
_PATIENCE = 60.0
"""Seconds for which a change waits to be noticed by somebody, while the workspace is down or slow."""


def token(team: str, number: int = 0) -> str:
    """Return a credential of a team: each has several."""
    return f"{SECRET}{team}-{number}"


@dataclass
class Span:
    """How long something was not allowed."""

    began: float
    ended: float = math.inf


@dataclass(frozen=True)
class Asked:
    """One request to a proxy, and what it was answered."""

    token: str
    target: str
    began: float
    ended: float
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def model(self) -> str:
        """The model that it is about."""
        parts = urlsplit(self.target)
        asked = parse_qs(parts.query)
        path = (
            asked.get("path", [""])[0] if parts.path == _FACADE else unquote(parts.path).removeprefix(_FACADE)
        )
        if parts.path.startswith(_FACADE):
            return path.strip("/").split("/")[1]
        return asked.get("name", [""])[0]


class Mode:
    """`credential`: each is served what was fetched with its own, and nothing changes."""

    sharing: Sharing = "credential"
    refusal = 403
    shuts_out = False
    """Whether clients lose meanwhile what they may read."""
    grace = 0.0
    """Seconds for which what was taken away may go on."""

    def __init__(self, directory: Path, credentials: int, *, hurry: bool = False) -> None:
        self.tokens = {team: [token(team, number) for number in range(credentials)] for team in TEAMS}
        self.directory = directory
        self.hurry = hurry
        self.spans: defaultdict[tuple[str, str], list[Span]] = defaultdict(list)
        self.changes: Counter[str] = Counter()
        self.served: set[tuple[str, str]] = set()
        """Who was answered about which model since he was allowed to."""
        self.judged: Counter[str] = Counter()
        """What was said to those who were not allowed, nor had been for longer than the grace."""

    def options(self) -> tuple[str, ...]:
        """Return the proxies' options."""
        return ("--access.sharing", self.sharing)

    def readers(self, team: str) -> frozenset[str] | None:
        """Return the credentials that may read a team's model; None for all that the workspace knows."""
        return frozenset(self.tokens[team])

    def known(self) -> frozenset[str] | None:
        """Return the credentials that the workspace knows at first, None for any."""
        return None

    async def change(self, workspace: EmulatedWorkspace, url: str) -> None:
        """Change things until cancelled."""
        await asyncio.Event().wait()

    def tries(self, team: str, own: str, chance: random.Random) -> Iterator[tuple[str, str]]:
        """Yield credentials and the models that they are to try although they may not."""
        yield own, chance.choice([each for each in TEAMS if each != team])

    def may(self, asked: Asked) -> bool:
        """Whether a request may have been answered, for all that is known of when it was decided."""
        if asked.model != EVERYONE and asked.token not in self.tokens.get(asked.model, ()):
            return False
        return not self._shut_out(asked.token, asked.model, asked.began, asked.ended)

    def complaint(self, asked: Asked) -> str:
        """Say what is wrong about an answer, nothing if it is right."""
        if SECRET in repr((asked.headers, asked.body)):
            return f"a credential in the answer to {asked.token} for {asked.target}"
        if self.may(asked):
            if asked.status == 200:
                self.served |= {(asked.token, asked.model), (asked.token, "")}
            return ""
        if self._shut_out(asked.token, asked.model, asked.began, asked.ended):
            self.judged[str(asked.status)] += 1
        return self._complaint(asked)

    def _complaint(self, asked: Asked) -> str:
        if asked.status >= 400:
            return ""
        return f"{asked.token} asked for {asked.target}: {asked.status} {asked.body[:100]!r}"

    def excuse(self, client: str, began: float, ended: float) -> str:
        """Say what explains that a client failed, nothing if nothing does."""
        for (each, _), spans in self.spans.items():
            if each == client and any(s.began <= ended and began <= s.ended + _SETTLED for s in spans):
                return SHUT_OUT
        return ""

    def sent(self, arrival: Arrival, *, storage: bool) -> str:
        """Say what is wrong about a call that a proxy made, nothing if it is right."""
        rest = [item for item in arrival.headers.items() if item[0].lower() != "authorization"]
        if SECRET in repr((rest, arrival.target)) or (storage and len(rest) < len(arrival.headers)):
            return f"{'storage' if storage else 'the workspace'} got {arrival.target} {arrival.headers!r}"
        return "" if storage else self._sent(arrival)

    def _sent(self, arrival: Arrival) -> str:
        return ""

    def _shut_out(self, client: str, what: str, began: float, ended: float) -> bool:
        return any(
            span.began + self.grace <= began and ended <= span.ended for span in self.spans[client, what]
        )

    async def _in_use(self, client: str, what: str) -> None:
        """Wait until something is used that is to be taken away."""
        self.served.discard((client, what))
        await asyncio.sleep(0.0 if self.hurry else 5.0)
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while (client, what) not in self.served:  # noqa: ASYNC110 - no event
                    await asyncio.sleep(0.05)

    async def _noticed(self, least: float) -> None:
        """Wait so many seconds, and until who is shut out has tried a few times meanwhile."""
        before = self.judged.total()
        await asyncio.sleep(least)
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while self.judged.total() < before + _TRIES:  # noqa: ASYNC110 - no event
                    await asyncio.sleep(0.05)


class Proven(Mode):
    """Permissions are withdrawn and given back, past the proxies and through one of them."""

    sharing: Sharing = "proven"
    shuts_out = True

    def __init__(self, directory: Path, credentials: int, *, hurry: bool = False) -> None:
        super().__init__(directory, credentials, hurry=hurry)
        self.grace = 0.5 if hurry else 1.0

    def options(self) -> tuple[str, ...]:
        """Let proofs count for the grace, and refusals for a second."""
        return (*super().options(), "--access.proof-ttl", str(self.grace), "--access.refusal-ttl", "1")

    async def change(self, workspace: EmulatedWorkspace, url: str) -> None:
        """Withdraw permissions one after the other, and give them back."""
        for turn in itertools.count():
            team = TEAMS[turn % len(TEAMS)]
            client, model = self.tokens[team][-1], workspace.models[team]
            await self._in_use(client, team)
            before = model.readers or frozenset()
            model.readers = before - {client}
            span = Span(time.monotonic())
            self.spans[client, team].append(span)
            self.changes["withdrawn"] += 1
            if turn % 2:
                await self._write_permissions(url, self.tokens[team][0])
            await self._noticed(3 * self.grace)
            span.ended = time.monotonic()
            model.readers = before

    async def _write_permissions(self, url: str, owner: str) -> None:
        """Let a proxy hear of it: what it does with the write is for the workspace to say."""
        headers = [("Authorization", f"Bearer {owner}"), ("Content-Length", "2")]
        with suppress(OSError):
            await raw(url, "PATCH", "/api/2.0/permissions/registered-models/1", headers, b"{}")
            self.changes["of them through a proxy"] += 1

    def tries(self, team: str, own: str, chance: random.Random) -> Iterator[tuple[str, str]]:
        """Try what was withdrawn too."""
        yield from super().tries(team, own, chance)
        if any(span.ended == math.inf for span in self.spans[own, team]):
            yield from [(own, team)] * _TRIES


class Service(Mode):
    """The proxies' token is rotated, and clients are taken out of the file and put back."""

    sharing: Sharing = "service"
    refusal = 401
    shuts_out = True
    grace = _LOOKS

    def __init__(self, directory: Path, credentials: int, *, hurry: bool = False) -> None:
        super().__init__(directory, credentials, hurry=hurry)
        self._clients = directory / "clients.toml"
        self._token = directory / "token"
        self._principals = [self._principal(0)]
        self._token.write_text(self._principals[0])
        self._write_clients(without="")

    def options(self) -> tuple[str, ...]:
        """Name the files."""
        files = ("--access.token-file", str(self._token), "--access.clients-file", str(self._clients))
        return (*super().options(), *files)

    def readers(self, team: str) -> frozenset[str] | None:
        """Let the principal read everything: all clients are served the same."""
        return None

    def known(self) -> frozenset[str] | None:
        """Let the workspace know the principal only."""
        return frozenset(self._principals)

    async def change(self, workspace: EmulatedWorkspace, url: str) -> None:
        """Shut a client out, rotate the token, let the client in again."""
        for turn in itertools.count():
            client = self.tokens[TEAMS[turn % len(TEAMS)]][-1]
            await self._in_use(client, "")
            self._write_clients(without=client)
            span = Span(time.monotonic())
            self.spans[client, ""].append(span)
            self.changes["shut out"] += 1
            await self._noticed(0.1 if self.hurry else 3.0)
            self._rotate(workspace)
            await self._noticed(0.1 if self.hurry else 3.0)
            span.ended = time.monotonic()
            self._write_clients(without="")

    def tries(self, team: str, own: str, chance: random.Random) -> Iterator[tuple[str, str]]:
        """Try tokens that nobody gave out, the workspace's own among them."""
        model = chance.choice([*TEAMS, EVERYONE])
        yield chance.choice([f"{SECRET}{chance.random()}", self._principals[-1], ""]), model
        if any(span.ended == math.inf for span in self.spans[own, ""]):
            yield from [(own, model)] * _TRIES

    def may(self, asked: Asked) -> bool:
        """Let in all who are in the file."""
        known = any(asked.token in tokens for tokens in self.tokens.values())
        return known and not self._shut_out(asked.token, "", asked.began, asked.ended)

    def complaint(self, asked: Asked) -> str:
        """Count those who were shut out, whatever they asked for."""
        if self._shut_out(asked.token, "", asked.began, asked.ended):
            self.judged[str(asked.status)] += 1
        return super().complaint(asked)

    def _complaint(self, asked: Asked) -> str:
        # A proxy that has no room, or is stopping, does not ask who it is.
        if asked.status in {self.refusal, 503}:
            return ""
        return super()._complaint(asked) or f"{asked.token} got a {asked.status} for {asked.target}"

    def _sent(self, arrival: Arrival) -> str:
        if arrival.token in self._principals or (arrival.token is None and arrival.group == DISCOVERY):
            return ""
        return f"the workspace got {arrival.target} from {arrival.token}"

    def _rotate(self, workspace: EmulatedWorkspace) -> None:
        """Put another token into the file at the moment at which the last one is revoked."""
        self._principals.append(self._principal(len(self._principals)))
        workspace.options = replace(workspace.options, tokens=frozenset(self._principals[-1:]))
        _replace(self._token, self._principals[-1])
        self.changes["rotated"] += 1

    def _write_clients(self, without: str) -> None:
        lines = ["[clients]"]
        for client in itertools.chain.from_iterable(self.tokens.values()):
            if client != without:
                digest = hashlib.sha256(client.encode()).hexdigest()
                lines.append(f'{client.removeprefix(SECRET)} = "sha256:{digest}"')
        _replace(self._clients, "\n".join(lines))

    def _principal(self, number: int) -> str:
        return f"{SECRET}of-the-principal-{number}"


MODES: Mapping[Sharing, type[Mode]] = {each.sharing: each for each in (Mode, Proven, Service)}


def _replace(path: Path, text: str) -> None:
    other = path.with_suffix(".new")
    other.write_text(text)
    other.replace(path)
