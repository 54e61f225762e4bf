from dataclasses import replace

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from splitlearn_client.metrics import ABORT, ClientMetrics
from splitlearn_client.report import Report

PREFIX = "splitlearn_client_"
# what dashboards and alert rules are written against
NAMES = {
    "time_to_first_token_seconds": "histogram",
    "inter_token_latency_seconds": "histogram",
    "e2e_request_latency_seconds": "histogram",
    "request_time_per_output_token_seconds": "histogram",
    "request_queue_time_seconds": "histogram",
    "request_prefill_time_seconds": "histogram",
    "request_decode_time_seconds": "histogram",
    "request_inference_time_seconds": "histogram",
    "request_prompt_tokens": "histogram",
    "request_generation_tokens": "histogram",
    "prompt_tokens": "counter",
    "generation_tokens": "counter",
    "prefix_cache_queries": "counter",
    "prefix_cache_hits": "counter",
    "request_success": "counter",
    "request_failures": "counter",
    "spec_decode_num_drafts": "counter",
    "spec_decode_num_draft_tokens": "counter",
    "spec_decode_num_accepted_tokens": "counter",
    "num_replays": "counter",
    "failovers": "counter",
    "failover_detection_seconds": "histogram",
    "failover_resumption_seconds": "histogram",
    "trunk_replicas": "gauge",
    "http_requests": "counter",
    "refusals": "counter",
    "tenant_requests": "counter",
    "tenant_tokens": "counter",
    "draining": "gauge",
    "drained_requests": "counter",
    "trunk_round_trip_seconds": "histogram",
    "trunk_poll_errors": "counter",
    "num_requests_running": "gauge",
    "num_requests_waiting": "gauge",
    "trunk_ready": "gauge",
    "weights_damaged": "gauge",
    "response_store_bytes": "gauge",
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


def value(metrics: ClientMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"{PREFIX}{name}", labels)


def report(tokens: int) -> Report:
    """Ten prompt tokens, four of them cached: 1 s in queues, the first token after 3 s, then one a second."""
    last = 3.0 + tokens - 1 if tokens else None
    return Report(
        began=0.0, prompt_tokens=10, completion_tokens=tokens, reused_tokens=4, replays=2, queue_seconds=1.0,
        first_token=3.0 if tokens else None, last_token=last,
    )  # fmt: skip


def test_names_and_kinds_are_those_that_dashboards_use() -> None:
    assert families(ClientMetrics("tiny")) == NAMES


_TOKEN_TIMES = "0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1 2.5 5 7.5 10 20 40 80"
_REQUEST_TIMES = "0.3 0.5 0.8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 960 1920 7680"
# vllm/v1/metrics/loggers.py
VLLM_BUCKETS = {
    "time_to_first_token_seconds": "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10 20 40 80 160 "
    "640 2560",
    "inter_token_latency_seconds": _TOKEN_TIMES,
    "request_time_per_output_token_seconds": _TOKEN_TIMES,
    "e2e_request_latency_seconds": _REQUEST_TIMES,
    "request_queue_time_seconds": _REQUEST_TIMES,
    "request_prefill_time_seconds": _REQUEST_TIMES,
    "request_decode_time_seconds": _REQUEST_TIMES,
    "request_inference_time_seconds": _REQUEST_TIMES,
    "request_prompt_tokens": "1 2 5 10 20 50 100 200 500 1000 2000 5000 10000 20000 50000 100000 200000 500000",
    "request_generation_tokens": "1 2 5 10 20 50 100 200 500 1000 2000 5000 10000 20000 50000 100000 200000 500000",
}


@pytest.mark.parametrize("name", VLLM_BUCKETS)
def test_buckets_are_vllm_s_and_finer_ones_below(name: str) -> None:
    theirs = [*map(float, VLLM_BUCKETS[name].split()), float("inf")]
    edges = buckets(ClientMetrics("tiny"), name)
    assert edges == sorted(edges)
    assert edges[-len(theirs) :] == theirs


def test_requests_are_counted_by_path_method_and_status() -> None:
    metrics = ClientMetrics("tiny")
    for status in (200, 413, 413):
        metrics.http_request("/v1/completions", "POST", status)
    labels = {"path": "/v1/completions", "method": "POST", "status": "413"}
    assert metrics.registry.get_sample_value(f"{PREFIX}http_requests_total", labels) == 2


def test_bytes_are_counted_by_direction_and_by_the_codec_of_the_session() -> None:
    metrics = ClientMetrics("tiny")
    metrics.wire("none", sent=3, received=5)
    metrics.wire("none", sent=4, received=0)
    metrics.wire("int8", sent=2, received=1)
    for codec, expected in (("none", [7, 5]), ("int8", [2, 1])):
        counted = [value(metrics, "wire_bytes_total", direction=way, codec=codec) for way in ("sent", "received")]
        assert counted == expected


def test_two_services_in_one_process_do_not_share_numbers() -> None:
    one, other = ClientMetrics("tiny"), ClientMetrics("tiny")
    one.generation_tokens.inc()
    assert value(other, "generation_tokens_total", model_name="tiny") == 0


def test_the_process_s_own_numbers_are_there() -> None:
    assert ClientMetrics("tiny").registry.get_sample_value("process_resident_memory_bytes")


def test_a_request_s_time_is_that_of_its_queue_its_prefill_and_its_decode() -> None:
    metrics = ClientMetrics("tiny")
    metrics.request_succeeded("stop", report(5))
    kinds = ("e2e_request_latency", "request_queue_time", "request_prefill_time", "request_decode_time")
    sums = [value(metrics, f"{kind}_seconds_sum", model_name="tiny") for kind in kinds]
    assert sums == [7, 1, 2, 4]
    assert value(metrics, "request_inference_time_seconds_sum", model_name="tiny") == 6
    assert value(metrics, "request_time_per_output_token_seconds_sum", model_name="tiny") == 1


def test_a_trunk_cannot_claim_a_longer_queue_than_the_time_to_the_first_token() -> None:
    metrics = ClientMetrics("tiny")
    metrics.request_succeeded("stop", replace(report(1), queue_seconds=1e9))
    assert value(metrics, "request_queue_time_seconds_sum", model_name="tiny") == 3
    assert value(metrics, "request_prefill_time_seconds_sum", model_name="tiny") == 0


def test_tokens_are_counted_of_every_request_and_distributions_of_those_that_got_a_token() -> None:
    metrics = ClientMetrics("tiny")
    metrics.request_succeeded("length", report(3))
    metrics.request_failed("trunk_failed", report(0))
    names = ("prompt_tokens", "generation_tokens", "prefix_cache_queries", "prefix_cache_hits")
    assert [value(metrics, f"{name}_total", model_name="tiny") for name in names] == [20, 3, 20, 8]
    assert value(metrics, "num_replays_total") == 4
    for name in ("request_prompt_tokens", "request_generation_tokens", "e2e_request_latency_seconds"):
        assert value(metrics, f"{name}_count", model_name="tiny") == 1


def test_guesses_are_counted_and_those_that_were_right() -> None:
    metrics, guessing = ClientMetrics("tiny"), report(9)
    for guesses in ((0, 0), (7, 2), (3, 3)):
        guessing.guessed(*guesses)
    metrics.request_succeeded("stop", guessing)
    names = ("num_drafts", "num_draft_tokens", "num_accepted_tokens")
    assert [value(metrics, f"spec_decode_{name}_total", model_name="tiny") for name in names] == [2, 10, 5]


def test_successes_are_counted_by_finished_reason_and_failures_by_code() -> None:
    metrics = ClientMetrics("tiny")
    metrics.request_succeeded(ABORT, report(1))
    metrics.request_failed("too_busy", report(0))
    counted = {
        reason: value(metrics, "request_success_total", model_name="tiny", finished_reason=reason)
        for reason in ("stop", "length", ABORT)
    }
    assert counted == {"stop": 0, "length": 0, ABORT: 1}
    assert value(metrics, "request_failures_total", code="too_busy") == 1


def test_a_request_in_progress_waits_or_runs() -> None:
    metrics, waiting = ClientMetrics("tiny"), 0
    metrics.watch(lambda: waiting)
    with metrics.in_progress(), metrics.in_progress():
        for waiting in (0, 1, 2, 3):
            n_waiting = value(metrics, "num_requests_waiting", model_name="tiny")
            assert n_waiting == min(waiting, 2)
            assert value(metrics, "num_requests_running", model_name="tiny") == 2 - n_waiting
    assert value(metrics, "num_requests_running", model_name="tiny") == 0


def test_what_tenants_do_is_told_apart() -> None:
    metrics = ClientMetrics("tiny")
    metrics.tenant_request("alice")
    metrics.tenant_tokens("alice", prompt=3)
    metrics.tenant_tokens("alice", generation=1)
    metrics.tenant_tokens("bob", generation=1)
    metrics.refusal("rate_limit_exceeded", "bob")
    metrics.refusal("invalid_api_key", "")
    assert value(metrics, "tenant_requests_total", tenant="alice") == 1
    assert value(metrics, "tenant_tokens_total", tenant="alice", kind="prompt") == 3
    assert value(metrics, "tenant_tokens_total", tenant="alice", kind="generation") == 1
    assert value(metrics, "refusals_total", code="rate_limit_exceeded", tenant="bob") == 1
    assert value(metrics, "refusals_total", code="invalid_api_key", tenant="") == 1
    # bob had no request yet, and nobody else is counted in his name
    assert value(metrics, "tenant_requests_total", tenant="bob") is None
