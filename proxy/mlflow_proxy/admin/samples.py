"""Metrics of several workers as one: what each sends, and how it is put together.

What they send is JSON and not Prometheus' text: to parse that took 33 us a sample (measured), on the event
loop of a worker that has calls to pace. Pure.
"""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

Sample = tuple[str, dict[str, str], float]
Family = tuple[str, str, str, list[Sample]]
"""Name, help, type and samples. Exemplars and timestamps are left out: the proxy has none."""


def taken(registry: CollectorRegistry) -> list[Family]:
    """Return what is counted now."""
    return [
        (
            family.name,
            family.documentation,
            family.type,
            [(sample.name, dict(sample.labels), sample.value) for sample in family.samples],
        )
        for family in registry.collect()
    ]


def merged(workers: Mapping[str, Iterable[Family]]) -> CollectorRegistry:
    """Return all samples of all workers, labelled with the worker's name, and how many workers there are."""
    families: dict[str, Metric] = {}
    for worker, theirs in workers.items():
        for name, documentation, kind, samples in theirs:
            family = families.setdefault(name, Metric(name, documentation, kind))
            for sample, labels, value in samples:
                family.add_sample(sample, {**labels, "worker": worker}, value)
    answered = GaugeMetricFamily("mlflow_proxy_workers", "Workers that answered this time.", len(workers))
    registry = CollectorRegistry()
    registry.register(_Fixed([answered, *families.values()]))
    return registry


class _Fixed(Collector):
    """Families as they are."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
