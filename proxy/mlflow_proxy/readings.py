"""What the proxy says about itself: in ``/-/status.json``, ``/-/readyz`` and metrics."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial

from mlflow_proxy import __version__, logs
from mlflow_proxy.access.mode import Sharing, in_force
from mlflow_proxy.access.sharing import Access
from mlflow_proxy.budget.fair_queue import Priority
from mlflow_proxy.budget.queue import Queue
from mlflow_proxy.fleet.member import Fleet
from mlflow_proxy.limits import InFlight
from mlflow_proxy.listener.memo import Memo
from mlflow_proxy.metrics import Metrics
from mlflow_proxy.mlflow_api.routes import Group
from mlflow_proxy.mlflow_api.upstream_kind import KnownUpstream
from mlflow_proxy.reading.memory import Memory
from mlflow_proxy.settings import Settings
from mlflow_proxy.upstream.circuit import Circuit
from mlflow_proxy.upstream.circuit_breaker import State


@dataclass(frozen=True, slots=True)
class Readings:
    """Where the figures are; ``flights`` returns how many shared calls are in the air."""

    settings: Settings
    kind: KnownUpstream
    access: Access
    fleet: Fleet | None
    queues: Mapping[Group, Queue]
    memory: Memory
    memo: Memo
    flights: Callable[[], int]
    in_flight: InFlight
    circuit: Circuit

    @property
    def sharing(self) -> Sharing:
        """By which rule clients share answers now, and why."""
        return in_force(self.settings.access.sharing, self.kind.current)

    def cache_bytes(self) -> int:
        """Return the bytes of stored answers, those that the memo holds ready included."""
        return self.memory.store.bytes + self.memo.bytes

    def detail(self) -> dict[str, object]:
        """Return what readiness shows and does not depend on."""
        redis = {"redis": self.fleet.condition()} if self.fleet is not None else {}
        return {"circuit": self.circuit.state, **redis, **self.access.condition()}

    def status(self) -> dict[str, object]:
        """Return how things are."""
        return {
            "version": __version__,
            "upstream": self.settings.upstream,
            "upstream_kind": asdict(self.kind.current),
            "sharing": asdict(self.sharing),
            "fleet": self.fleet.status() if self.fleet is not None else None,
            "groups": {group: asdict(queue.status()) for group, queue in self.queues.items()},
            "cache": {
                "entries": len(self.memory.store),
                "bytes": self.cache_bytes(),
                "memo_bytes": self.memo.bytes,
            },
            "flights": self.flights(),
            "requests": len(self.in_flight),
            "circuit": self.circuit.state,
        }

    def expose(self, metrics: Metrics) -> None:
        """Let metrics read the figures whenever they are asked for."""
        watch = metrics.watch
        if self.fleet is not None:
            _expose_fleet(self.fleet, metrics)
        watch(
            "mlflow_proxy_circuit_open",
            "1 while calls to the workspace are not tried.",
            lambda: self.circuit.state is not State.CLOSED,
        )
        watch(
            "mlflow_proxy_sharing_proven",
            "1 while answers are shared by callers with a proof that they may read the model.",
            lambda: self.sharing.mode == "proven",
        )
        metrics.watch_count(
            "mlflow_proxy_log_lines_dropped", "Lines of the log that could not be written.", logs.dropped
        )
        watch("mlflow_proxy_cache_entries", "Stored answers.", lambda: len(self.memory.store))
        watch("mlflow_proxy_cache_bytes", "Bytes of stored answers.", self.cache_bytes)
        metrics.watch_count(
            "mlflow_proxy_memo_hits",
            "Cache hits answered without looking at more than the bytes of their requests.",
            lambda: self.memo.hits,
        )
        watch("mlflow_proxy_requests_in_flight", "Requests being answered.", lambda: len(self.in_flight))
        watch("mlflow_proxy_flights", "Shared calls in the air.", self.flights)
        for group, queue in self.queues.items():
            for priority in Priority:
                metrics.queue_depth.labels(group, priority.label).set_function(
                    partial(queue.waiting, priority)
                )
            for name, gauge in metrics.budget.items():
                gauge.labels(group).set_function(partial(_reading, queue, name))


def _expose_fleet(fleet: Fleet, metrics: Metrics) -> None:
    watch = metrics.watch
    watch("mlflow_proxy_fleet_members", "Proxies that share the budgets.", fleet.members)
    watch("mlflow_proxy_fleet_alone", "1 while this proxy lives on its share.", fleet.alone)
    if (cache := fleet.cache) is not None:
        watch("mlflow_proxy_fleet_cache_shared", "1 while answers are shared.", lambda: cache.connected)
        watch(
            "mlflow_proxy_fleet_other_secrets",
            "Secrets other than this proxy's in use for this workspace.",
            lambda: cache.other_secrets,
        )


def _reading(queue: Queue, name: str) -> float:
    return float(getattr(queue.status(), name))
