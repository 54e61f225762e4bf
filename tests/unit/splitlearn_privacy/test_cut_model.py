from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING, PreTrainedModel

from cleangpt.evaluation.hidden_errors import hidden_states
from splitlearn_privacy.cut_model import CutModel, Seen
from splitlearn_privacy.wire import Distortion
from support.attack_scene import ids
from support.tiny_models import VOCABULARY, random_model, save_sepweight, tiny_config

IDS = ids(20, 0)


def test_rows_are_those_of_the_whole_model_at_the_cuts(cut_model: CutModel, tiny_llama: PreTrainedModel) -> None:
    seen = cut_model.seen(IDS, Distortion())

    with torch.no_grad():
        states = hidden_states(tiny_llama, IDS)
    torch.testing.assert_close(seen[Seen.OUTGOING], states[0])
    torch.testing.assert_close(seen[Seen.RETURNED], states[3])


def test_the_cache_is_that_of_the_trunks_first_layer(cut_model: CutModel, tiny_llama: PreTrainedModel) -> None:
    seen = cut_model.seen(IDS, Distortion())[Seen.CACHE]

    with torch.no_grad():
        layer = tiny_llama(IDS, use_cache=True).past_key_values.layers[1]
    heads, width = layer.keys.shape[1], layer.keys.shape[3]
    keys_NTHW = seen[..., : heads * width].unflatten(-1, (heads, width))
    torch.testing.assert_close(keys_NTHW.transpose(1, 2), layer.keys)
    values_NTHW = seen[..., heads * width :].unflatten(-1, (heads, width))
    torch.testing.assert_close(values_NTHW.transpose(1, 2), layer.values)


def test_noise_on_the_way_out_shows_in_all_that_the_worker_computes(cut_model: CutModel) -> None:
    plain, noisy = (cut_model.seen(IDS, Distortion(noise=level)) for level in (0.0, 0.5))

    for kind in Seen:
        assert not torch.allclose(plain[kind], noisy[kind], atol=1e-3)


def test_predictions_are_the_whole_models(cut_model: CutModel, tiny_llama: PreTrainedModel) -> None:
    found = torch.cat(list(cut_model.predictions(IDS)))

    with torch.no_grad():
        torch.testing.assert_close(found, tiny_llama(IDS).logits)
    distorted = torch.cat(list(cut_model.predictions(IDS, Distortion("int8"))))
    assert not torch.equal(found, distorted)


def test_rows_have_the_dtype_of_the_files(tmp_path: Path) -> None:
    model = CutModel.load(save_sepweight(tmp_path, random_model(tiny_config("llama")), dtype="bfloat16"), "2-3")

    assert model.sent(IDS[:1]).dtype == torch.bfloat16
    assert model.plan.layers == "2-3"


def test_parts_without_attention_are_measured_too(tmp_path: Path) -> None:
    kinds = ["conv", "conv", "full_attention", "conv", "conv"]
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = CONFIG_MAPPING["lfm2"](vocab_size=VOCABULARY, num_hidden_layers=5, layer_types=kinds, **sizes)
    whole = random_model(config)
    model = CutModel.load(save_sepweight(tmp_path, whole), None)

    assert all(each.shape[:2] == IDS.shape for each in model.seen(IDS, Distortion()).values())
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(list(model.predictions(IDS))), whole(IDS).logits)


@pytest.mark.parametrize("model_type", ["gpt2", "gemma2"])
def test_other_architectures_have_caches_too(tmp_path: Path, model_type: str) -> None:
    model = CutModel.load(save_sepweight(tmp_path, random_model(tiny_config(model_type))), None)

    assert all(each.shape[:2] == IDS.shape for each in model.seen(IDS, Distortion()).values())
