from pathlib import Path

import pytest

from llm_sepweight import PartSpec
from splitlearn.backends.vllm.environment import prepare
from splitlearn.backends.vllm.serving_request import ServingRequest


def request(layers: str, n_layers: int, n_workers: int = 1) -> ServingRequest:
    return ServingRequest(Path("weights"), {}, PartSpec.parse(layers), n_layers, "bfloat16", 512, 16, n_workers)


def test_vllm_is_told_which_layers_are_its_own_of_a_pipeline_of_three() -> None:
    environment: dict[str, str] = {}
    prepare(environment, request("2-22", 24), [0])
    assert environment["VLLM_PP_LAYER_PARTITION"] == "2,20,2"


def test_nobody_is_told_that_vllm_runs_and_its_workers_stay_on_this_machine() -> None:
    environment: dict[str, str] = {}
    prepare(environment, request("1-3", 4), [0])
    assert environment["VLLM_NO_USAGE_STATS"] == "1"
    assert environment["VLLM_HOST_IP"] == "127.0.0.1"


def test_what_the_operator_has_set_for_the_network_stays() -> None:
    environment = {"GLOO_SOCKET_IFNAME": "eth7"}
    prepare(environment, request("1-3", 4), [0])
    assert environment["GLOO_SOCKET_IFNAME"] == "eth7"


@pytest.mark.parametrize(
    ("cores", "expected"), [([0, 1], "0|1"), ([2, 3, 5, 7, 9], "2,3|5,7"), ([4], "4|4"), ([0, 1, 2], "0|1")]
)
def test_workers_on_cpus_share_the_cores_that_the_process_may_use(cores: list[int], expected: str) -> None:
    environment: dict[str, str] = {}
    prepare(environment, request("1-3", 4, n_workers=2), cores)
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == expected


def test_a_single_worker_chooses_its_cores_itself() -> None:
    environment: dict[str, str] = {}
    prepare(environment, request("1-3", 4), [0, 1])
    assert "VLLM_CPU_OMP_THREADS_BIND" not in environment
