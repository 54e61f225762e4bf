"""Everything that the chart renders is what Kubernetes and the operators accept, from the oldest to the newest."""

import copy
import tomllib
from typing import Any

import pytest
import yaml

from support.helm_chart import CHART, CUSTOM_KINDS, ROOT, Helm, Object, complaints, versions
from support.helm_values import EVERYTHING, VALUE_SETS

pytestmark = pytest.mark.slow

# volumes of images are younger than the oldest
EVERY_VERSION = {name: values for name, values in VALUE_SETS.items() if name != "image volumes"}
KINDS = {
    "ConfigMap",
    "Deployment",
    "HorizontalPodAutoscaler",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "PrometheusRule",
    "ScaledObject",
    "Service",
    "ServiceAccount",
    "ServiceMonitor",
    "StatefulSet",
}


@pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS)
def test_helm_lints_the_chart_strictly_without_a_warning(helm: Helm, values: dict[str, Any]) -> None:
    assert helm.lint(values) == []


@pytest.mark.parametrize("values", EVERY_VERSION.values(), ids=EVERY_VERSION)
@pytest.mark.parametrize("version", versions())
def test_every_object_is_accepted_strictly(helm: Helm, values: dict[str, Any], version: str) -> None:
    objects = helm.objects(values)
    assert {f"{each['kind']} {each['metadata']['name']}": complaints(each, version) for each in objects} == {
        f"{each['kind']} {each['metadata']['name']}": [] for each in objects
    }


def test_volumes_of_images_are_accepted_by_the_newest_kubernetes_alone(helm: Helm) -> None:
    oldest, newest = versions()
    objects = helm.objects(VALUE_SETS["image volumes"])
    assert [each for each in objects if complaints(each, newest)] == []
    assert {each["kind"] for each in objects if complaints(each, oldest)} == {"Deployment", "StatefulSet"}


def test_no_two_objects_of_a_kind_share_a_name_and_every_object_names_its_release(helm: Helm) -> None:
    for values in VALUE_SETS.values():
        objects = helm.objects(values)
        names = [(each["kind"], each["metadata"]["name"]) for each in objects]
        assert len(names) == len(set(names))
        assert {each["metadata"]["labels"]["app.kubernetes.io/instance"] for each in objects} == {"demo"}


def one_of_each_kind(helm: Helm) -> dict[str, Object]:
    return {each["kind"]: each for each in helm.objects(EVERYTHING)}


def test_everything_on_renders_every_kind(helm: Helm) -> None:
    assert set(one_of_each_kind(helm)) == KINDS


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_broken_object_of_each_kind_is_not_accepted(helm: Helm, kind: str) -> None:
    whole = one_of_each_kind(helm)[kind]
    at = "spec" if "spec" in whole else "metadata"
    unknown, wrong = copy.deepcopy(whole), copy.deepcopy(whole)
    (unknown if kind == "ServiceAccount" else unknown[at])["unheardOf"] = True
    wrong[at] = "a text"
    for version in versions():
        assert complaints(whole, version) == []
        assert complaints(unknown, version) != []
        assert complaints(wrong, version) != []


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("ServiceMonitor", ("endpoints", 0, "interval"), "often"),
        ("ServiceMonitor", ("selector", "matchLabels", "a"), 1),
        ("PrometheusRule", ("groups", 0, "rules", 0, "for"), "a while"),
        ("PrometheusRule", ("groups", 0, "rules", 0, "expr"), ""),
        ("PrometheusRule", ("groups", 0, "rules", 0, "labels", "severity"), 1),
        ("ScaledObject", ("triggers", 0, "metadata", "threshold"), 5),
        ("ScaledObject", ("triggers", 0, "type"), "cpu"),
        ("ScaledObject", ("maxReplicaCount",), "many"),
    ],
)
def test_the_schemas_of_custom_kinds_know_their_values(
    helm: Helm, kind: str, path: tuple[Any, ...], value: object
) -> None:
    broken = copy.deepcopy(one_of_each_kind(helm)[kind])
    place = broken["spec"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert complaints(broken, versions()[1]) != []
    assert kind in CUSTOM_KINDS


def test_the_charts_version_is_the_projects() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]
