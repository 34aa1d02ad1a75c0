"""Sockets, TLS and signals: how a proxy that has been put together starts and stops."""

import asyncio
import contextlib
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

import structlog

from mlflow_proxy import __version__, descriptors, preflight, tls
from mlflow_proxy.access.mode import in_force
from mlflow_proxy.addresses import is_loopback
from mlflow_proxy.admin import crew, entrance
from mlflow_proxy.assembly import assemble, bound, upstream_at_first
from mlflow_proxy.clock import Clock
from mlflow_proxy.descriptors import Room
from mlflow_proxy.listener import binding
from mlflow_proxy.listener.accepting import Site
from mlflow_proxy.listener.connection import Timeouts
from mlflow_proxy.listener.hosts import Hosts
from mlflow_proxy.listener.runner import BoundedRunner
from mlflow_proxy.settings import Settings, api_ending

log = structlog.get_logger(__name__)

_SLACK = 1.0
"""Seconds that cancelled requests have to end."""


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

    ``room`` is what connections there may be, None for what the settings say. ``listening`` is called with
    each URL that it listens on, ``administered`` each of the own endpoints' listener, if they have one.
    ``clock`` is the machine's unless given.
    """
    clock = clock or Clock(time.monotonic, time.time)
    room = room or _unbounded(settings)
    preflight.check(settings)
    context, certificate = None, []
    if settings.tls.certificate:
        context, pair = tls.for_clients(settings.tls.certificate, settings.tls.key)
        certificate = [pair]
    hosts = await _hosts(settings.host, settings)
    proxy = assemble(settings, hosts, room, clock, place.crew if place is not None else ())

    connections = settings.connections
    timeouts = Timeouts(connections.head_timeout, connections.client_timeout, connections.idle_timeout)
    runner = BoundedRunner(
        proxy.app.handle,
        room.clients,
        bound("connections.max_clients", connections.max_clients, room.clients),
        timeouts,
        handler_cancellation=True,
        # For what does not end although its time is up.
        shutdown_timeout=settings.shutdown_grace + _SLACK,
        leaving=lambda: proxy.readiness.leaving,
        memo=proxy.memo if settings.cache.memo_bytes else None,
    )

    async def admin_sites(own: BoundedRunner) -> list[Site]:
        inherited = place.admin if place is not None else None
        found = inherited or await binding.listen(settings.admin.host, settings.admin.port, "admin.")
        return [Site(own, each, context, alone=place is None) for each in found]

    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(proxy.close)
        proxy.start()
        # The own endpoints are up before the first client is served and until after the last.
        if place is not None:
            await stack.enter_async_context(crew.answer_apart(proxy.apart, place.private))
        if settings.admin.host:
            admin_hosts = await _hosts(settings.admin.host, settings)
            beside = entrance.answer_on_its_own(
                proxy.admin, admin_hosts, admin_sites, administered, room.administration, timeouts
            )
            await stack.enter_async_context(beside)
        try:
            await runner.setup()
            async with tls.watching([*certificate, *proxy.reloaded]), proxy.watching_upstream:
                inherited = place.shared if place is not None else None
                found = inherited or await binding.listen(settings.host, settings.port)
                sites = [Site(runner, each, context, alone=place is None) for each in found]
                for site in sites:
                    await site.start()
                    listening(site.name)
                yield sites[0].name
        finally:
            proxy.readiness.leaving = True
            if runner.sites:
                await asyncio.sleep(settings.shutdown_delay)
            proxy.in_flight.stop(settings.shutdown_grace)
            await runner.cleanup()


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
    """Serve until a signal stops the proxy. Raises InvalidSettingsError."""
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
        log.info(
            "how answers are shared", **asdict(in_force(settings.access.sharing, upstream_at_first(settings)))
        )
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


def _unbounded(settings: Settings) -> Room:
    """Return the room that the settings ask for."""
    connections = settings.connections
    return Room(
        connections.max_clients,
        connections.max_connections,
        entrance.MOST_CLIENTS if settings.admin.host else 0,
    )


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
