"""What is counted, in one place (Prometheus)."""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

_WAITS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
"""Seconds; the upper ones are where clients lose patience."""


class Metrics:
    """All metrics of one proxy, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Requests()
        self.registry.register(self.requests)
        self.upstream_calls = Counter(
            "mlflow_proxy_upstream_calls",
            "Calls made to the workspace, every attempt, by budget group and status ('error' for none).",
            ["group", "status"],
            registry=self.registry,
        )
        self.refusals = Counter(
            "mlflow_proxy_upstream_429s",
            "429 answers seen from the workspace, by budget group.",
            ["group"],
            registry=self.registry,
        )
        self.storage_calls = Counter(
            "mlflow_proxy_storage_calls",
            "Downloads started from cloud storage, by status ('error' for none).",
            ["status"],
            registry=self.registry,
        )
        self.fleet_answers = Counter(
            "mlflow_proxy_fleet_answers",
            "Questions to the shared cache: hit, joined another proxy's call, led one for all, alone without "
            "Redis; and what was unreadable.",
            ["how"],
            registry=self.registry,
        )
        self.personal_answers = Counter(
            "mlflow_proxy_personal_answers",
            "Successes that could not be shared by all clients that may read the model, by route and reason.",
            ["route", "reason"],
            registry=self.registry,
        )
        self.proofs = Counter(
            "mlflow_proxy_proofs",
            "Calls made to learn whether a caller may read a model, so that it may share answers about it.",
            registry=self.registry,
        )
        self.splits = Counter(
            "mlflow_proxy_split_questions",
            "Equal questions asked apart because of a request field, by its name and the setting that would "
            "end it, if one may.",
            ["field", "setting"],
            registry=self.registry,
        )
        self.queue_wait = Histogram(
            "mlflow_proxy_queue_wait_seconds",
            "Time calls waited for a place in the budget, by group.",
            ["group"],
            buckets=_WAITS,
            registry=self.registry,
        )

        self.queue_depth = Gauge(
            "mlflow_proxy_queue_depth",
            "Calls waiting for a place in the budget, by group and class.",
            ["group", "class"],
            registry=self.registry,
        )
        self.budget = {
            name: Gauge(f"mlflow_proxy_budget_{name}", text, ["group"], registry=self.registry)
            for name, text in (
                ("limit", "Calls a second that may be made at most, by group."),
                ("rate", "Calls a second that may be made now: less than the limit after 429s."),
                ("in_window", "Calls that count against the limit now."),
                ("outside", "Estimate of the calls a second that others make."),
                ("pause_seconds", "Seconds left of a pause that the workspace asked for."),
                ("refused_alone", "Clients that the workspace refuses while it answers all others."),
            )
        }
        """Readings of each budget, by the name of the field in ``budget.interface.Status``."""

    def watch(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Expose a value that is read when the metrics are (a gauge)."""
        Gauge(name, help_text, registry=self.registry).set_function(read)

    def watch_count(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Expose a value that only grows, and is read when the metrics are (a counter)."""
        self.registry.register(_Count(name, help_text, read))


class _Count(Collector):
    """A counter that something else counts."""

    def __init__(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        self._name = name
        self._help = help_text
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """Read it."""
        yield CounterMetricFamily(self._name, self._help, self._read())


class Tally:
    """How many requests of one kind were answered, and how long that took: plain numbers, cheap to add to."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(_WAITS) + 1)
        """Requests that took up to the seconds of the same place in ``_WAITS``; at last all others."""
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.buckets[bisect_left(_WAITS, seconds)] += 1
        self.seconds += seconds


class Requests(Collector):
    """The requests answered. A request finds its tally once; Prometheus' names are for the scrape."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str, int], Tally] = {}

    def tally(self, route: str, outcome: str, status: int) -> Tally:
        """Return what counts requests of one route, cache outcome and status."""
        key = (route, outcome, status)
        found = self._tallies.get(key)
        if found is None:
            found = self._tallies[key] = Tally()
        return found

    def collect(self) -> Iterable[Metric]:
        """Yield the counter and the histogram."""
        answered = CounterMetricFamily(
            "mlflow_proxy_requests",
            "Requests answered, by route, cache outcome and status.",
            labels=["route", "outcome", "status"],
        )
        by_outcome: dict[str, Tally] = {}
        for (route, outcome, status), tally in list(self._tallies.items()):
            answered.add_metric([route, outcome, str(status)], sum(tally.buckets))
            total = by_outcome.setdefault(outcome, Tally())
            total.buckets = [a + b for a, b in zip(total.buckets, tally.buckets, strict=True)]
            total.seconds += tally.seconds
        yield answered
        took = HistogramMetricFamily(
            "mlflow_proxy_request_seconds",
            "Time until a request was answered, by cache outcome.",
            labels=["outcome"],
        )
        bounds = [*map(str, _WAITS), "+Inf"]
        for outcome, total in by_outcome.items():
            counts = accumulate(total.buckets)
            took.add_metric([outcome], list(zip(bounds, counts, strict=True)), total.seconds)
        yield took
