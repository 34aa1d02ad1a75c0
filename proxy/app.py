"""Wiring: what a proxy is made of, and how it starts and stops."""

import asyncio
import contextlib
import os
import random
import secrets
import signal
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from aiohttp import HttpVersion11, web
from structlog.contextvars import bind_contextvars, unbind_contextvars
from yarl import URL

from proxy import __version__, descriptors, discovery, logs, tls
from proxy.access import clients as access_clients
from proxy.access import databricks
from proxy.access.credential import Credentials, Fetched, TokenFile
from proxy.access.files import WatchedFile
from proxy.access.mode import Sharing, in_force, mode
from proxy.access.service import ServiceAccess
from proxy.access.sharing import Access
from proxy.addresses import canonical, in_common, is_loopback
from proxy.admin import crew, entrance, purge
from proxy.admin import handlers as admin
from proxy.artifacts.facade import ArtifactFacade
from proxy.budget.congestion import Cubic
from proxy.budget.fair_queue import Priority
from proxy.budget.pacer import Pacer
from proxy.budget.queue import Budget, Limits, Queue
from proxy.budget.shared import SharedPacer
from proxy.clock import Clock
from proxy.descriptors import Room
from proxy.errors import AnswerableError, InvalidSettingsError
from proxy.fleet.member import Fleet
from proxy.forwarding import Forwarding
from proxy.limits import InFlight
from proxy.listener import binding
from proxy.listener.accepting import Site
from proxy.listener.connection import Timeouts, refusal
from proxy.listener.hosts import Hosts
from proxy.listener.runner import BoundedRunner
from proxy.metrics import Metrics
from proxy.mlflow_api.caller_fields import CallerFields
from proxy.mlflow_api.routes import UNKNOWN, Group, Route, match, overrides_method
from proxy.mlflow_api.upstream_kind import KnownUpstream, UpstreamKind, at_first
from proxy.outcome import Outcome
from proxy.passing import Passing
from proxy.pipeline import LARGEST_HELD_BODY, Pipeline
from proxy.reading import stack
from proxy.reading.freshness import Lifetimes
from proxy.reading.memory import Memory
from proxy.reading.writes import Writes
from proxy.responses import Reply, remove_defaults, send_error
from proxy.settings import BudgetSettings, CacheSettings, Settings, api_ending
from proxy.upstream.circuit_breaker import State
from proxy.upstream.client import HttpClient
from proxy.upstream.destination import Destinations
from proxy.upstream.forward_proxy import ForwardProxies, without_credentials
from proxy.workspace import Workspace

log = structlog.get_logger(__name__)

_SLACK = 1.0
"""Seconds for requests to end that were told to."""
_OF_THIS_MACHINE = frozenset({"127.0.0.1", "::1", "localhost"})
_LOCAL = _OF_THIS_MACHINE | {"0.0.0.0", "::"}  # noqa: S104 - compared with, not bound
_ARTIFACTS = Route((), "mlflow-artifacts/*", Group.NONE)
"""Labels requests that the façade answers."""


@dataclass(frozen=True)
class Place:
    """What a worker has from its parent, if the proxy is more than one process.

    Attributes:
        number: which one it is, from 0.
        shared: sockets that listen on the proxy's address, for all workers.
        admin: sockets that listen for the own endpoints, for all workers; none if ``shared`` do.
        private: a socket that listens for questions to this worker alone.
        crew: the URLs of all workers' private sockets, its own included, by their numbers.

    """

    number: int
    shared: Sequence[socket.socket]
    admin: Sequence[socket.socket]
    private: socket.socket
    crew: Sequence[str]


class Proxy:
    """One proxy, ready to be served. Must be made, used and closed in one event loop.

    ``hosts`` are those that clients may call it by; ``room`` is what connections it may have; ``clock`` tells
    when things end. ``workers`` are the URLs of the workers' private sockets, if it is one of several.
    """

    def __init__(
        self, settings: Settings, hosts: Hosts, room: Room, clock: Clock, workers: Sequence[str] = ()
    ) -> None:
        connections = settings.connections
        self._hosts = hosts
        self._upstream = settings.upstream
        self._settings = settings
        self._clock = clock
        self.kind = KnownUpstream(_at_first(settings))
        # First what can be refused: what is open has to be closed.
        forward_proxies = ForwardProxies.named_in(os.environ)
        # The client certificate is for the workspace alone: storage is somebody else's.
        of_workspace = tls.for_upstream(
            connections.ca_file, connections.client_certificate, connections.client_key
        )
        of_storage = tls.for_upstream(connections.ca_file)
        self.reloaded = [each for each in (of_workspace, of_storage) if each is not None]
        access = _access(settings, self.kind, clock)
        self._fleet = self._join(settings)
        self._access = access((self._fleet and self._fleet.partition_key) or secrets.token_bytes(32))
        self._clients = to_workspace, to_storage = [
            HttpClient(
                peer,
                connect_timeout=connections.connect_timeout,
                read_timeout=connections.read_timeout,
                connections=room.upstream,
                limit=_limit("connections.max_connections", connections.max_connections, room.upstream),
                repeats=repeats,
                tls=partial(_current, context),
                forward_proxies=forward_proxies,
                destinations=destinations,
            )
            for peer, context, repeats, destinations in (
                ("the workspace", of_workspace, False, None),
                (
                    "the workspace's storage",
                    of_storage,
                    True,
                    Destinations.of(settings.upstream, local=settings.artifacts.local_storage),
                ),
            )
        ]
        if (forward := forward_proxies.towards(URL(settings.upstream))) is not None:
            log.info("the workspace is called through a proxy", proxy=without_credentials(forward))
        self.metrics = Metrics()
        cache, budget = settings.cache, settings.budget
        self._memory = Memory(cache.max_bytes, settings.access.proof_ttl, settings.access.refusal_ttl, clock)
        # Each limit of the workspace is one queue, whoever calls (rule 1).
        self._queues = {group: self._queue(group, limit, budget) for group, limit in budget.limits.items()}
        self._workspace = Workspace(settings.upstream, to_workspace, self._queues, self._access, self.metrics)
        self._forwarding = Forwarding(
            connections.forwarded_fields, self.kind, as_sent=settings.access.sharing != "service"
        )
        shared = None
        if self._fleet is not None:
            shared = self._fleet.share_answers(
                self._memory.forget, lambda how: self.metrics.fleet_answers.labels(how).inc(), clock.now
            )
        writes = Writes(self._memory, shared)
        self._readers = stack.build(
            self._workspace,
            self._memory,
            writes,
            shared,
            self._access,
            self._forwarding,
            self.metrics,
            stack.Rules(_lifetimes(cache), cache.stale_if_error, budget.patience, cache.max_entry_bytes),
        )
        passing = Passing(self._workspace, self._access, self._memory, writes, budget.patience)
        self.pipeline = Pipeline(
            self._readers.top, passing, budget.patience, rewrite_dbfs=settings.artifacts.rewrite_dbfs
        )
        self._artifacts = ArtifactFacade(self.pipeline, writes, self._memory, to_storage, self.metrics)
        self._in_flight = InFlight(connections.max_requests)
        self._readiness = admin.Readiness(to_workspace, settings.upstream, self._workspace.circuit, clock.now)
        questions = admin.handlers(self.metrics.registry, self._readiness, self._status, self._detail)
        self.apart = crew.apart(self.metrics.registry, self._status)
        if workers:
            questions |= crew.together(workers)
        self.admin = entrance.Entrance(
            questions,
            {"purge": purge.handler(writes.purge)},
            settings.admin.token.get_secret_value(),
        )
        self._administer = entrance.elsewhere if settings.admin.host else self.admin.handle
        self._watch()

    def watching_upstream(self) -> AbstractAsyncContextManager[None]:
        """Return the context in which the upstream is asked, in the background, what kind it is of.

        Nothing is asked where its name says it, or no setting depends on it.
        """
        settings = self._settings
        if self.kind.current.is_databricks or not _depends_on_kind(settings):
            return nullcontext()
        return discovery.watching(
            self.kind,
            partial(discovery.ask, self._workspace, settings.budget.patience),
            settings.cache.discovery_ttl,
            random.random,
            self._kind_changed,
            self._clock.now,
        )

    def _kind_changed(self) -> None:
        told = {**asdict(self.kind.current), "sharing": self.sharing.mode}
        if self.kind.current.is_databricks:
            log.info("the upstream's kind is known", **told)
            return
        if self._settings.preset == "databricks":
            # It may be a gateway in front of a workspace, so that its limits are not lifted by themselves.
            told["remedy"] = "if it is an MLflow server, --preset open-source lifts a workspace's limits"
        log.warning("the upstream's kind is known", **told)

    @property
    def sharing(self) -> Sharing:
        """By which rule clients share answers now, and why."""
        return in_force(self._settings.access.sharing, self.kind.current)

    def leave(self) -> None:
        """Say on every occasion that others should be asked from now on."""
        self._readiness.leaving = True

    def stop(self, grace: float) -> None:
        """Let nothing take longer than ``grace`` seconds from now."""
        self._in_flight.stop(grace)

    async def close_connection(self, request: web.Request, response: web.StreamResponse) -> None:
        """Signal handler for ``on_response_prepare``: keep no connection that has to be closed."""
        if request.version < HttpVersion11 and response.content_length is None:
            # Only its end tells where the body ends, and aiohttp keeps it if the client asked for that.
            response.force_close()
        if self._readiness.leaving or refusal(request) is not None:
            response.force_close()
            response.headers["Connection"] = "close"

    async def close(self) -> None:
        """Close all connections to the workspace, its storage and the fleet."""
        if self._fleet is not None:
            await self._fleet.close()
        await self._access.close()
        for client in self._clients:
            await client.close()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer any request: the one entrance."""
        began = time.monotonic()
        unbind_contextvars("client")
        route = UNKNOWN
        try:
            if (refused := refusal(request)) is not None:
                raise refused
            self._hosts.check(request.headers.get("Host"))
            target = request.raw_path
            if target.startswith(admin.PREFIX):
                return await self._administer(request)
            async with self._in_flight.admitted():
                facade = self._artifacts.handles(target)
                route = _ARTIFACTS if facade else _route(request, target)
                caller = await self._access.admit(route, target, self._forwarding.fields(request))
                if caller.name:
                    bind_contextvars(client=caller.name)
                if facade:
                    reply = await self._artifacts.handle(request, caller)
                else:
                    reply = await self.pipeline.handle(request, route, caller)
        except AnswerableError as failure:
            # What breaks a client's body on its way shows at its other end as well.
            error = refusal(request) or failure
            log.info("request failed", route=route.name, status=error.status, reason=str(error))
            reply = await send_error(request, error, Outcome.MISS)
        except Exception as error:
            # The last edge: a bug here must reach the client as an error of the API. An answer that had
            # begun cannot be mended; its connection is closed already.
            log.exception("request failed unexpectedly", route=route.name, kind=type(error).__name__)
            if request.transport is None or request.transport.is_closing():
                raise
            reply = await send_error(
                request, AnswerableError("The proxy failed; its log says why."), Outcome.MISS
            )
        self._count(route, reply, began)
        return reply

    def _count(self, route: Route, reply: Reply, began: float) -> None:
        outcome = str(reply.outcome) if reply.ended else "aborted"
        self.metrics.requests.labels(route.name, outcome, str(reply.status)).inc()
        self.metrics.request_seconds.labels(outcome).observe(time.monotonic() - began)

    def _join(self, settings: Settings) -> Fleet | None:
        if not settings.redis:
            return None
        return Fleet(settings.redis, settings.upstream, settings.fleet.secret.get_secret_value())

    def _queue(self, group: Group, limit: int, budget: BudgetSettings) -> Queue:
        window = 1.0 + budget.jitter_margin
        pacer: Budget
        if self._fleet is None:
            pacer = Pacer(limit, window, Cubic(limit, budget.floor))
        else:
            pacer = self._fleet.budget(group, limit, window, budget.floor)
        queue = Queue(
            pacer,
            self.metrics.queue_wait.labels(group).observe,
            random.random,
            Limits(budget.queue_per_client, budget.queue_total, budget.background_share),
        )
        if isinstance(pacer, SharedPacer):
            pacer.attach(queue.__len__, queue.serve)
        return queue

    def _detail(self) -> dict[str, object]:
        redis = {"redis": self._fleet.condition()} if self._fleet is not None else {}
        return {"circuit": self._workspace.circuit.state, **redis, **self._access.condition()}

    def _status(self) -> dict[str, object]:
        return {
            "version": __version__,
            "upstream": self._upstream,
            "upstream_kind": asdict(self.kind.current),
            "sharing": asdict(self.sharing),
            "fleet": self._fleet.status() if self._fleet is not None else None,
            "groups": {group: asdict(queue.status()) for group, queue in self._queues.items()},
            "cache": {"entries": len(self._memory.store), "bytes": self._memory.store.bytes},
            "flights": len(self._readers.flights),
            "requests": len(self._in_flight),
            "circuit": self._workspace.circuit.state,
        }

    def _watch(self) -> None:
        watch = self.metrics.watch
        if self._fleet is not None:
            watch("mlflow_proxy_fleet_members", "Proxies that share the budgets.", self._fleet.members)
            watch("mlflow_proxy_fleet_alone", "1 while this proxy lives on its share.", self._fleet.alone)
            if (cache := self._fleet.cache) is not None:
                watch(
                    "mlflow_proxy_fleet_cache_shared", "1 while answers are shared.", lambda: cache.connected
                )
                watch(
                    "mlflow_proxy_fleet_other_secrets",
                    "Secrets other than this proxy's in use for this workspace.",
                    lambda: cache.other_secrets,
                )
        watch(
            "mlflow_proxy_circuit_open",
            "1 while calls to the workspace are not tried.",
            lambda: self._workspace.circuit.state is not State.CLOSED,
        )
        watch(
            "mlflow_proxy_sharing_proven",
            "1 while answers are shared by those who have proven that they may read the model.",
            lambda: self.sharing.mode == "proven",
        )
        self.metrics.watch_count(
            "mlflow_proxy_log_lines_dropped", "Lines of the log that could not be written.", logs.dropped
        )
        watch("mlflow_proxy_cache_entries", "Stored answers.", lambda: len(self._memory.store))
        watch("mlflow_proxy_cache_bytes", "Bytes of stored answers.", lambda: self._memory.store.bytes)
        watch("mlflow_proxy_requests_in_flight", "Requests being answered.", lambda: len(self._in_flight))
        watch("mlflow_proxy_flights", "Shared calls in the air.", lambda: len(self._readers.flights))
        for group, queue in self._queues.items():
            for priority in Priority:
                self.metrics.queue_depth.labels(group, priority.label).set_function(
                    partial(queue.waiting, priority)
                )
            for name, gauge in self.metrics.budget.items():
                gauge.labels(group).set_function(partial(_reading, queue, name))


def _route(request: web.Request, target: str) -> Route:
    path, _, query = target.partition("?")
    return match(request.method, path, overridden=overrides_method(request.headers, query))


def _reading(queue: Queue, name: str) -> float:
    return float(getattr(queue.status(), name))


def _unbounded(settings: Settings) -> Room:
    """Return the room that the settings ask for."""
    connections = settings.connections
    return Room(
        connections.max_clients,
        connections.max_connections,
        entrance.MOST_CLIENTS if settings.admin.host else 0,
    )


def _limit(setting: str, wanted: int, given: int) -> str:
    """Return what a number of connections comes from, for those who meet it."""
    return (
        setting if given == wanted else f"as many of {setting} as the limit of open files, ulimit -n, carries"
    )


@asynccontextmanager
async def serving(
    settings: Settings,
    place: Place | None = None,
    *,
    room: Room | None = None,
    listening: Callable[[str], None] = lambda url: None,
    administered: Callable[[str], None] = lambda url: None,
    clock: Clock | None = None,
) -> AsyncIterator[str]:
    """Serve until the context is left; yields the first URL it listens on. Raises InvalidSettingsError.

    ``room`` is what connections there may be, None for what the settings say. ``listening`` is told each URL
    that it listens on, ``administered`` each of the own endpoints' listener, if they have one.
    ``clock`` is the machine's unless given.
    """
    clock = clock or Clock(time.monotonic, time.time)
    room = room or _unbounded(settings)
    _refuse_itself(settings)
    refuse_one_port(settings)
    _refuse_strangers(settings)
    context, certificate = None, []
    if settings.tls.certificate:
        context, pair = tls.for_clients(settings.tls.certificate, settings.tls.key)
        certificate = [pair]
    hosts = await _hosts(settings.host, settings)
    proxy = Proxy(settings, hosts, room, clock, place.crew if place is not None else ())

    @web.middleware
    async def enter(request: web.Request, handler: object) -> web.StreamResponse:
        # Not only a route: aiohttp's router knows no place for targets such as "*", ours to refuse.
        return await proxy.handle(request)

    connections = settings.connections
    timeouts = Timeouts(connections.head_timeout, connections.client_timeout, connections.idle_timeout)
    application = web.Application(client_max_size=LARGEST_HELD_BODY + 1, middlewares=[enter])
    # What the router does not find costs it an exception: a fifth of the time of a cache hit (measured).
    application.router.add_route("*", r"/{target:[\s\S]*}", proxy.handle, expect_handler=_let_the_body_come)
    application.on_response_prepare.append(remove_defaults)
    application.on_response_prepare.append(proxy.close_connection)
    if place is not None:
        application.cleanup_ctx.append(partial(crew.answer_apart, proxy.apart, place.private))
    if settings.admin.host:

        async def listen(own: BoundedRunner) -> list[Site]:
            inherited = place.admin if place is not None else None
            found = inherited or await binding.listen(settings.admin.host, settings.admin.port, "admin.")
            return [Site(own, each, context, alone=place is None) for each in found]

        application.cleanup_ctx.append(
            partial(
                entrance.answer_on_its_own,
                proxy.admin,
                await _hosts(settings.admin.host, settings),
                listen,
                administered,
                room.administration,
                timeouts,
            )
        )
    runner = BoundedRunner(
        application,
        room.clients,
        _limit("connections.max_clients", connections.max_clients, room.clients),
        timeouts,
        handler_cancellation=True,
        # For what does not end although its time is up.
        shutdown_timeout=settings.shutdown_grace + _SLACK,
    )
    try:
        await runner.setup()
        async with tls.watching([*certificate, *proxy.reloaded]), proxy.watching_upstream():
            inherited = place.shared if place is not None else None
            found = inherited or await binding.listen(settings.host, settings.port)
            sites = [Site(runner, each, context, alone=place is None) for each in found]
            for site in sites:
                await site.start()
                listening(site.name)
            yield sites[0].name
    finally:
        proxy.leave()
        if runner.sites:
            await asyncio.sleep(settings.shutdown_delay)
        proxy.stop(settings.shutdown_grace)
        await runner.cleanup()
        await proxy.close()


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that mean an orderly stop.

    The end of a terminal is one, unless the process was started to outlive it (``nohup``).
    """
    if sys.platform == "win32" or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return signal.SIGINT, signal.SIGTERM
    return signal.SIGINT, signal.SIGTERM, signal.SIGHUP


async def run(
    settings: Settings, started: Callable[[str], None] = lambda url: None, place: Place | None = None
) -> None:
    """Serve until told to stop by a signal. Raises InvalidSettingsError."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    own: list[str] = []
    urls: list[str] = []
    room = _room(settings)
    async with serving(settings, place, room=room, listening=urls.append, administered=own.append) as url:
        for number in stop_signals():
            with contextlib.suppress(NotImplementedError):  # Windows has no signal handlers on the loop
                loop.add_signal_handler(number, stop.set)
        log.info(
            "serving",
            url=" ".join(urls),
            **({"admin": " ".join(own)} if own else {}),
            upstream=settings.upstream,
            version=__version__,
        )
        if (ending := api_ending(settings.upstream)) is not None:
            log.warning(
                "the upstream's URL ends like the API's own paths, which clients add to it",
                ending=ending,
                remedy=f"unless it is a gateway's own path, leave out {ending} of --upstream",
            )
        log.info("how answers are shared", **asdict(in_force(settings.access.sharing, _at_first(settings))))
        started(url)
        await stop.wait()
        log.info("stopping", grace=settings.shutdown_grace)


def _room(settings: Settings) -> Room:
    """Return what connections there may be, as far as this process may have descriptors for them."""
    wanted = _unbounded(settings)
    allowed = descriptors.granted(wanted.descriptors)
    room = wanted.within(allowed)
    if room != wanted:
        enough = wanted.descriptors
        log.warning(
            "fewer connections than the settings say: the limit of open files carries no more",
            allowed=allowed,
            needed=enough,
            max_clients=room.clients,
            max_connections=room.upstream,
            remedy=f"raise the hard limit to {enough} (ulimit -Hn, LimitNOFILE=, --ulimit nofile=)",
        )
    return room


async def _let_the_body_come(request: web.Request) -> None:
    """Meet the one expectation there is (RFC 9110 section 10.1.1); others are ignored, as they may be.

    aiohttp's own takes a client that has gone meanwhile for an error of this side, and logs it.
    """
    if request.version >= HttpVersion11 and request.headers.get("Expect", "").lower() == "100-continue":
        with contextlib.suppress(ConnectionError):
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # Else aiohttp believes that the answer has begun.
            request.writer.output_size = 0


def _refuse_itself(settings: Settings) -> None:
    upstream = urlsplit(settings.upstream)
    port = upstream.port or {"http": 80, "https": 443}[upstream.scheme]
    hosts = set(map(canonical, settings.host))
    if hosts & _LOCAL:
        hosts |= _OF_THIS_MACHINE
    if port == settings.port and canonical(upstream.hostname or "") in hosts:
        raise InvalidSettingsError(
            f"upstream: {settings.upstream} is this proxy itself; give --upstream the URL of the workspace"
        )


def refuse_one_port(settings: Settings) -> None:
    """Raise InvalidSettingsError if the two listeners want the same port of the same address."""
    admin = settings.admin
    if admin.port == settings.port != 0 and any(
        in_common(one, other) for one in admin.host for other in settings.host
    ):
        raise InvalidSettingsError(
            f"admin.port: {admin.port} is the clients' port as well; choose another --admin.port, or leave "
            "out --admin.host to serve both at one"
        )


def _refuse_strangers(settings: Settings) -> None:
    access = settings.access
    reachable = next((host for host in settings.host if not is_loopback(host)), None)
    if access.sharing == "service" and not access.clients_file and reachable is not None:
        raise InvalidSettingsError(
            f"access.clients_file: not set, but {reachable} is not loopback: all who reach it could use "
            "the workspace's credential; set --access.clients-file, or --host 127.0.0.1"
        )


def _at_first(settings: Settings) -> UpstreamKind:
    """Return what is known of the upstream before it was asked."""
    return at_first(settings.upstream, asks=_depends_on_kind(settings))


def _depends_on_kind(settings: Settings) -> bool:
    """Whether it makes a difference of what kind the upstream is."""
    return settings.connections.forwarded_fields == "auto" or settings.access.sharing == "auto"


async def _hosts(listener: Sequence[str], settings: Settings) -> Hosts:
    """Return what to answer to at addresses or names to listen on."""
    loopback = all([await _leads_to_loopback(host) for host in listener])
    return Hosts.of(listener, settings.allowed_hosts, loopback=loopback)


async def _leads_to_loopback(host: str) -> bool:
    """Whether a listener at an address or name can be reached from this machine only."""
    if is_loopback(host):
        return True
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False  # it cannot be listened on either, which says so itself
    return all(is_loopback(str(address[0])) for *_, address in found)


def _lifetimes(cache: CacheSettings) -> Lifetimes:
    return Lifetimes(
        listing=cache.listing_ttl,
        unverified=cache.unverified_ttl,
        pending=cache.pending_ttl,
        mutable=cache.mutable_ttl,
        not_found=cache.not_found_ttl,
        discovery=cache.discovery_ttl,
        signed_url=cache.signed_url_ttl,
        signed_url_margin=cache.signed_url_margin,
    )


def _access(settings: Settings, upstream: KnownUpstream, clock: Clock) -> Callable[[bytes], Access]:
    access = settings.access
    if access.sharing != "service":
        caller_fields = CallerFields(access.neutral_fields, access.neutral_cookies)
        return partial(
            Access,
            caller_fields=caller_fields,
            proven=lambda: mode(access.sharing, upstream.current) == "proven",
        )
    clients = None
    if access.clients_file:
        clients = WatchedFile(
            Path(access.clients_file),
            access_clients.parse,
            "access.clients_file",
            warning=access_clients.warning,
            clock=clock.now,
            wall_clock=clock.wall,
        )
    credentials: Credentials
    if access.token_file:
        credentials = TokenFile(Path(access.token_file), clock=clock.now, wall_clock=clock.wall)
    else:
        source = f"profile {access.profile}" if access.profile else "the proxy's environment"
        credentials = Fetched(
            databricks.fetcher(settings.upstream, access.profile),
            f"look at the Databricks credentials in {source}, and at the proxy's log",
            clock=clock.now,
            wall_clock=clock.wall,
        )
    everything = access.reach == "everything"
    return partial(ServiceAccess, credentials=credentials, clients=clients, everything=everything)


def _current(context: tls.Reloaded | None) -> ssl.SSLContext | bool:
    return True if context is None else context.current
