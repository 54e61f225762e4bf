"""Train the model that ships with the project, or ask it everything that it was trained on.

`python -m cleangpt.demo_model --out DIR` trains (resuming what was interrupted) and writes DIR;
`python -m cleangpt.demo_model --evaluate DIR` prints the accuracy and every miss.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast, Qwen3Config

from cleangpt.accuracy import Accuracy, measure_accuracy
from cleangpt.bpe import answer_ids, load_bpe, prompt_ids, train_bpe
from cleangpt.errors import CleangptError, ModelFolderError
from cleangpt.rows import ConversationRows, Turn
from cleangpt.schedule import WarmupStableDecay
from cleangpt.stdlib_questions import Question, collect_questions
from cleangpt.training import Checkpoints, TrainingSettings, train

WORK_FOLDER = Path("build/demo_model")
SEED = 0
CONTEXT = 512
VOCABULARY = 2048
BATCH_TOKENS = 1536
SETTINGS = TrainingSettings(epochs=90, schedule=WarmupStableDecay(peak=2e-3, warmup=100, decay=0.6))


def demo_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    """A Qwen3 of 4.7 million parameters: 9.3 MB in bf16."""
    return Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def train_demo_model(work_folder: Path = WORK_FOLDER) -> Path:
    """Trains, resuming from `work_folder`, and returns the Hugging Face folder written inside it."""
    questions = collect_questions()
    texts = [text for each in questions for text in (*(f" {form}" for form in each.phrasings), each.answer)]
    tokenizer = train_bpe(texts, vocab_size=VOCABULARY, context=CONTEXT)
    data = ConversationRows(_turns(tokenizer, questions), BATCH_TOKENS, CONTEXT // 2, SEED)
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_config(demo_config(tokenizer), dtype=torch.float32)
    identity = hashlib.sha256(f"{data} {model.config.to_json_string()}".encode()).hexdigest()
    train(model, data, SETTINGS, Checkpoints(work_folder, identity), show_progress=True)
    folder = work_folder / "hf"
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def evaluate(folder: Path) -> Accuracy:
    """How much of what this interpreter documents the model in `folder` gives back."""
    model, tokenizer = load_model(folder)
    return measure_accuracy(model, tokenizer, collect_questions(), show_progress=True)


def load_model(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The model, in the dtype that it is stored in, and its tokenizer."""
    if not (folder / "config.json").exists():
        raise ModelFolderError(f"{folder} holds no config.json; name a folder that --out wrote")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True)
    return model.eval(), load_bpe(folder)


def _turns(tokenizer: PreTrainedTokenizerFast, questions: Sequence[Question]) -> tuple[tuple[Turn, ...], ...]:
    return tuple(
        tuple(
            Turn(tuple(prompt_ids(tokenizer, prompt)), tuple(answer_ids(tokenizer, question.answer)))
            for prompt in question.phrasings
        )
        for question in questions
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cleangpt.demo_model", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--out", type=Path, metavar="DIR", help="train and write the model to DIR")
    action.add_argument("--evaluate", type=Path, metavar="DIR", help="print the accuracy of the model in DIR")
    parser.add_argument("--work", type=Path, default=WORK_FOLDER, help="checkpoints (default: %(default)s)")
    parsed = parser.parse_args(arguments)
    try:
        if parsed.evaluate:
            accuracy = evaluate(parsed.evaluate)
            print(accuracy)
            for miss in accuracy.misses:
                print(f"  {miss.prompt}\n    expected: {miss.expected}\n    found:    {miss.found}")
        else:
            print(train_demo_model(parsed.work))
    except CleangptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
