"""Metrics of several workers as one."""

import json
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics import parser

from mlflow_proxy.admin.samples import merged, taken
from mlflow_proxy.metrics import Metrics


def counted(requests: int) -> CollectorRegistry:
    metrics = Metrics()
    for _ in range(requests):
        metrics.requests.tally("route", "hit", 200).add(0.2)
    metrics.watch("mlflow_proxy_flights", 'Text with "quotes"\nand lines.', lambda: float("nan"))
    return metrics.registry


def sent(
    registry: CollectorRegistry,
) -> "list[tuple[str, str, str, list[tuple[str, dict[str, str], float]]]]":
    """Return what arrives of it: JSON knows no tuples."""
    arrived: list[tuple[str, str, str, list[tuple[str, dict[str, str], float]]]] = json.loads(
        json.dumps(taken(registry))
    )
    return arrived


def test_nothing_is_lost_or_added_but_the_label() -> None:
    [alone, others] = [counted(3), counted(5)]
    together = merged({"0": sent(alone), "7": sent(others)})
    families = {family.name: family for family in together.collect()}
    assert families.pop("mlflow_proxy_workers").samples[0].value == 2
    for name, registry in (("0", alone), ("7", others)):
        for family in registry.collect():
            same = families[family.name]
            assert (same.documentation, same.type) == (family.documentation, family.type)
            expected = [
                repr((each.name, {**each.labels, "worker": name}, each.value)) for each in family.samples
            ]
            theirs = [each for each in same.samples if each.labels["worker"] == name]
            assert [repr((each.name, each.labels, each.value)) for each in theirs] == expected


def test_the_whole_can_be_read_in_the_stricter_form() -> None:
    encode, _ = choose_encoder("application/openmetrics-text; version=1.0.0")
    text = encode(merged({"0": sent(counted(3)), "1": sent(counted(5))})).decode()
    parse: Callable[[str], Iterable[Metric]] = parser.text_string_to_metric_families
    found = {family.name: family for family in parse(text)}
    totals = {
        sample.labels["worker"]: sample.value
        for sample in found["mlflow_proxy_requests"].samples
        if sample.name.endswith("_total")
    }
    assert totals == {"0": 3, "1": 5}
    assert found["mlflow_proxy_flights"].documentation == 'Text with "quotes"\nand lines.'


def test_no_worker_at_all() -> None:
    [family] = merged({}).collect()
    assert (family.name, family.samples[0].value) == ("mlflow_proxy_workers", 0)
