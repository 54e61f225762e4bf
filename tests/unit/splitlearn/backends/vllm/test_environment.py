from pathlib import Path

from llm_sepweight import PartSpec
from splitlearn.backends.vllm.environment import prepare
from splitlearn.backends.vllm.serving_request import ServingRequest


def request(layers: str, n_layers: int) -> ServingRequest:
    return ServingRequest(Path("weights"), {}, PartSpec.parse(layers), n_layers, "bfloat16", 512, 16)


def test_vllm_is_told_which_layers_are_its_own_of_a_pipeline_of_three() -> None:
    environment: dict[str, str] = {}
    prepare(environment, request("2-22", 24))
    assert environment["VLLM_PP_LAYER_PARTITION"] == "2,20,2"


def test_nobody_is_told_that_vllm_runs_and_its_workers_stay_on_this_machine() -> None:
    environment: dict[str, str] = {}
    prepare(environment, request("1-3", 4))
    assert environment["VLLM_NO_USAGE_STATS"] == "1"
    assert environment["VLLM_HOST_IP"] == "127.0.0.1"


def test_what_the_operator_has_set_for_the_network_stays() -> None:
    environment = {"GLOO_SOCKET_IFNAME": "eth7"}
    prepare(environment, request("1-3", 4))
    assert environment["GLOO_SOCKET_IFNAME"] == "eth7"
