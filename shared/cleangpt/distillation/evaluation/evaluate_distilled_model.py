"""`python -m cleangpt.distillation.evaluation.evaluate_distilled_model`: compares a student with its teacher.

Does the same as `cleangpt evaluate`, with the flags of the reference document. Models are folders and text is local.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from cleangpt.config import GPTConfig
from cleangpt.data.sources import part_of
from cleangpt.errors import CleangptError, ModelUnknownError, UsageError
from cleangpt.evaluation.evaluate import ANSWER_TOKENS
from cleangpt.evaluation.folders import FolderRequest, evaluate_folder
from cleangpt.evaluation.outputs import write_report
from cleangpt.evaluation.texts import PROMPTS, TextChoice
from cleangpt.model import MODEL_REGISTRY, get_model
from llm_sepweight.errors import SepweightError
from splitlearn.errors import SplitError

CONFIG_FILE = "config.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table and writes JSON and a plot if requested; errors end the program with one line."""
    parser = _parser()
    given = parser.parse_args(arguments)
    disable_progress_bar()
    try:
        refuse_other_type(given.model_path, given.model_type)
        text = TextChoice(
            source=part_of(given.dataset, given.dataset_config),
            column=given.dataset_text_column,
            split=given.dataset_split,
            max_samples=given.max_samples,
            block_size=given.block_size,
            batch_size=given.batch_size,
            n_prompts=given.num_comparison_prompts,
        )
        request = FolderRequest(
            given.model_path,
            text,
            given.teacher_model_name,
            given.generate_comparisons,
            given.device,
            max_new_tokens=given.max_new_tokens,
        )
        report = evaluate_folder(request)
        print(report.table())
        for line in write_report(report, given.json, given.plot, given.output_dir):
            print(line)
    except (CleangptError, SplitError, SepweightError, OSError) as error:
        parser.exit(
            2 if isinstance(error, UsageError) else 1, f"{parser.prog}: error: {' '.join(str(error).split())}\n"
        )


def refuse_other_type(folder: Path, wanted: str | None) -> None:
    """Raises UsageError if the folder's model is not of type `wanted`, and ModelUnknownError if there is no such type.

    A folder without a config, or with one that cannot be read, passes; reading it fails later.
    """
    if wanted is None:
        return
    if wanted not in MODEL_REGISTRY:
        raise ModelUnknownError(
            f"there is no model called {wanted!r}; choose one of {', '.join(sorted(MODEL_REGISTRY))}, "
            "or leave the type out: the folder says it"
        )
    try:
        found = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return
    if not isinstance(found, dict):
        return
    with torch.device("meta"):
        expected = get_model(wanted, GPTConfig(block_size=8, vocab_size=8, n_layer=1, n_head=1, n_embd=8)).config
    described = (found.get("model_type"), bool(found.get("alibi")))
    if described != (expected.model_type, bool(getattr(expected, "alibi", False))):
        name = f"{described[0]}{' with alibi' if described[1] else ''}"
        raise UsageError(f"{folder} holds a model of the type {name}, which is not {wanted}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="evaluate_distilled_model", description="Measures a student and its teacher.")
    parser.add_argument("--model_path", type=Path, required=True, help="The folder of the student or shadow.")
    parser.add_argument("--model_type", help="What the student has to be: Vanilla, SASP, Factored, FactoredALiBi.")
    parser.add_argument("--teacher_model_name", type=Path, help="The folder of the teacher.")
    parser.add_argument(
        "--dataset",
        "--dataset_name",
        required=True,
        help="A file (text, .jsonl, .parquet), a folder, a dataset on disk, or a source's name.",
    )
    parser.add_argument("--dataset_config", "--dataset_config_name", help="A file or folder inside of --dataset.")
    parser.add_argument("--dataset_split", default="train", help="Split of a dataset on disk.")
    parser.add_argument("--dataset_text_column", default="text", help="Where records have their text or messages.")
    parser.add_argument("--max_samples", type=_count, help="Read the first texts alone.")
    parser.add_argument("--block_size", type=_count, help="Tokens of a row.")
    parser.add_argument("--batch_size", type=_count, default=8, help="Rows of a batch.")
    parser.add_argument(
        "--generate_comparisons", action="store_true", help="Let both models continue prompts from the text."
    )
    parser.add_argument("--num_comparison_prompts", type=_count, default=PROMPTS, help="How many of them.")
    parser.add_argument(
        "--max_new_tokens", type=_count, default=ANSWER_TOKENS, help="Tokens to continue each of them by."
    )
    parser.add_argument("--output_dir", type=Path, help="Write report.json and report.png to this directory.")
    parser.add_argument("--json", type=Path, help="Write the numbers to this file.")
    parser.add_argument("--plot", type=Path, help="Draw them to this file.")
    parser.add_argument("--device", help="cpu, cuda ... Default: a GPU if there is one.")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, found {number}")
    return number


if __name__ == "__main__":
    main()
