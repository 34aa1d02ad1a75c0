"""The words between a member of a fleet and ``shared.lua``: what each request and answer says.

Pure. Times on the wire are whole microseconds: ages and pauses, since the clocks of two machines differ.
"""

import math
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ValidationError

from mlflow_proxy.budget.congestion import DECREASE, GROWTH
from mlflow_proxy.budget.pacer import CALM, SLACK
from mlflow_proxy.budget.silence import FLOORS, FORGOTTEN, LEAVE, MISSING, PRESUMED, STRANGERS, shares
from mlflow_proxy.errors import FleetUnavailableError

SCRIPT = files("mlflow_proxy.budget").joinpath("shared.lua").read_text(encoding="utf-8")
KEYS = (
    *("state", "window", "refused", "members", "shares"),
    *("turns", "waiting", "wants", "floors", "absent"),
)

HOLD = 3.0
"""Seconds for which a place is held for a call that is opening its connection."""
GAP = 0.5
"""Seconds between two requests of any members after which the next one has to vouch for the time between, by
having heard an answer before it. More than a heartbeat."""
TOLERANCE = 0.01
"""Seconds by which Redis' clock may differ from a member's between two answers, beyond what they took."""


@dataclass(slots=True)
class News:
    """What this member has not reported to Redis yet, with times of its own clock."""

    sent: list[tuple[str, float]] = field(default_factory=list)
    unused: list[tuple[str, float]] = field(default_factory=list)
    refused: list[tuple[str, float]] = field(default_factory=list)
    stepped: bool = False
    """Whether Redis' clock went forward more than this member's, and Redis did not notice."""

    def __bool__(self) -> bool:
        return bool(self.sent or self.unused or self.refused or self.stepped)


class Answer(BaseModel):
    """What the script answers: microseconds, and calls per window."""

    # An empty list is an empty object in the JSON of Redis.
    born: int
    """When Redis began to remember: another value is another life of it."""
    serial: int
    """Counts its answers and places: a lower one than was heard before means that it has gone back."""
    now: int
    steps: int
    """How often its clock was found to have been set."""
    share: float
    floor_share: float
    calls: Annotated[list[str], BeforeValidator(lambda value: value or [])]
    wait: float
    in_window: int
    members: int
    waiting: int
    rate: float
    places: int
    peak: float
    pause: float

    @classmethod
    def before_any(cls, limit: int) -> Self:
        """Return what a member goes by until Redis has answered it for the first time."""
        return cls(
            born=0,
            serial=0,
            now=0,
            steps=0,
            share=0,
            floor_share=0,
            calls=[],
            wait=0,
            in_window=0,
            members=STRANGERS,
            waiting=0,
            rate=limit,
            places=limit,
            peak=limit,
            pause=0,
        )

    @classmethod
    def read(cls, text: bytes) -> Self:
        """Return what an answer in JSON says. Raises FleetUnavailableError for what the script never says."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise FleetUnavailableError("Redis answered what this proxy's script never does.") from error


def terms(limit: int, window: float, floor: float) -> dict[str, object]:
    """Return the part of each request that stays the same: the budget, and the rules all members keep.

    ``limit`` is in calls per ``window`` seconds, ``floor`` the calls that are left after any number of 429s.
    """
    return {
        "limit": limit,
        "floor": floor,
        "decrease": DECREASE,
        "growth": GROWTH,
        "window": microseconds(window),
        "calm": microseconds(CALM),
        "slack": microseconds(SLACK),
        "hold": microseconds(HOLD),
        "leave": microseconds(LEAVE),
        "gap": microseconds(GAP),
        "tolerance": microseconds(TOLERANCE),
        "missing": microseconds(MISSING),
        "presumed": microseconds(PRESUMED),
        "forgotten": microseconds(FORGOTTEN),
        "shares": shares(limit),
        "floors": limit * FLOORS,
    }


def reports(news: News, now: float, since: float) -> dict[str, object]:
    """Return the part of a request that says what happened until ``now``, by this member's clock.

    Places that were given back before ``since`` are left out: they count no more.
    """
    return {
        "stepped": news.stepped,
        "sent": [{"call": call, "age": microseconds(now - moment)} for call, moment in news.sent],
        "unused": [call for call, moment in news.unused if moment >= since],
        "refused": [
            {"call": call, "pause": microseconds(max(0.0, until - now))} for call, until in news.refused
        ],
    }


def microseconds(seconds: float) -> int:
    """Return a time as the script reads it, rounded up."""
    return math.ceil(seconds * 1_000_000)
