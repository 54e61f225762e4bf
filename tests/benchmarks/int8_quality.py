"""What int8 weights cost the model that ships: perplexity of the answers that it was trained on, and greedy answers.

    python -m tests.benchmarks.int8_quality [--every N]

Shapes: B texts of one length, T tokens.
"""

import argparse
import copy
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from cleangpt.data.stdlib_questions import Question, collect_questions
from cleangpt.evaluation.accuracy import measure_accuracy
from cleangpt.evaluation.model_folder import load_model
from cleangpt.tokenizers.chat import answer_ids, prompt_ids
from splitlearn.backends.cpu.packing import pack

MODEL = Path(__file__).parents[2] / "deploy" / "demo_model"
BATCH = 128

Text = tuple[list[int], int]
"""Token ids, and where the answer begins."""


def texts(tokenizer: PreTrainedTokenizerFast, questions: Sequence[Question]) -> list[Text]:
    found = []
    for question in questions:
        for prompt in question.phrasings:
            asked = prompt_ids(tokenizer, prompt)
            found.append(([*asked, *answer_ids(tokenizer, question.answer)], len(asked)))
    return found


@torch.inference_mode()
def perplexity(model: PreTrainedModel, asked: Sequence[Text], label: str) -> tuple[float, float]:
    """Of the answers given their questions, and of whole texts; texts of one length share a batch without padding."""
    by_length: dict[int, list[Text]] = defaultdict(list)
    for text in asked:
        by_length[len(text[0])].append(text)
    batches = [group[i : i + BATCH] for group in by_length.values() for i in range(0, len(group), BATCH)]
    losses, counts = [0.0, 0.0], [0, 0]
    for batch in tqdm(batches, desc=label):
        ids_BT = torch.tensor([ids for ids, _ in batch])
        logits_BTV = model(ids_BT).logits[:, :-1].float()
        loss_BT = functional.cross_entropy(logits_BTV.transpose(1, 2), ids_BT[:, 1:], reduction="none").double()
        is_answer_BT = torch.arange(1, ids_BT.shape[1])[None] >= torch.tensor([begin for _, begin in batch])[:, None]
        for i, chosen_BT in enumerate((is_answer_BT, torch.ones_like(is_answer_BT))):
            losses[i] += loss_BT[chosen_BT].sum().item()
            counts[i] += int(chosen_BT.sum())
    return math.exp(losses[0] / counts[0]), math.exp(losses[1] / counts[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="ask every Nth question (default: all)")
    every = parser.parse_args().every
    torch.set_num_threads(2)
    model, tokenizer = load_model(MODEL)
    model.requires_grad_(False)
    questions = list(collect_questions())[::every]
    asked = texts(tokenizer, questions)
    for label, weights in (("stock", None), ("native", "none"), ("int8", "int8"), ("int4", "int4")):
        contender = copy.deepcopy(model)
        if weights is not None:
            pack(contender, weights)
        answers, whole = perplexity(contender, asked, label)
        accuracy = measure_accuracy(contender, tokenizer, questions)
        print(
            f"{label}: perplexity {answers:.6f} of answers, {whole:.4f} of questions and answers; {accuracy}",
            flush=True,
        )


if __name__ == "__main__":
    main()
