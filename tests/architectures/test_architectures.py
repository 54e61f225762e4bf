"""The table of architectures: complete, true for a sample of each trait, and for all of them in the slow walk."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from architectures.examination import examine
from architectures.small_configs import small_config
from architectures.table import RESULT, TABLE, render
from splitlearn.checkpoints.convert import prepare
from splitlearn.errors import UnsupportedModel

FOUND: dict[str, Any] = json.loads(RESULT.read_text())
TYPES: dict[str, dict[str, Any]] = FOUND["types"]
REFUSED = {name: outcome["reason"] for name, outcome in TYPES.items() if outcome["verdict"] == "refused"}
# One or two of each trait, and of each way in which modules are arranged.
SAMPLE = (
    "bert", "deepseek_v3", "deepseek_v4", "gemma3", "glm_moe_dsa", "gpt_oss", "jamba", "lfm3", "llama4_text", "mbart",
    "qwen3_next", "roberta",
)  # fmt: skip


def test_every_architecture_of_this_transformers_has_an_outcome() -> None:
    assert FOUND["transformers"] == transformers.__version__
    assert TYPES.keys() == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert {outcome["verdict"] for outcome in TYPES.values()} == {"equal", "refused"}


def test_at_least_115_architectures_are_equal_to_the_whole_model() -> None:
    assert sum(outcome["verdict"] == "equal" for outcome in TYPES.values()) >= 115


def test_at_least_135_architectures_run_rows_of_several_sessions_in_one_step() -> None:
    assert sum(outcome["verdict"] == "equal" and not outcome["batches"] for outcome in TYPES.values()) >= 135


def test_the_page_is_what_the_walk_found() -> None:
    assert TABLE.read_text() == render()


def test_the_sample_shows_every_trait() -> None:
    every = {trait for outcome in TYPES.values() for trait in outcome["traits"]}
    assert {trait for name in SAMPLE for trait in TYPES[name]["traits"]} == every


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", SAMPLE)
def test_a_sample_of_each_trait_is_equal_to_the_whole_model(model_type: str, tmp_path: Path) -> None:
    outcome = examine(model_type, tmp_path)
    assert {**TYPES[model_type], "traits": tuple(TYPES[model_type]["traits"])} == vars(outcome)


@pytest.mark.parametrize("model_type", REFUSED)
def test_what_cannot_be_cut_is_refused_with_its_reason_when_it_is_converted(model_type: str, tmp_path: Path) -> None:
    small_config(model_type).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel) as refusal:
        prepare(str(tmp_path))
    assert str(refusal.value) == REFUSED[model_type]


@pytest.mark.slow
def test_the_walk_over_all_architectures_finds_what_is_written_down() -> None:
    walk = [sys.executable, "-m", "architectures.walk"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(walk, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-4000:]}{done.stderr[-2000:]}\nwrite it anew with make architectures"
