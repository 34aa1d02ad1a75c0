"""An emulated workspace that remembers every state it was in: an old answer can be told from a new one."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from random import Random
from typing import Any

from aiohttp import web

from mlflow_proxy.demo import registry
from mlflow_proxy.demo.answers import Answer, ApiError, Delay, json_answer
from mlflow_proxy.demo.journal import Arrival
from mlflow_proxy.demo.models import Content, Model, ModelVersion
from mlflow_proxy.demo.registry import Registry
from mlflow_proxy.demo.shapes import Call
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions

NAMES = ("m", "n", "o")
TOKENS = ("a", "b", "c")
ADMIN = "admin"
PERMISSIONS = "/permissions-of-tomorrow/"
"""Somewhere below it the emulated workspace changes who may read what, as ``readers`` says in the body."""
FILES: dict[str, Content] = {"MLmodel": b"flavors: {}\n", "data/x": b"x"}
_LONG, _OFTEN = 0.02, 0.2
"""Seconds that an answer is on its way, and how many of them are."""


@dataclass(frozen=True)
class Question:
    """A read; its answer is compared as JSON."""

    method: str
    endpoint: str
    parameters: tuple[tuple[str, Any], ...]
    token: str


def fresh_model(name: str) -> Model:
    """Return a model with two versions that all but the last token may read."""
    versions = {number: ModelVersion(FILES, tags={}) for number in ("1", "2")}
    return Model(name, versions, aliases={"champion": "1"}, readers=frozenset({ADMIN, *TOKENS[:-1]}))


class RememberingWorkspace(EmulatedWorkspace):
    """Keeps a copy of its models after each write that it carried out.

    Some answers to reads, made when they were asked, are on their way for longer than a write takes.
    """

    def __init__(self, chance: Random) -> None:
        options = WorkspaceOptions(limit=10**6, latency=0.002, tokens=frozenset({ADMIN, *TOKENS}))
        super().__init__([fresh_model(name) for name in NAMES], options)
        self.fault = lambda request: (
            Delay(_LONG) if request.method == "GET" and chance.random() < _OFTEN else None
        )
        self.states: list[Mapping[str, Model]] = [deepcopy(self.models)]
        self._known: dict[tuple[int, Question], tuple[int, object]] = {}

    def truth(self, state: int, question: Question) -> tuple[int, object]:
        """Return the status and the document that answered a question in one of the states."""
        if (state, question) not in self._known:
            models = dict(self.states[state])
            service = Registry(models, {}, self.storage.sign, lambda: 0, self.options.page_size)
            endpoint = registry.ENDPOINTS[question.method, question.endpoint]
            try:
                found = 200, endpoint(service, Call(dict(question.parameters), question.token))
            except ApiError as error:
                found = error.status, {}
            self._known[state, question] = found
        return self._known[state, question]

    async def _answer(self, request: web.Request, arrival: Arrival) -> Answer:
        if PERMISSIONS in request.path:
            said = await request.json()
            answer = json_answer({}, 200 if arrival.token == ADMIN else 403)
            if arrival.token == ADMIN and said["name"] in self.models:
                self.models[said["name"]].readers = frozenset({ADMIN, *said["readers"]})
        else:
            answer = await super()._answer(request, arrival)
        if request.method != "GET":
            self.states.append(deepcopy(self.models))
        return answer
