"""What Grafana shows: the graphs of both dashboards with their queries.

`python deploy/grafana/generate.py` writes the dashboards from it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

Queries = Mapping[str, str]
"""PromQL by the name of its lines, in which {{label}} stands for a label's value."""

CLIENT: Final = "splitlearn_client"
TRUNK: Final = "splitlearn_trunk"
_API: Final = '{path=~"/v1/.*"}'
_SERVER_ERRORS: Final = '{path=~"/v1/.*",status=~"5.."}'


@dataclass(frozen=True)
class Graph:
    """Lines over time. `unit` is one of Grafana's."""

    title: str
    unit: str
    queries: Queries
    about: str = ""


@dataclass(frozen=True)
class Board:
    """A dashboard: graphs by the title of their row."""

    uid: str
    title: str
    about: str
    rows: Mapping[str, tuple[Graph, ...]]


def per_second(counter: str, by: str = "", where: str = "") -> str:
    """The rate of a counter, summed over all series, or by labels."""
    return f"sum{f' by ({by})' if by else ''} (rate({counter}{where}[$__rate_interval]))"


def quantiles(histogram: str, by: str = "", shares: Iterable[float] = (0.5, 0.95, 0.99), name: str = "") -> Queries:
    """The quantiles of a histogram of all services together, or of each value of a label."""
    buckets = per_second(f"{histogram}_bucket", f"le, {by}" if by else "le")
    prefix = f"{{{{{by}}}}} " if by else name
    return {f"{prefix}p{share * 100:g}": f"histogram_quantile({share:g}, {buckets})" for share in shares}


def mean(histogram: str, by: str = "") -> str:
    """The mean of a histogram's values."""
    return f"{per_second(f'{histogram}_sum', by)} / {per_second(f'{histogram}_count', by)}"


def share(part: str, whole: str) -> str:
    """One number as a share of another; 0 where there is nothing of the part."""
    return f"({part} or 0 * {whole}) / {whole}"


SERVICE: Final = Board(
    "splitlearn-service",
    "SplitLearn: service",
    "The service as its users see it.",
    {
        "Traffic": (
            Graph(
                "Requests by status",
                "reqps",
                {"{{status}}": per_second(f"{CLIENT}_http_requests_total", "status", _API)},
                "499: the caller hung up.",
            ),
            Graph(
                "Requests in progress",
                "short",
                {
                    "running": f"sum({CLIENT}_num_requests_running)",
                    "waiting for the client's memory": f"sum({CLIENT}_num_requests_waiting)",
                    "waiting for a trunk's memory": f"sum({TRUNK}_num_sessions_waiting)",
                },
            ),
            Graph(
                "Tokens per second",
                "short",
                {
                    "prompt": per_second(f"{CLIENT}_prompt_tokens_total"),
                    "prompt, cached": per_second(f"{CLIENT}_prefix_cache_hits_total"),
                    "output": per_second(f"{CLIENT}_generation_tokens_total"),
                },
                "Counted when a request ends.",
            ),
        ),
        "Errors": (
            Graph(
                "Guesses",
                "short",
                {
                    "ran": per_second(f"{CLIENT}_spec_decode_num_draft_tokens_total"),
                    "right": per_second(f"{CLIENT}_spec_decode_num_accepted_tokens_total"),
                    "steps with guesses": per_second(f"{CLIENT}_spec_decode_num_drafts_total"),
                },
                "Per second; 0 without --speculative-method.",
            ),
            Graph(
                "Share of server errors",
                "percentunit",
                {
                    "5xx": share(
                        per_second(f"{CLIENT}_http_requests_total", where=_SERVER_ERRORS),
                        per_second(f"{CLIENT}_http_requests_total", where=_API),
                    )
                },
            ),
            Graph("Refusals", "reqps", {"{{code}}": per_second(f"{CLIENT}_refusals_total", "code")}),
            Graph(
                "How generations end",
                "reqps",
                {
                    "{{finished_reason}}": per_second(f"{CLIENT}_request_success_total", "finished_reason"),
                    "error: {{code}}": per_second(f"{CLIENT}_request_failures_total", "code"),
                },
            ),
        ),
        "Latency": (
            Graph("Time to first token", "s", quantiles(f"{CLIENT}_time_to_first_token_seconds")),
            Graph("Inter-token latency", "s", quantiles(f"{CLIENT}_inter_token_latency_seconds")),
            Graph("End-to-end latency", "s", quantiles(f"{CLIENT}_e2e_request_latency_seconds")),
            Graph("Queue time", "s", quantiles(f"{CLIENT}_request_queue_time_seconds")),
            Graph(
                "Where a request's time goes",
                "s",
                {phase: mean(f"{CLIENT}_request_{phase}_time_seconds") for phase in ("queue", "prefill", "decode")},
                "Means of the requests that ended.",
            ),
            Graph(
                "Tokens of a request",
                "short",
                {
                    **quantiles(f"{CLIENT}_request_prompt_tokens", shares=(0.5, 0.95), name="prompt "),
                    **quantiles(f"{CLIENT}_request_generation_tokens", shares=(0.5, 0.95), name="output "),
                },
            ),
        ),
        "Tenants": (
            Graph("Refusals by tenant", "reqps", {"{{tenant}}": per_second(f"{CLIENT}_refusals_total", "tenant")}),
        ),
        "Client services": (
            Graph("Has a trunk", "bool_yes_no", {"{{instance}}": f"{CLIENT}_trunk_ready"}),
            Graph(
                "Shutting down",
                "short",
                {
                    "{{instance}}": f"{CLIENT}_draining",
                    "requests: {{outcome}}": f"sum by (outcome) ({CLIENT}_drained_requests_total)",
                },
            ),
            Graph("Memory", "bytes", {"{{instance}}": 'process_resident_memory_bytes{job="client"}'}),
            Graph("Kept responses", "bytes", {"{{instance}}": f"{CLIENT}_response_store_bytes"}),
        ),
    },
)

TRUNKS: Final = Board(
    "splitlearn-trunk",
    "SplitLearn: trunk replicas",
    "The workers that hold the middle layers, and the way to them.",
    {
        "Replicas": (
            Graph("As clients see them", "short", {"{{state}}": f"sum by (state) ({CLIENT}_trunk_replicas)"}),
            Graph(
                "Next stage of a chain",
                "short",
                {"{{instance}} {{state}}": f"sum by (instance, state) ({TRUNK}_next_replicas)"},
            ),
            Graph(
                "Shutting down",
                "short",
                {
                    "{{instance}}": f"{TRUNK}_draining",
                    "sessions: {{outcome}}": f"sum by (outcome) ({TRUNK}_drained_sessions_total)",
                },
            ),
            Graph(
                "Weights",
                "bool_yes_no",
                {
                    "verified: {{instance}}": f"{TRUNK}_weights_verified",
                    "damaged: {{instance}}": f"{TRUNK}_weights_damaged",
                },
            ),
        ),
        "Load": (
            Graph(
                "Sessions",
                "short",
                {
                    f"{{{{instance}}}} {state}": f"{TRUNK}_num_sessions_{state}"
                    for state in ("running", "waiting", "open")
                },
            ),
            Graph("Rows per second", "short", {"{{instance}}": per_second(f"{TRUNK}_rows_total", "instance")}),
            Graph("Time of a step", "s", quantiles(f"{TRUNK}_iteration_time_seconds", "instance", (0.5, 0.95))),
            Graph(
                "In one step",
                "short",
                {
                    "{{instance}} sessions": mean(f"{TRUNK}_iteration_sessions", "instance"),
                    "{{instance}} rows": mean(f"{TRUNK}_iteration_tokens", "instance"),
                },
            ),
            Graph("A frame waits", "s", quantiles(f"{TRUNK}_frame_queue_time_seconds", "instance", (0.5, 0.95))),
            Graph("Refusals", "reqps", {"{{error}}": per_second(f"{TRUNK}_refusals_total", "error")}),
        ),
        "KV cache": (
            Graph("Used share", "percentunit", {"{{instance}}": f"{TRUNK}_kv_cache_usage_perc"}),
            Graph(
                "Prefix cache hits",
                "percentunit",
                {
                    "{{instance}}": share(
                        per_second(f"{TRUNK}_prefix_cache_hits_total", "instance"),
                        per_second(f"{TRUNK}_prefix_cache_queries_total", "instance"),
                    )
                },
                "Of the prompt tokens whose hashes clients sent.",
            ),
            Graph(
                "Sessions that lost their rows",
                "short",
                {
                    "{{instance}} preempted": per_second(f"{TRUNK}_num_preemptions_total", "instance"),
                    "{{instance}} idle": per_second(f"{TRUNK}_sessions_expired_total", "instance"),
                },
                "Per second.",
            ),
        ),
        "Failover": (
            Graph(
                "Failovers and replays",
                "short",
                {
                    "{{reason}}": per_second(f"{CLIENT}_failovers_total", "reason"),
                    "replays": per_second(f"{CLIENT}_num_replays_total"),
                },
                "Per second.",
            ),
            Graph(
                "Failures of the next stage",
                "short",
                {"behind {{instance}}: {{error}}": per_second(f"{TRUNK}_next_failures_total", "instance, error")},
                "Per second; in chains only. The worker that failed is one of the next stage of the one shown.",
            ),
            Graph("Until a fault is detected", "s", quantiles(f"{CLIENT}_failover_detection_seconds")),
            Graph("Until the next token", "s", quantiles(f"{CLIENT}_failover_resumption_seconds")),
        ),
        "Wire": (
            Graph(
                "Round trip to the trunk",
                "s",
                quantiles(f"{CLIENT}_trunk_round_trip_seconds"),
                "Of a frame, without the trunk's queue and compute time.",
            ),
            Graph(
                "Round trip to the next stage",
                "s",
                quantiles(f"{TRUNK}_next_round_trip_seconds", "instance", (0.5, 0.95)),
                "Of a frame, without queue and compute time there; in chains only.",
            ),
            Graph(
                "Bytes, clients",
                "Bps",
                {"{{direction}}, {{codec}}": per_second(f"{CLIENT}_wire_bytes_total", "direction, codec")},
                "By the codec of the session.",
            ),
            Graph(
                "Bytes, trunks",
                "Bps",
                {"{{instance}} {{direction}}": per_second(f"{TRUNK}_wire_bytes_total", "instance, direction")},
            ),
        ),
        "Processes": (
            Graph("Memory", "bytes", {"{{instance}}": 'process_resident_memory_bytes{job="trunk"}'}),
            Graph(
                "CPU cores",
                "short",
                {"{{instance}}": 'rate(process_cpu_seconds_total{job="trunk"}[$__rate_interval])'},
            ),
        ),
    },
)

BOARDS: Final = (SERVICE, TRUNKS)
