"""What values.schema.json and the templates refuse: every value of the wrong type, every unknown name, stages that do
not join.
"""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from support.helm_chart import CHART, Helm, Refused, Values, of_kind
from support.helm_values import CHAIN

pytestmark = pytest.mark.slow

DEFAULTS: Values = yaml.safe_load((CHART / "values.yaml").read_text())
Path = tuple[str, ...]

# maps whose names are Kubernetes' and whose values may be numbers
QUANTITIES = {"requests", "limits"}


def walk(values: Values, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """All maps and all leaves, with their paths."""
    yield path, values
    for name, value in values.items():
        if name in QUANTITIES:
            continue
        if isinstance(value, dict):
            yield from walk(value, (*path, name))
        else:
            yield (*path, name), value


def at(path: Path, value: object) -> Values:
    """Values that set this one alone."""
    for name in reversed(path):
        value = {name: value}
    assert isinstance(value, dict)
    return value


LEAVES = {".".join(path): path for path, value in walk(DEFAULTS) if not isinstance(value, dict)}
MAPS = {".".join(path): path for path, value in walk(DEFAULTS) if isinstance(value, dict)}


@pytest.mark.parametrize("path", LEAVES.values(), ids=LEAVES)
def test_a_value_of_the_wrong_type_is_refused(helm: Helm, path: Path) -> None:
    for wrong in ({"a": 1}, [[1]], -1.5):
        with pytest.raises(Refused, match=path[-1]):
            helm.files(at(path, wrong))


@pytest.mark.parametrize("path", MAPS.values(), ids=MAPS)
def test_an_unknown_name_or_in_a_free_map_a_number_is_refused(helm: Helm, path: Path) -> None:
    with pytest.raises(Refused, match="unheardOf"):
        helm.files(at((*path, "unheardOf"), 1))


def test_what_a_stage_may_say_is_its_name_its_layers_and_whatever_all_stages_may() -> None:
    definitions = json.loads((CHART / "values.schema.json").read_text())
    trunk = definitions["properties"]["trunk"]["properties"]
    stage = definitions["definitions"]["stage"]["properties"]
    assert {name: stage[name] for name in trunk if name != "stages"} == {
        name: trunk[name] for name in trunk if name != "stages"
    }
    assert set(stage) - set(trunk) == {"name", "layers"}
    assert set(DEFAULTS["trunk"]) == set(trunk)


@pytest.mark.parametrize(
    "values",
    [
        {"dtype": "int8"},
        {"listenHost": "localhost"},
        {"tenants": {"secretName": "Not A Name"}},
        {"tenants": {"key": "../../etc/passwd"}},
        {"trunkTokens": {"secretName": "Not A Name"}},
        {"trunkTokens": {"key": "../../etc/passwd"}},
        {"client": {"shutdownTimeout": 4000}},
        {"client": {"kvCacheMemory": "four"}},
        {"client": {"wireCodec": "fp4"}},
        {"client": {"quantization": "int3"}},
        {"client": {"image": {"pullPolicy": "Sometimes"}}},
        {"client": {"image": {"repository": ""}}},
        {"client": {"weights": {"source": "nfs"}}},
        {"client": {"weights": {"source": "hostPath", "reference": "relative"}}},
        {"client": {"service": {"port": 0}}},
        {"client": {"service": {"type": "ExternalName"}}},
        {"client": {"extraArgs": ["allowed-hosts"]}},
        {"client": {"resources": {"limits": {"memory": "much"}}}},
        {"client": {"resources": {"claims": []}}},
        {"client": {"affinity": {"nodes": {}}}},
        {"client": {"tolerations": [{"effect": "Never"}]}},
        {"client": {"tolerations": [{"keys": "a"}]}},
        {"client": {"topologySpread": {"maxSkew": 0}}},
        {"client": {"topologySpread": {"whenUnsatisfiable": "Hope"}}},
        {"client": {"podDisruptionBudget": {"maxUnavailable": "half"}}},
        {"client": {"autoscaling": {"kind": "vpa"}}},
        {"client": {"autoscaling": {"enabled": True, "kind": "keda"}}},
        {"client": {"autoscaling": {"enabled": True, "minReplicas": 5}}},
        {"client": {"autoscaling": {"minReplicas": 0}}},
        {"client": {"autoscaling": {"prometheusAddress": "prometheus"}}},
        {"trunk": {"gpus": 2}},
        {"trunk": {"gpuResource": "gpu"}},
        {"trunk": {"stages": []}},
        {"trunk": {"stages": [{"layers": "2-22"}]}},
        {"trunk": {"stages": [{"name": "Middle"}]}},
        {"trunk": {"stages": [{"name": "a-name-that-is-much-too-long"}]}},
        {"trunk": {"stages": [{"name": "one", "layers": "2:22"}]}},
        {"trunk": {"stages": [{"name": "one", "replicas": -1}]}},
        {"trunk": {"stages": [{"name": "one", "gpus": "all"}]}},
        {"trunk": {"stages": [{"name": "one", "wireCodec": "none"}]}},
        {"trunk": {"weights": {"reference": ""}}},
        {"networkPolicy": {"apiFrom": [{}]}},
        {"networkPolicy": {"metricsFrom": [{"podselector": {}}]}},
        {"networkPolicy": {"extraEgress": [{"from": []}]}},
        {"metrics": {"serviceMonitor": {"interval": "often"}}},
        {"imagePullSecrets": ["registry"]},
    ],
    ids=json.dumps,
)
def test_a_value_that_means_nothing_is_refused(helm: Helm, values: Values) -> None:
    with pytest.raises(Refused):
        helm.files(values)


@pytest.mark.parametrize(
    ("stages", "reason"),
    [
        ([("one", "2-12"), ("two", "13-22")], "begins with layer 13, but the stage before it ends before layer 12"),
        ([("one", "2-12"), ("two", "10-22")], "begins with layer 10"),
        ([("one", "2-12"), ("one", "12-22")], 'two stages are called "one"'),
        ([("one", "2-12"), ("two", "")], '"two" has no layers'),
        ([("one", "12-2")], '"one" has no layer in 12-2'),
    ],
)
def test_stages_that_do_not_join_are_refused_with_the_reason(
    helm: Helm, stages: list[tuple[str, str]], reason: str
) -> None:
    with pytest.raises(Refused, match=reason):
        helm.files({"trunk": {"stages": [{"name": name, "layers": layers} for name, layers in stages]}})


def test_a_stage_overrides_single_values_also_by_0_and_false_and_keeps_the_others(helm: Helm) -> None:
    values = copy.deepcopy(CHAIN)
    values["trunk"] |= {"gpus": 1, "podDisruptionBudget": {"maxUnavailable": 2}}
    values["trunk"]["stages"][1] |= {"replicas": 0, "gpus": 0, "podDisruptionBudget": {"enabled": False}}
    lower, upper = of_kind(helm.objects(values), "StatefulSet")
    limits = [each["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] for each in (lower, upper)]
    assert (lower["spec"]["replicas"], upper["spec"]["replicas"]) == (2, 0)
    assert limits == [{"memory": "8Gi", "nvidia.com/gpu": 1}, {"memory": "16Gi"}]
    budgets = [
        each for each in of_kind(helm.objects(values), "PodDisruptionBudget") if "trunk" in each["metadata"]["name"]
    ]
    assert [each["spec"]["maxUnavailable"] for each in budgets] == [2]
