"""From settings to parts: what a proxy is made of. Nothing is started here, and nothing attached later."""

import os
import random
import secrets
import ssl
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import structlog
from yarl import URL

from mlflow_proxy import discovery, tls
from mlflow_proxy.access import clients as access_clients
from mlflow_proxy.access import databricks
from mlflow_proxy.access.credential import Credentials, Fetched, TokenFile
from mlflow_proxy.access.files import WatchedFile
from mlflow_proxy.access.mode import mode
from mlflow_proxy.access.service import ServiceAccess
from mlflow_proxy.access.sharing import Access
from mlflow_proxy.admin import crew, entrance, purge
from mlflow_proxy.admin.handlers import Readiness, handlers
from mlflow_proxy.app import App, Parts
from mlflow_proxy.artifacts.facade import ArtifactFacade
from mlflow_proxy.budget.congestion import Cubic
from mlflow_proxy.budget.interface import Budget, Limits
from mlflow_proxy.budget.pacer import Pacer
from mlflow_proxy.budget.queue import Queue
from mlflow_proxy.clock import Clock
from mlflow_proxy.descriptors import Room
from mlflow_proxy.fleet.member import Fleet
from mlflow_proxy.forwarding import Forwarding
from mlflow_proxy.limits import InFlight
from mlflow_proxy.listener.hosts import Hosts
from mlflow_proxy.listener.memo import Memo
from mlflow_proxy.listener.runner import Handler
from mlflow_proxy.metrics import Metrics
from mlflow_proxy.mlflow_api.caller_fields import CallerFields
from mlflow_proxy.mlflow_api.routes import Group
from mlflow_proxy.mlflow_api.upstream_kind import KnownUpstream, UpstreamKind, at_first
from mlflow_proxy.passing import Passing
from mlflow_proxy.pipeline import Pipeline
from mlflow_proxy.reading import stack
from mlflow_proxy.reading.freshness import Lifetimes
from mlflow_proxy.reading.memory import Memory
from mlflow_proxy.reading.writes import Writes
from mlflow_proxy.readings import Readings
from mlflow_proxy.settings import BudgetSettings, CacheSettings, Settings
from mlflow_proxy.upstream.client import Bounds, HttpClient
from mlflow_proxy.upstream.destination import Destinations
from mlflow_proxy.upstream.failures import STORAGE, WORKSPACE, Peer
from mlflow_proxy.upstream.forward_proxy import ForwardProxies, without_credentials
from mlflow_proxy.workspace import Workspace

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy, ready to be served. Must be made, used and closed in one event loop.

    Attributes:
        app: answers clients.
        admin: answers under ``/-/``, at a listener of its own if it has one.
        apart: answers other workers about this one alone.
        readiness: notified when the proxy is to leave.
        in_flight: notified when requests have to end.
        memo: answers again what was answered from the store.
        reloaded: TLS contexts whose files have to be watched.
        watching_upstream: the context in which the upstream is asked, in the background, what kind it is of.

    """

    app: App
    admin: entrance.Entrance
    apart: dict[str, Handler]
    readiness: Readiness
    in_flight: InFlight
    memo: Memo
    reloaded: Sequence[tls.Context]
    watching_upstream: AbstractAsyncContextManager[None]
    fleet: Fleet | None
    access: Access
    clients: Sequence[HttpClient]

    def start(self) -> None:
        """Begin to take part in the fleet."""
        if self.fleet is not None:
            self.fleet.start()

    async def close(self) -> None:
        """Close all connections to the workspace, its storage and the fleet."""
        if self.fleet is not None:
            await self.fleet.close()
        await self.access.close()
        for client in self.clients:
            await client.close()


def assemble(
    settings: Settings, hosts: Hosts, room: Room, clock: Clock, workers: Sequence[str] = ()
) -> Proxy:
    """Return the proxy that these settings describe. Raises InvalidSettingsError.

    ``hosts`` are those that clients may call it by; ``room`` is what connections it may have; ``clock`` says
    when things end. ``workers`` are the URLs of the workers' private sockets, if it is one of several.
    """
    # First what can be refused: what is open has to be closed.
    forward_proxies = ForwardProxies.named_in(os.environ)
    ways = _tls_contexts(settings)
    kind = KnownUpstream(upstream_at_first(settings))
    metrics = Metrics()
    service = _service(settings, clock) if settings.access.sharing == "service" else None
    memory = Memory(settings.cache.max_bytes, settings.access.proof_ttl, settings.access.refusal_ttl, clock)
    fleet = _fleet(settings, memory, metrics)
    access = _access(settings, kind, service, (fleet and fleet.partition_key) or secrets.token_bytes(32))
    to_workspace, to_storage = _clients(settings, room, ways, forward_proxies)
    queues = _queues(settings.budget, fleet, metrics)
    workspace = Workspace(settings.upstream, to_workspace, queues, access, metrics)
    forwarding = _forwarding(settings, kind)
    shared = None if fleet is None else fleet.cache
    writes = Writes(memory, shared)
    readers = stack.build(*(workspace, memory, writes, shared, access, forwarding, metrics), _rules(settings))
    passing = Passing(workspace, access, memory, writes, settings.budget.patience)
    pipeline = Pipeline(
        readers.top, passing, settings.budget.patience, rewrite_dbfs=settings.artifacts.rewrite_dbfs
    )
    in_flight = InFlight(settings.connections.max_requests)
    remembered = Memo(
        *(settings.cache.memo_bytes, clock.now, in_flight.full, lambda: kind.term),
        by_address=lambda: forwarding.appends,
    )
    readings = Readings(
        *(settings, kind, access, fleet, queues, memory, remembered),
        *(readers.flights.__len__, in_flight, workspace.circuit),
    )
    readings.expose(metrics)
    readiness = Readiness(to_workspace, settings.upstream, workspace.circuit, clock.now)
    own = _own_endpoints(settings, metrics, readiness, readings, writes, workers)
    parts = Parts(
        hosts=hosts,
        administer=entrance.elsewhere if settings.admin.host else own.handle,
        in_flight=in_flight,
        forwarding=forwarding,
        access=access,
        artifacts=ArtifactFacade(pipeline, writes, memory, to_storage, metrics),
        pipeline=pipeline,
    )
    return Proxy(
        app=App(parts, metrics),
        admin=own,
        apart=crew.apart(metrics.registry, readings.status),
        readiness=readiness,
        in_flight=in_flight,
        memo=remembered,
        reloaded=[each for each in ways if each is not None],
        watching_upstream=_watching_upstream(settings, kind, workspace, readings, clock),
        fleet=fleet,
        access=access,
        clients=(to_workspace, to_storage),
    )


def upstream_at_first(settings: Settings) -> UpstreamKind:
    """Return what is known of the upstream before it was asked."""
    return at_first(settings.upstream, asks=_depends_on_kind(settings))


def _depends_on_kind(settings: Settings) -> bool:
    """Whether it makes a difference of what kind the upstream is."""
    return settings.connections.forwarded_fields == "auto" or settings.access.sharing == "auto"


_Ways = tuple[tls.Context | None, tls.Context | None]
"""TLS contexts to the workspace and to its storage; None for the system's."""


def _tls_contexts(settings: Settings) -> _Ways:
    connections = settings.connections
    # The client certificate is for the workspace alone.
    return (
        tls.for_upstream(connections.ca_file, connections.client_certificate, connections.client_key),
        tls.for_upstream(connections.ca_file),
    )


def _clients(
    settings: Settings, room: Room, ways: _Ways, forward_proxies: ForwardProxies
) -> tuple[HttpClient, HttpClient]:
    """Return what calls the workspace, and what calls its storage."""
    connections = settings.connections
    bounds = Bounds(
        *(connections.connect_timeout, connections.read_timeout, room.upstream),
        bound("connections.max_connections", connections.max_connections, room.upstream),
    )
    if (forward := forward_proxies.towards(URL(settings.upstream))) is not None:
        log.info("the workspace is called through a proxy", proxy=without_credentials(forward))

    def client(
        peer: Peer, context: tls.Context | None, destinations: Destinations | None, *, repeats: bool
    ) -> HttpClient:
        return HttpClient(
            peer,
            bounds,
            repeats=repeats,
            tls=partial(_current, context),
            forward_proxies=forward_proxies,
            destinations=destinations,
        )

    of_storage = Destinations.of(settings.upstream, local=settings.artifacts.local_storage)
    return (
        client(WORKSPACE, ways[0], None, repeats=False),
        client(STORAGE, ways[1], of_storage, repeats=True),
    )


def _fleet(settings: Settings, memory: Memory, metrics: Metrics) -> Fleet | None:
    if not settings.redis:
        return None
    return Fleet(
        *(settings.redis, settings.upstream, settings.fleet.secret.get_secret_value()),
        *(memory.forget, lambda how: metrics.fleet_answers.labels(how).inc(), memory.clock.now),
    )


def _queues(budget: BudgetSettings, fleet: Fleet | None, metrics: Metrics) -> dict[Group, Queue]:
    """Return one queue for each limit of the workspace, across all clients (rule 1)."""
    return {group: _queue(group, limit, budget, fleet, metrics) for group, limit in budget.limits.items()}


def _queue(group: Group, limit: int, budget: BudgetSettings, fleet: Fleet | None, metrics: Metrics) -> Queue:
    window = 1.0 + budget.jitter_margin

    def pacer(line: Queue) -> Budget:
        if fleet is None:
            return Pacer(limit, window, Cubic(limit, budget.floor))
        return fleet.budget(group, limit, window, budget.floor, line)

    return Queue(
        pacer,
        metrics.queue_wait.labels(group).observe,
        random.random,
        Limits(budget.queue_per_client, budget.queue_total, budget.background_share),
    )


def _forwarding(settings: Settings, kind: KnownUpstream) -> Forwarding:
    return Forwarding(
        settings.connections.forwarded_fields, kind, as_sent=settings.access.sharing != "service"
    )


def _rules(settings: Settings) -> stack.Rules:
    cache = settings.cache
    return stack.Rules(
        _lifetimes(cache), cache.stale_if_error, settings.budget.patience, cache.max_entry_bytes
    )


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


def _own_endpoints(
    settings: Settings,
    metrics: Metrics,
    readiness: Readiness,
    readings: Readings,
    writes: Writes,
    workers: Sequence[str],
) -> entrance.Entrance:
    questions = handlers(metrics.registry, readiness, readings.status, readings.detail)
    if workers:
        questions |= crew.together(workers)
    return entrance.Entrance(
        questions, {"purge": purge.handler(writes.purge)}, settings.admin.token.get_secret_value()
    )


def _watching_upstream(
    settings: Settings, kind: KnownUpstream, workspace: Workspace, readings: Readings, clock: Clock
) -> AbstractAsyncContextManager[None]:
    """Return the context in which the upstream is asked, in the background, what kind it is of.

    Nothing is asked where its name says it, or no setting depends on it.
    """
    if kind.current.is_databricks or not _depends_on_kind(settings):
        return nullcontext()

    def changed() -> None:
        known = {**asdict(kind.current), "sharing": readings.sharing.mode}
        if kind.current.is_databricks:
            log.info("the upstream's kind is known", **known)
            return
        if settings.preset == "databricks":
            # It may be a gateway in front of a workspace, so that its limits are not lifted by themselves.
            known["remedy"] = "if it is an MLflow server, --preset open-source lifts a workspace's limits"
        log.warning("the upstream's kind is known", **known)

    ask = partial(discovery.ask, workspace, settings.budget.patience)
    lifetime = settings.cache.discovery_ttl
    return discovery.Discovery(kind, ask, lifetime, random.random, changed, clock.now).watching()


_Service = tuple[Credentials, WatchedFile[access_clients.Clients] | None]
"""The one credential of mode "service", and the clients that may use it; None for all on this machine."""


def _service(settings: Settings, clock: Clock) -> _Service:
    access = settings.access
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
    return credentials, clients


def _access(settings: Settings, upstream: KnownUpstream, service: _Service | None, key: bytes) -> Access:
    access = settings.access
    if service is not None:
        return ServiceAccess(key, *service, everything=access.reach == "everything")
    return Access(
        key,
        CallerFields(access.neutral_fields, access.neutral_cookies),
        proven=lambda: mode(access.sharing, upstream.current) == "proven",
    )


def _current(context: tls.Context | None) -> ssl.SSLContext | bool:
    return True if context is None else context.current


def bound(setting: str, wanted: int, given: int) -> str:
    """Return what limits a number of connections, as the operator reads it in a message."""
    return (
        setting if given == wanted else f"as many of {setting} as the limit of open files, ulimit -n, carries"
    )
