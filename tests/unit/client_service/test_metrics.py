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
    "num_requests_running": "gauge",
    "trunk_ready": "gauge",
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


def test_buckets_tell_milliseconds_between_tokens_and_minutes_of_a_request_apart() -> None:
    metrics = ClientMetrics()
    spans = {
        "time_to_first_token_seconds": (0.001, 40.0),
        "inter_token_latency_seconds": (0.001, 5.0),
        "e2e_request_latency_seconds": (0.05, 240.0),
    }
    for name, (shortest, longest) in spans.items():
        edges = buckets(metrics, name)
        assert edges == sorted(edges)
        assert (edges[0], edges[-2], edges[-1]) == (shortest, longest, float("inf"))


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
