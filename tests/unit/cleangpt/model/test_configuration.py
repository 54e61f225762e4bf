"""Configs as they are saved, with and without the options that single architectures have."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from cleangpt.config import OWN_OPTIONS, GPTConfig
from cleangpt.model import CleanGPTConfig, FactoredConfig, SASPConfig, VanillaConfig, get_model

CLASSES = (VanillaConfig, SASPConfig, FactoredConfig)


@pytest.mark.parametrize("config_class", CLASSES)
def test_at_its_defaults_a_config_is_saved_as_before_there_were_options(config_class: type[CleanGPTConfig]) -> None:
    # digests in checkpoints and manifests are made of these
    for saved in (config_class().to_dict(), config_class().to_diff_dict(), json.loads(config_class().to_json_string())):
        assert not saved.keys() & set(OWN_OPTIONS)
        assert {"dropout", "bias", "alibi"} <= saved.keys()


def test_an_option_that_is_not_at_its_default_is_saved_and_comes_back(tmp_path: Path) -> None:
    SASPConfig(value_projection=True, output_projection=False).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert {name: saved[name] for name in OWN_OPTIONS if name in saved} == {
        "value_projection": True,
        "output_projection": False,
    }
    found = AutoConfig.from_pretrained(tmp_path)
    assert (found.skip_connections, found.value_projection, found.output_projection) == (False, True, False)


def test_a_folder_from_before_there_were_options_gives_the_model_that_it_gave(tmp_path: Path) -> None:
    sizes = {"block_size": 8, "vocab_size": 20, "n_layer": 2, "n_head": 2, "n_embd": 8}
    for name, options in (("SASP", ("query", "key", "output")), ("Factored", ("value_mixing", "output_mixing"))):
        model = get_model(name, GPTConfig(**sizes)).eval()
        model.save_pretrained(tmp_path / name)
        file = tmp_path / name / "config.json"
        assert not [option for option in OWN_OPTIONS if option in file.read_text()]
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        ids = torch.arange(8)[None]
        assert torch.equal(loaded(ids).logits, model(ids).logits)
        assert all(f"model.layers.0.attention.{option}.weight" in loaded.state_dict() for option in options)
