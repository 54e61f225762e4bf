from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from llm_sepweight import Manifest
from splitlearn.checkpoints.convert import prepare
from splitlearn.errors import BadCheckpoint
from splitlearn.model.plan import SplitPlan, fingerprint
from support.own_ends import with_other_ends
from support.tiny_models import random_model, save_checkpoint, save_sepweight, tiny_config


@pytest.fixture
def retrained(tmp_path: Path, tiny_llama: PreTrainedModel) -> Path:
    return save_checkpoint(tmp_path / "retrained", with_other_ends(tiny_llama))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_mean_one_trunk_as_long_as_it_has_the_layers_that_stayed(
    tmp_path: Path, tiny_llama: PreTrainedModel, retrained: Path, dtype: str
) -> None:
    base = Manifest.read(save_sepweight(tmp_path, tiny_llama, dtype=dtype))
    ends = prepare(str(retrained), trunk_of=base).write(tmp_path / "ends")
    assert (ends.model_name, ends.dtype, ends.config) == (base.model_name, dtype, base.config)
    same = {
        (first, last): fingerprint(ends, SplitPlan(first, last, 5), dtype)
        == fingerprint(base, SplitPlan(first, last, 5), dtype)
        for first in range(1, 4)
        for last in range(first + 1, 5)
    }
    assert same == {(1, 2): False, (1, 3): False, (1, 4): False, (2, 3): True, (2, 4): True, (3, 4): True}
    assert {name for name in ends.files if ends.files[name] == base.files[name]} == {"mid.00002", "mid.00003"}


def test_a_model_without_a_layer_of_the_other_is_refused_and_leaves_nothing(tmp_path: Path, tiny_weights: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "other", random_model(tiny_config("llama"), seed=1))
    conversion = prepare(str(checkpoint), trunk_of=Manifest.read(tiny_weights))
    with pytest.raises(BadCheckpoint, match=r"no layer is that of checkpoint, .* --freeze-layers"):
        conversion.write(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("change", "named"), [({"rope_theta": 5.0}, "rope"), ({"num_hidden_layers": 6}, "num_hidden")])
def test_a_model_of_another_shape_is_refused_by_the_fields_that_differ(
    tiny_weights: Path, retrained: Path, change: dict[str, object], named: str
) -> None:
    base = Manifest.read(tiny_weights)
    other = replace(base, config={**{k: v for k, v in base.config.items() if "rope" not in k}, **change})
    with pytest.raises(BadCheckpoint, match=f"another model than checkpoint: their configs differ in .*{named}"):
        prepare(str(retrained), trunk_of=other)


def test_who_saved_a_model_makes_it_no_other_one(tiny_weights: Path, retrained: Path) -> None:
    base = Manifest.read(tiny_weights)
    other = replace(base, config={**base.config, "transformers_version": "4.40", "torch_dtype": "bfloat16"})
    assert prepare(str(retrained), trunk_of=other).config == other.config


def test_a_model_that_is_known_by_its_commit_is_refused(tiny_weights: Path, retrained: Path) -> None:
    named = replace(Manifest.read(tiny_weights), origin={"commit": "c" * 40})
    with pytest.raises(BadCheckpoint, match="known by its commit"):
        prepare(str(retrained), trunk_of=named)
