"""Alert rules and autoscaling queries: metrics that exist, rules that fire as they should, and a runbook entry each."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.helm_chart import CHART, ROOT, Helm, of_kind
from support.helm_values import EVERYTHING

pytestmark = pytest.mark.slow

RULES = CHART / "files" / "alerts.yaml"
# those of Prometheus and of the ServiceMonitor
TARGET_LABELS = {"instance", "job", "namespace", "pod", "app_kubernetes_io_instance", "splitlearn_stage"}


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def documented() -> dict[str, set[str]]:
    """The series in docs/metrics.md with their own labels. (A test of the services compares that page with them.)"""
    found: dict[str, set[str]] = {}
    prefix = ""
    for line in (ROOT / "docs" / "metrics.md").read_text().splitlines():
        if match := re.match(r"The prefix is `(\w+)`", line):
            prefix = match[1]
        if not prefix or not (row := re.match(r"\| (`.*?) \| (\w+) \|", line)):
            continue
        for name, labels in re.findall(r"`(\w+)(?:\{([\w,]+)\})?`", row[1]):
            own = {*labels.split(",")} - {""} | ({"model_name"} if "(vLLM)" in row[1] else set())
            found |= {f"{prefix}{name}": own}
            if row[2] == "histogram":
                found |= {f"{prefix}{name}_{part}": own | {"le"} for part in ("bucket", "sum", "count")}
    return found


def unknown(query: str) -> list[str]:
    """Metrics of a query that do not exist, and labels that its metrics do not have."""
    known = documented()
    named = re.findall(r"(splitlearn_(?:trunk|client)_\w+)(?:\{([^}]*)\})?", query)
    assert named, query
    wrong = [name for name, _ in named if name not in known]
    for name, selectors in named:
        labels = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selectors)
        wrong += [f"{name}{{{label}}}" for label in labels if label not in known.get(name, set()) | TARGET_LABELS]
    grouped = {
        label for labels in re.findall(r"(?:by|ignoring)\s*\(([\w, ]*)\)", query) for label in labels.split(", ")
    }
    return wrong + sorted(grouped - TARGET_LABELS - set().union(*(known.get(name, set()) for name, _ in named)))


def test_every_alert_is_about_metrics_and_labels_that_exist() -> None:
    assert {alert["alert"]: unknown(alert["expr"]) for alert in alerts()} == {alert["alert"]: [] for alert in alerts()}


def test_autoscaling_asks_for_metrics_and_labels_that_exist(helm: Helm) -> None:
    objects = of_kind(helm.objects(EVERYTHING), "ScaledObject")
    (query,) = {each["spec"]["triggers"][0]["metadata"]["query"] for each in objects}
    assert query == (
        'sum(splitlearn_trunk_num_sessions_waiting{namespace="prod", app_kubernetes_io_instance="demo", '
        'splitlearn_stage="lower"})'
    )
    keda = {"enabled": True, "kind": "keda", "prometheusAddress": "http://prometheus:9090"}
    (client,) = of_kind(helm.objects({"client": {"autoscaling": keda}}), "ScaledObject")
    for each in (query, client["spec"]["triggers"][0]["metadata"]["query"]):
        assert unknown(each) == []


def test_the_labels_of_the_queries_are_those_that_the_service_monitor_copies(helm: Helm) -> None:
    for monitor in of_kind(helm.objects(EVERYTHING), "ServiceMonitor"):
        copied = {re.sub(r"\W", "_", label) for label in monitor["spec"]["targetLabels"]}
        assert copied == {"app_kubernetes_io_instance", "splitlearn_stage"}
        assert copied <= TARGET_LABELS


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("splitlearn_trunk_unheard_of > 1", ["splitlearn_trunk_unheard_of"]),
        ('splitlearn_trunk_rows_total{path="/"}', ["splitlearn_trunk_rows_total{path}"]),
        ("sum by (status) (splitlearn_client_num_replays_total)", ["status"]),
        ('splitlearn_client_http_requests_total{status=~"5..",instance="a"}', []),
    ],
)
def test_an_unknown_metric_or_label_is_found(query: str, found: list[str]) -> None:
    assert unknown(query) == found


def test_the_chart_installs_the_rules_as_they_are_tested(helm: Helm) -> None:
    (rule,) = of_kind(helm.objects(EVERYTHING), "PrometheusRule")
    assert rule["spec"] == yaml.safe_load(RULES.read_text())


def test_every_alert_has_a_severity_and_a_runbook_entry_and_every_entry_an_alert() -> None:
    runbook = (ROOT / "docs" / "operations.md").read_text().partition("\n## Runbook\n")[2]
    assert re.findall(r"^### (\w+)$", runbook, re.MULTILINE) == [alert["alert"] for alert in alerts()]
    for alert in alerts():
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert alert["annotations"]["runbook_url"].endswith(f"/docs/operations.md#{alert['alert'].lower()}")


def test_promtool_accepts_the_rules_and_each_alert_fires_and_stays_silent_as_it_should() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool: Debian has it in the package prometheus")
    for words in (["check", "rules", str(RULES)], ["test", "rules", str(Path(__file__).parent / "alerts_test.yaml")]):
        done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_to_fire() -> None:
    tested = (Path(__file__).parent / "alerts_test.yaml").read_text()
    assert [alert["alert"] for alert in alerts() if f'alertname="{alert["alert"]}"' not in tested] == []
