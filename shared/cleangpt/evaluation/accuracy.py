"""Asks a model every question that it was trained on and counts the correct answers.

Shapes: B prompts of one length, T positions.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from cleangpt.data.stdlib_questions import Question
from cleangpt.tokenizers.chat import prompt_ids

BATCH = 256


@dataclass(frozen=True)
class Miss:
    """A question that the model answered incorrectly."""

    prompt: str
    expected: str
    found: str


@dataclass(frozen=True)
class Accuracy:
    """The result; `asked` counts every phrasing of every question."""

    asked: int
    misses: tuple[Miss, ...]

    @property
    def fraction(self) -> float:
        """The share of exact answers, 0 to 1."""
        return 1.0 - len(self.misses) / self.asked

    def __str__(self) -> str:
        right = self.asked - len(self.misses)
        return f"{right} of {self.asked} trained questions answered exactly ({100 * self.fraction:.2f} %)"


def measure_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    questions: Sequence[Question],
    *,
    show_progress: bool = False,
) -> Accuracy:
    """Decodes greedily; an answer is correct if it is exact except for surrounding white space."""
    asked = [(prompt, question.answer) for question in questions for prompt in question.phrasings]
    by_length: dict[int, list[tuple[list[int], str, str]]] = defaultdict(list)
    for prompt, answer in asked:
        ids = prompt_ids(tokenizer, prompt)
        by_length[len(ids)].append((ids, prompt, answer))
    # prompts of equal length need no padding, so batching cannot change an answer
    batches = [
        group[start : start + BATCH] for _, group in sorted(by_length.items()) for start in range(0, len(group), BATCH)
    ]
    longest = max(len(tokenizer.encode(answer, add_special_tokens=False)) for _, answer in asked)
    misses: list[Miss] = []
    with tqdm(total=len(asked), unit="question", disable=not show_progress) as bar:
        for batch in batches:
            found = greedy_answers(model, tokenizer, [ids for ids, _, _ in batch], longest + 2)
            misses += [
                Miss(prompt, expected, text)
                for (_, prompt, expected), text in zip(batch, found, strict=True)
                if text.strip() != expected.strip()
            ]
            bar.update(len(batch))
    return Accuracy(len(asked), tuple(misses))


@torch.inference_mode()
def greedy_answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]], max_new_tokens: int
) -> Iterator[str]:
    """The greedy answer to each of several prompts of equal length, without special tokens."""
    prompts_BT = torch.tensor(prompts)
    answers_BT = model.generate(
        prompts_BT,
        attention_mask=torch.ones_like(prompts_BT),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )[:, prompts_BT.shape[1] :]
    texts: list[str] = tokenizer.batch_decode(answers_BT, skip_special_tokens=True)
    return iter(texts)
