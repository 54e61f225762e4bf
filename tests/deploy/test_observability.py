"""Dashboards, rules and the compose profile `observability`, as far as they go without Prometheus and Grafana running.

tests/deploy/test_dashboards.py runs every panel's query.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from support.dashboards import DASHBOARDS, GRAFANA, Target, boards, targets
from support.promql import unknown

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
PROVISIONING = GRAFANA / "provisioning"


def mounts(service: str) -> dict[str, Path]:
    """What compose mounts from this repository, by where the container sees it."""
    found = (each.split(":") for each in COMPOSE[service]["volumes"] if each.startswith("./"))
    return {target: ROOT / source for source, target, mode in found if mode == "ro"}


# --- dashboards ------------------------------------------------------------------------------------------------------


def test_the_dashboards_are_what_their_description_says() -> None:
    done = subprocess.run(
        [sys.executable, GRAFANA / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", boards())
def test_grafana_s_sdk_reads_a_dashboard_and_writes_the_same(name: str) -> None:
    register_default_plugins()
    board = boards()[name]
    assert json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder)) == board


@pytest.mark.parametrize("board", boards().values(), ids=boards())
def test_panels_have_numbers_of_their_own_and_do_not_overlap(board: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in board["panels"]]
    assert len({*ids}) == len(ids)
    cells = [
        (x, y)
        for panel in board["panels"]
        for grid in (panel["gridPos"],)
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len({*cells}) == len(cells)
    assert max(x for x, _ in cells) == 23


@pytest.mark.parametrize("target", targets(), ids=str)
def test_a_query_is_about_metrics_and_labels_that_exist(target: Target) -> None:
    if "splitlearn_" in target.expr:
        assert unknown(target.expr) == []
    for label in re.findall(r"{{(\w+)}}", target.legend):
        assert label == "instance" or re.search(rf"by \([^)]*\b{label}\b", target.expr), target


def test_promtool_can_read_every_query(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool: Debian has it in the package prometheus")
    rules = [{"record": f"panel:{number}", "expr": each.over(60)} for number, each in enumerate(targets())]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout
    path.write_text(path.read_text().replace("sum by", "sum buy", 1))
    assert subprocess.run(["promtool", "check", "rules", path], capture_output=True, check=False).returncode != 0


# --- compose ---------------------------------------------------------------------------------------------------------


def test_prometheus_and_grafana_are_in_the_profile_and_nothing_else_is() -> None:
    assert {name for name, each in COMPOSE.items() if each.get("profiles") == ["observability"]} == {
        "prometheus",
        "grafana",
    }


@pytest.mark.parametrize("service", ["prometheus", "grafana"])
def test_an_image_can_be_replaced_and_has_a_version(service: str) -> None:
    image = COMPOSE[service]["image"]
    assert re.fullmatch(rf"\${{{service.upper()}_IMAGE:-[\w./-]+:v?\d+\.\d+\.\d+}}", image)


@pytest.mark.parametrize("service", ["prometheus", "grafana"])
def test_what_is_mounted_exists(service: str) -> None:
    assert [str(path) for path in mounts(service).values() if not path.exists()] == []


def test_prometheus_accepts_its_configuration_with_the_chart_s_rules(tmp_path: Path) -> None:
    mounted = mounts("prometheus")
    assert mounted["/etc/prometheus/alerts.yaml"] == ROOT / "deploy/helm/splitlearn/files/alerts.yaml"
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool: Debian has it in the package prometheus")
    for target, source in mounted.items():
        shutil.copy(source, tmp_path / Path(target).name)
    words = ["promtool", "check", "config", tmp_path / "prometheus.yml"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    n_rules = (tmp_path / "alerts.yaml").read_text().count("alert:")
    assert f"{n_rules} rules found" in done.stdout
    # without them it says so
    (tmp_path / "alerts.yaml").unlink()
    assert subprocess.run(words, capture_output=True, check=False).returncode != 0


def test_grafana_finds_prometheus_and_the_dashboards_where_compose_puts_them() -> None:
    source = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    assert source["isDefault"]
    scraping = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())["global"]
    assert source["jsonData"]["timeInterval"] == scraping["scrape_interval"]
    mounted = mounts("grafana")
    assert mounted["/etc/grafana/provisioning"] == PROVISIONING
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "splitlearn.yml").read_text())["providers"]
    assert mounted[provider["options"]["path"]] == DASHBOARDS
    home = Path(COMPOSE["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home.name in boards()
    assert str(home.parent) == provider["options"]["path"]


def test_nobody_can_log_in_to_grafana_and_only_this_machine_reaches_it() -> None:
    environment = COMPOSE["grafana"]["environment"]
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    for service in ("prometheus", "grafana"):
        assert all(port.startswith("127.0.0.1:") for port in COMPOSE[service]["ports"])


@pytest.mark.parametrize("service", ["trunk", "next", "client"])
def test_every_service_of_ours_gets_the_collector_s_address(service: str) -> None:
    assert COMPOSE[service]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"] == "${OTEL_EXPORTER_OTLP_ENDPOINT:-}"
