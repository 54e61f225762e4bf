import pytest
import torch

from llm_sepweight import PartSpec
from splitlearn.checkpoints.sources import WholeModel, open_checkpoint, open_sepweight
from support.tiny_models import random_model, save_sepweight, tiny_config

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[WholeModel, WholeModel]:
    weights = save_sepweight(tmp_path_factory.mktemp("both"), random_model(tiny_config("gpt2")))
    return open_sepweight(weights), open_checkpoint(str(weights.parent / "checkpoint"))


@pytest.mark.parametrize("spec", ["b 0-2", "2-4", "4-5 e", "f"])
def test_a_checkpoint_gives_what_its_conversion_gives(both: tuple[WholeModel, WholeModel], spec: str) -> None:
    converted, original = (model.weights(PartSpec.parse(spec), CPU, torch.float32).to_dict() for model in both)
    assert converted.keys() == original.keys()
    assert all(torch.equal(tensor, original[name]) for name, tensor in converted.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tied_tensor_is_one_in_all_parts(both: tuple[WholeModel, WholeModel], dtype: torch.dtype) -> None:
    for source in both:
        model = WholeModel(source.config, source.dtype, source.tied, source.read)
        end = model.weights(PartSpec.parse("4-5 e"), CPU, dtype).to_dict()
        begin = model.weights(PartSpec.parse("b 0-1"), CPU, dtype).to_dict()
        assert end["end.lm_head.weight"] is begin["begin.wte.weight"]
        assert end["end.lm_head.weight"].dtype == dtype
