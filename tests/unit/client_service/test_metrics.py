import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from client_service.metrics import ClientMetrics

PREFIX = "splitlearn_client_"
# what dashboards and alert rules are written against
NAMES = {
    "time_to_first_token_seconds": "histogram",
    "inter_token_latency_seconds": "histogram",
    "e2e_request_latency_seconds": "histogram",
    "prompt_tokens": "counter",
    "generation_tokens": "counter",
    "request_finished": "counter",
    "http_requests": "counter",
    "watch_failures": "counter",
    "num_requests_running": "gauge",
    "trunk_ready": "gauge",
    "weights_damaged": "gauge",
    "weights_verified": "gauge",
    "wire_bytes": "counter",
}


def families(metrics: ClientMetrics) -> dict[str, str]:
    text = generate_latest(metrics.registry).decode()
    found = [each for each in text_string_to_metric_families(text) if not each.name.endswith("_created")]
    return {each.name.removeprefix(PREFIX): each.type for each in found if each.name.startswith(PREFIX)}


def buckets(metrics: ClientMetrics, name: str) -> list[float]:
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    return [float(s.labels["le"]) for s in samples if s.name == f"{PREFIX}{name}_bucket"]


def test_names_and_kinds_are_those_that_dashboards_use() -> None:
    assert families(ClientMetrics()) == NAMES


# vllm/v1/metrics/loggers.py
VLLM_BUCKETS = {
    "time_to_first_token_seconds": "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10 20 40 80 160 "
    "640 2560",
    "inter_token_latency_seconds": "0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1 2.5 5 7.5 10 20 40 80",
    "e2e_request_latency_seconds": "0.3 0.5 0.8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 960 1920 7680",
}


@pytest.mark.parametrize("name", VLLM_BUCKETS)
def test_buckets_are_vllm_s_and_finer_ones_below(name: str) -> None:
    theirs = [*map(float, VLLM_BUCKETS[name].split()), float("inf")]
    edges = buckets(ClientMetrics(), name)
    assert edges == sorted(edges)
    assert edges[-len(theirs) :] == theirs


def test_requests_are_counted_by_path_method_and_status() -> None:
    metrics = ClientMetrics()
    for status in (200, 413, 413):
        metrics.request_answered("/v1/completions", "POST", status)
    labels = {"path": "/v1/completions", "method": "POST", "status": "413"}
    assert metrics.registry.get_sample_value(f"{PREFIX}http_requests_total", labels) == 2


def test_bytes_are_counted_by_direction() -> None:
    metrics = ClientMetrics()
    metrics.wire(sent=3, received=5)
    metrics.wire(sent=4, received=0)
    counted = [
        metrics.registry.get_sample_value(f"{PREFIX}wire_bytes_total", {"direction": way})
        for way in ("sent", "received")
    ]
    assert counted == [7, 5]


def test_two_services_in_one_process_do_not_share_numbers() -> None:
    one, other = ClientMetrics(), ClientMetrics()
    one.generation_tokens.inc()
    assert other.registry.get_sample_value(f"{PREFIX}generation_tokens_total") == 0


def test_the_process_s_own_numbers_are_there() -> None:
    assert ClientMetrics().registry.get_sample_value("process_resident_memory_bytes")
