"""Grafana's dashboards in a ConfigMap: the files that compose mounts, for the sidecar of Grafana's charts."""

import json
from typing import Any

import pytest

from support.dashboards import DASHBOARDS, boards
from support.helm_chart import Helm, Object, of_kind
from support.helm_values import EVERYTHING

pytestmark = pytest.mark.slow

# etcd's, with some room
MOST_BYTES = 900_000


def config_map(helm: Helm, **dashboards: Any) -> Object:
    (found,) = of_kind(helm.objects({"metrics": {"dashboards": {"enabled": True, **dashboards}}}), "ConfigMap")
    return found


def test_they_are_off_by_default(helm: Helm) -> None:
    assert of_kind(helm.objects({}), "ConfigMap") == []


def test_the_chart_installs_every_dashboard_as_it_is_tested(helm: Helm) -> None:
    data = config_map(helm)["data"]
    assert data == {path.name: path.read_text() for path in DASHBOARDS.iterdir()}
    assert {name: json.loads(text) for name, text in data.items()} == boards()
    assert len(data) == 2
    assert sum(map(len, data.values())) < MOST_BYTES


def test_grafanas_sidecar_finds_them_by_its_usual_label_and_by_any_other(helm: Helm) -> None:
    assert config_map(helm)["metadata"]["labels"]["grafana_dashboard"] == "1"
    labels = config_map(helm, labels={"grafana_dashboard": None, "boards": "yes"})["metadata"]["labels"]
    assert labels["boards"] == "yes"
    assert "grafana_dashboard" not in labels


def test_annotations_name_the_folder(helm: Helm) -> None:
    assert "annotations" not in config_map(helm)["metadata"]
    (found,) = of_kind(helm.objects(EVERYTHING), "ConfigMap")
    assert found["metadata"]["annotations"] == {"grafana_folder": "SplitLearn"}


def test_the_jobs_that_the_dashboards_ask_for_are_those_of_the_service_monitors(helm: Helm) -> None:
    monitors = of_kind(helm.objects(EVERYTHING), "ServiceMonitor")
    assert {each["spec"]["jobLabel"] for each in monitors} == {"app.kubernetes.io/component"}
    components = {each["metadata"]["labels"]["app.kubernetes.io/component"] for each in monitors}
    texts = json.dumps(boards())
    assert {f'job=\\"{each}\\"' in texts for each in components} == {True}
