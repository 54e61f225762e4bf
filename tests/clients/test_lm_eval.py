"""lm-evaluation-harness scores the served model as it scores the whole one by its `--model hf`."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import Plain
from tests.clients.environments import LM_EVAL

pytestmark = pytest.mark.slow

QUESTIONS = [
    {"text": "the quick brown", "endings": [" fox", " dog", " lazy cat"], "label": 0},
    {"text": "jumps over the", "endings": [" lazy dog", " moon"], "label": 0},
    {"text": "a naïve “Straße” costs", "endings": [" 5 €", " nothing", " 六"], "label": 2},
]
TASK = """
task: endings
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {data}}}}}
validation_split: validation
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{endings}}}}"
target_delimiter: ""
doc_to_target: label
metric_list: [{{metric: acc}}]
"""


def scored(folder: Path, model: str, arguments: str) -> list[Any]:
    """Log-likelihoods of every ending of every question, and whether it was the likeliest at every position."""
    out = folder / model
    flags = f"run --model {model} --model_args {arguments} --tasks endings --include_path {folder} --log_samples"
    LM_EVAL.run(
        ["-m", "lm_eval", *flags.split(), "--output_path", str(out), "--batch_size", "1", "--device", "cpu"],
        HF_HOME=str(folder / "home"),
    )
    (samples,) = out.rglob("samples_endings_*.jsonl")
    found = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    in_order = sorted(found, key=lambda each: each["doc_id"])
    return [ending for each in in_order for ending in each["filtered_resps"]]


async def test_log_likelihoods_of_a_local_task_are_those_of_the_whole_model(
    plain: Plain, checkpoint: Path, tmp_path: Path
) -> None:
    LM_EVAL.make()
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(f"{json.dumps(each)}\n" for each in QUESTIONS), encoding="utf-8")
    (tmp_path / "endings.yaml").write_text(TASK.format(data=data), encoding="utf-8")
    served = f"model=tiny,base_url={plain.url}/v1/completions,tokenizer_backend=remote,num_concurrent=2"
    ours = await asyncio.to_thread(scored, tmp_path, "local-completions", served)
    whole = await asyncio.to_thread(scored, tmp_path, "hf", f"pretrained={checkpoint},dtype=float32")
    assert len(ours) == sum(len(question["endings"]) for question in QUESTIONS)
    for mine, its in zip(ours, whole, strict=True):
        assert float(mine[0]) == pytest.approx(float(its[0]), abs=1e-3)
        assert mine[1] == its[1]
