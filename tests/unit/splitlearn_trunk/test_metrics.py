import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from splitlearn_trunk.metrics import TOKENS, TrunkMetrics
from support.running_split import RunningTrunk

PREFIX = "splitlearn_trunk_"
# what dashboards and alert rules are written against
NAMES = {
    "frame_compute_time_seconds": "histogram",
    "frame_queue_time_seconds": "histogram",
    "frame_latency_seconds": "histogram",
    "iteration_time_seconds": "histogram",
    "iteration_tokens": "histogram",
    "iteration_sessions": "histogram",
    "rows": "counter",
    "prefix_cache_queries": "counter",
    "prefix_cache_hits": "counter",
    "num_preemptions": "counter",
    "sessions_expired": "counter",
    "sessions": "counter",
    "client_sessions": "counter",
    "num_sessions_open": "gauge",
    "next_replicas": "gauge",
    "num_sessions_running": "gauge",
    "num_sessions_waiting": "gauge",
    "kv_cache_usage_perc": "gauge",
    "kv_cache_pages_used": "gauge",
    "kv_cache_pages_limit": "gauge",
    "cached_prefixes": "gauge",
    "weights_verified": "gauge",
    "weights_damaged": "gauge",
    "wire_bytes": "counter",
    "refusals": "counter",
    "draining": "gauge",
    "drained_sessions": "counter",
    "next_round_trip_seconds": "histogram",
    "next_failures": "counter",
}


def test_names_and_kinds_are_those_that_dashboards_use(trunk: RunningTrunk) -> None:
    text = generate_latest(trunk.trunk.metrics.registry).decode()
    found = [each for each in text_string_to_metric_families(text) if not each.name.endswith("_created")]
    assert {each.name.removeprefix(PREFIX): each.type for each in found if each.name.startswith(PREFIX)} == NAMES


def test_rows_per_step_have_vllm_s_buckets() -> None:
    # vllm/v1/metrics/loggers.py
    assert TOKENS == (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


@pytest.mark.parametrize("name", ["num_preemptions_total", "prefix_cache_queries_total", "prefix_cache_hits_total"])
def test_what_vllm_counts_too_has_the_model_s_name(name: str) -> None:
    registry = TrunkMetrics("tiny").registry
    assert registry.get_sample_value(f"{PREFIX}{name}", {"model_name": "tiny"}) == 0
