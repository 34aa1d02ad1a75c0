"""Requests, counted in plain numbers, as Prometheus reads them."""

from prometheus_client.exposition import generate_latest

from mlflow_proxy.metrics import Metrics


def test_a_tally_is_a_counter_and_a_part_of_a_histogram() -> None:
    metrics = Metrics()
    for seconds in (0.0, 0.001, 0.3, 100.0):
        metrics.requests.tally("one", "hit", 200).add(seconds)
    metrics.requests.tally("other", "hit", 404).add(0.02)
    text = generate_latest(metrics.registry).decode()
    assert 'mlflow_proxy_requests_total{outcome="hit",route="one",status="200"} 4.0' in text
    assert 'mlflow_proxy_requests_total{outcome="hit",route="other",status="404"} 1.0' in text
    buckets = {
        line.partition('le="')[2].partition('"')[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("mlflow_proxy_request_seconds_bucket")
    }
    assert (buckets["0.005"], buckets["0.025"], buckets["0.5"], buckets["60.0"]) == (2, 3, 4, 4)
    assert buckets["+Inf"] == 5
    assert 'mlflow_proxy_request_seconds_count{outcome="hit"} 5.0' in text
    assert 'mlflow_proxy_request_seconds_sum{outcome="hit"} 100.321' in text
