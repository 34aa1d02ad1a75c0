"""The entrance to everything under ``/-/``: which handler answers, and whom.

Own endpoints either share the clients' listener or have one for themselves.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from aiohttp import web

from mlflow_proxy.admin import permission
from mlflow_proxy.admin.handlers import PREFIX
from mlflow_proxy.errors import AnswerableError, NoSuchEndpointError, PostOnlyError
from mlflow_proxy.listener.connection import Timeouts
from mlflow_proxy.listener.hosts import Hosts
from mlflow_proxy.listener.requests import refusal
from mlflow_proxy.listener.runner import BoundedRunner, Handler


class Entrance:
    """Routes ``questions`` (GET, for every client) and ``commands`` (POST, if ``permission`` allows)."""

    def __init__(self, questions: Mapping[str, Handler], commands: Mapping[str, Handler], token: str) -> None:
        self._questions = questions
        self._commands = commands
        self._token = token

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request, with an error if need be."""
        try:
            if (refused := refusal(request)) is not None:
                raise refused
            return await self._answer(request)
        except AnswerableError as error:
            return _said(error)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        name = path.removeprefix(PREFIX) if path.startswith(PREFIX) else None
        question, command = self._questions.get(name or ""), self._commands.get(name or "")
        if command is not None:
            if request.method != "POST":
                raise PostOnlyError(f"{path} changes something: send it as POST.")
            permission.check(request.headers, _peer(request), self._token)
            return await command(request)
        if question is None or request.method not in {"GET", "HEAD"}:
            raise NoSuchEndpointError("Known here: " + ", ".join([*self._questions, *self._commands]))
        return await question(request)


async def elsewhere(request: web.BaseRequest) -> web.StreamResponse:
    """Answer where the endpoints are not, because they have a listener of their own."""
    return _said(NoSuchEndpointError("The proxy's own endpoints are served elsewhere (admin.host)."))


def only(hosts: Hosts, handler: Handler) -> Handler:
    """Return a handler that answers requests for other hosts with an error, all others by ``handler``."""

    async def check(request: web.BaseRequest) -> web.StreamResponse:
        try:
            hosts.check(request.headers.get("Host"))
        except AnswerableError as error:
            return _said(error)
        return await handler(request)

    return check


MOST_CLIENTS = 100
"""Connections at once to the listener of its own: a few probes and scrapers, with room for more."""

Listen = Callable[[BoundedRunner], Awaitable[Sequence[web.BaseSite]]]


@asynccontextmanager
async def answer_on_its_own(
    entrance: Entrance,
    hosts: Hosts,
    listen: Listen,
    started: Callable[[str], None],
    most: int,
    timeouts: Timeouts,
) -> AsyncIterator[None]:
    """Listen for own endpoints alone until the context is left.

    ``listen`` makes the sites, ``started`` is called with the URL of each; ``most`` is how many connections
    they take together.
    """
    own = only(hosts, entrance.handle)
    runner = BoundedRunner(own, most, "of the proxy's own endpoints", timeouts, shutdown_timeout=1.0)
    await runner.setup()
    try:
        for site in await listen(runner):
            await site.start()
            started(site.name)
        yield
    finally:
        await runner.cleanup()


def _said(error: AnswerableError) -> web.Response:
    return web.Response(
        status=error.status, headers={**error.headers, "Content-Type": "application/json"}, body=error.body()
    )


def _peer(request: web.BaseRequest) -> str | None:
    """Return the address at the other end, never what the request says of it."""
    name = request.transport.get_extra_info("peername") if request.transport is not None else None
    return name[0] if isinstance(name, tuple) else None
