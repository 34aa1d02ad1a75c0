"""The proxy's own credential for the workspace, and how it is renewed.

What belongs here: the credential as data, the policy of when to fetch another, and its two sources: a file
with a token, and a function that fetches one.
"""

import asyncio
import base64
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Protocol

import structlog

from mlflow_proxy.access.files import WatchedFile
from mlflow_proxy.access.threads import Blocking
from mlflow_proxy.errors import CredentialUnavailableError, UnreadableError
from mlflow_proxy.term import Term

log = structlog.get_logger(__name__)

_EARLIEST = 1200.0
"""Seconds before its end at which a credential is fetched anew at the earliest; if it lives shorter than
twice as long, at half of its life."""
FETCH_LIMIT = 20.0
"""Seconds a fetch may take: half of the clients' patience."""
PAUSE = 5.0
"""Seconds between a fetch that failed, or was of no use, and the next."""
_MOMENT = 1.0
_LATEST = 1e12
"""Unix time. An expiry beyond it, or none that is a number, says nothing."""
_TOKEN = re.compile(r"[\x21-\x7e]+")
_PER_TOKEN = frozenset(
    {"aio", "auth_time", "exp", "iat", "jti", "nbf", "rh", "uti", "wids", "xms_ftd", "xms_rd"}
)
"""Claims in which two tokens of one principal differ (RFC 7519 section 4.1, and Entra's own)."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential for the workspace.

    Attributes:
        headers: the header fields to send.
        expires_at: when it ends, in Unix time; None if neither it nor its token (RFC 7519) says.
        identity: names the principal, the same for successive tokens, if the token has a ``sub`` claim; else
            the token itself. As secret as the headers.

    """

    headers: tuple[tuple[str, str], ...] = field(repr=False)
    expires_at: float | None = field(default=None, compare=False)
    identity: str = field(default="", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        authorization = next((value for name, value in self.headers if name.lower() == "authorization"), "")
        claims = _claims(authorization) or {}
        identity = repr(self.headers)
        if isinstance(claims.get("sub"), str):
            lasting = {name: value for name, value in claims.items() if name not in _PER_TOKEN}
            identity = json.dumps(lasting, sort_keys=True)
        object.__setattr__(self, "identity", identity)
        if self.expires_at is None:
            object.__setattr__(self, "expires_at", _moment(claims.get("exp")))


def bearer(token: str) -> Credential:
    """Return the credential that a token is."""
    return Credential((("Authorization", f"Bearer {token}"),))


def due(fetched_at: float, ends_at: float) -> float:
    """Return when to fetch the next credential (all by one clock)."""
    return ends_at - min(_EARLIEST, max(0.0, ends_at - fetched_at) / 2)


class Credentials(Protocol):
    """Where the proxy has its credential from."""

    @property
    def remedy(self) -> str:
        """What to look at when the workspace refuses it."""

    @property
    def term(self) -> Term:
        """Until when ``current`` returns the same at once."""

    async def current(self) -> Credential:
        """Return the credential to use now. Raises CredentialUnavailableError."""

    async def renewed(self, refused: Credential) -> Credential | None:
        """Return another one in place of one that the workspace refused, None if there is none."""

    async def close(self) -> None:
        """Stop fetching."""


class TokenFile:
    """A file that holds a token and nothing else. Raises InvalidSettingsError if it does not."""

    def __init__(
        self, path: Path, *, clock: Callable[[], float], wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._file = WatchedFile(path, _token_in, "access.token_file", clock=clock, wall_clock=wall_clock)
        self.remedy = f"put a valid token into access.token_file ({path}); it is read again when it changes"

    @property
    def term(self) -> Term:
        """Until when the file need not be looked at."""
        return self._file.term

    async def current(self) -> Credential:
        """Return what the file says, no older than a second."""
        return await self._file.current()

    async def renewed(self, refused: Credential) -> Credential | None:
        """Return what the file says by now, if it is another token."""
        found = await self._file.reread()
        return found if found != refused else None

    async def close(self) -> None:
        """Stop looking at the file."""
        await self._file.close()


class Fetched:
    """A credential that a function fetches, again before it expires and when it is refused.

    One fetch serves all requests that wait for it. One that fails changes nothing while the credential at
    hand has not expired, and is not repeated for some seconds. ``fetch`` blocks, and raises
    CredentialUnavailableError.

    ``wall_clock`` is Unix time. It says how long a credential lives when that comes; ``clock`` measures that,
    so that a wall clock that is set back meanwhile makes none live longer.
    """

    def __init__(
        self,
        fetch: Callable[[], Credential],
        remedy: str,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.remedy = remedy
        self._clock = clock
        self._wall_clock = wall_clock
        self._fetch = Blocking(fetch, FETCH_LIMIT)
        self._credential: Credential | None = None
        self._ends_at: float | None = None
        self._fetched_at = float("-inf")
        self._not_before = float("-inf")
        self._renewed_at = float("-inf")
        self._problem = CredentialUnavailableError("")
        self._refreshing: asyncio.Task[Credential] | None = None
        self.term = Term(-inf)
        """Until when the credential at hand is used and no other is fetched."""

    async def current(self) -> Credential:
        """Return the credential at hand, or wait for the first."""
        now, held = self._clock(), self._credential
        if held is None:
            return await self._another()
        if self._ends_at is not None:
            # What is old already when it comes, by a clock that is fast, is used for a moment all the same.
            if max(self._ends_at, self._fetched_at + _MOMENT) <= now:
                return await self._another()
            if due(self._fetched_at, self._ends_at) <= now and self._not_before <= now:
                self._begin()
        return held

    async def renewed(self, refused: Credential) -> Credential | None:
        """Fetch one in place of another; None if that was of no use a moment ago, or is of none."""
        if self._credential is not None and self._credential != refused:
            return self._credential
        if self._clock() < self._renewed_at + PAUSE:
            return None
        try:
            found = await self._another()
        except CredentialUnavailableError:
            return None
        finally:
            self._renewed_at = self._clock()
        return found if found != refused else None

    async def close(self) -> None:
        """Give up what is being fetched."""
        await self._fetch.close()
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])

    async def _another(self) -> Credential:
        if self._clock() < self._not_before and (self._refreshing is None or self._refreshing.done()):
            raise CredentialUnavailableError(str(self._problem) or self.remedy)
        return await asyncio.shield(self._begin())

    def _begin(self) -> asyncio.Task[Credential]:
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh())
            # If no caller waits when it fails, asyncio must not log the error as never retrieved.
            self._refreshing.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._refreshing

    async def _refresh(self) -> Credential:
        began = self._clock()
        try:
            found = await self._fetch()
        except (TimeoutError, CredentialUnavailableError) as error:
            reason = str(error) or f"no answer within {FETCH_LIMIT:.0f} s"
            log.warning("workspace credential could not be fetched", reason=reason)
            self._not_before = self._clock() + PAUSE
            self._problem = CredentialUnavailableError(
                f"This proxy could not get its credential for the workspace; {self.remedy}."
            )
            raise self._problem from None
        left = None if found.expires_at is None else found.expires_at - self._wall_clock()
        self._credential, self._fetched_at = found, began
        self._ends_at = None if left is None else self._clock() + left
        self.term = self.term.followed(inf if self._ends_at is None else due(began, self._ends_at))
        self._not_before = float("-inf")
        log.info("workspace credential fetched", expires_at=found.expires_at)
        return found


def _token_in(data: bytes) -> Credential:
    text = data.decode("latin-1").strip(" \t\r\n")
    if not text:
        raise UnreadableError("it is empty")
    if not _TOKEN.fullmatch(text):
        raise UnreadableError("it must hold one token and nothing else")
    return bearer(text)


def _claims(authorization: str) -> dict[str, object] | None:
    """Read the claims of a JSON Web Token (RFC 7519), unverified: it is the proxy's own."""
    parts = authorization.rpartition(" ")[2].split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return None
    return claims if isinstance(claims, dict) else None


def _moment(claim: object) -> float | None:
    if not isinstance(claim, int | float) or isinstance(claim, bool) or not 0 <= claim <= _LATEST:
        return None
    return float(claim)
