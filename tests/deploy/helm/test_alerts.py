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
from support.promql import TARGET_LABELS, unknown

pytestmark = pytest.mark.slow

RULES = CHART / "files" / "alerts.yaml"
TESTS = Path(__file__).parent / "alerts_test.yaml"


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


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


def promtool(*words: object) -> "subprocess.CompletedProcess[str]":
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool: Debian has it in the package prometheus")
    return subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, check=False)


def test_promtool_accepts_the_rules_and_each_alert_fires_and_stays_silent_as_it_should() -> None:
    for words in (("check", "rules", RULES), ("test", "rules", TESTS)):
        done = promtool(*words)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", [alert["alert"] for alert in alerts()])
@pytest.mark.parametrize(
    "broken",
    [
        {"expr": "vector(0) > 1"},
        {"expr": "vector(1)"},
        {"for": "0s"},
        {"for": "3h"},
        {"labels": {"severity": "none"}},
    ],
    ids=str,
)
def test_a_rule_that_is_broken_fails_its_test(name: str, broken: dict[str, Any], tmp_path: Path) -> None:
    rules, tests = yaml.safe_load(RULES.read_text()), yaml.safe_load(TESTS.read_text())
    (alert,) = (rule for group in rules["groups"] for rule in group["rules"] if rule["alert"] == name)
    if broken == {"for": "0s"} and "for" not in alert:
        return
    alert |= broken
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests | {"rule_files": ["rules.yaml"]}))
    done = promtool("test", "rules", tmp_path / "tests.yaml")
    assert done.returncode != 0
    assert name in done.stdout + done.stderr


def test_every_alert_is_tested_to_fire() -> None:
    tested = TESTS.read_text()
    assert [alert["alert"] for alert in alerts() if f'alertname="{alert["alert"]}"' not in tested] == []
