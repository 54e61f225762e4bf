"""`python -m tests.clients.agent_model.accuracy`: how often the agents' model says just what it should.

It is asked what it was not trained on: numbers and results drawn anew, in wordings that it learned and in others.
Decoding is greedy. A conversation is right if every turn is, so that an agent's loop would have had it word for word.
"""

import argparse
from collections import Counter, defaultdict
from itertools import islice
from typing import Final

from transformers import PreTrainedTokenizerFast

from cleangpt.evaluation.accuracy import greedy_answers
from cleangpt.evaluation.model_folder import load_model
from tests.clients.agent_model.conversations import LEARNED, NEW, Conversation, Wordings, conversations
from tests.clients.agent_model.material import HERE

WEIGHTS: Final = HERE / "weights"
_BATCH: Final = 64
_LONGEST_ANSWER: Final = 96


def turns(tokenizer: PreTrainedTokenizerFast, conversation: Conversation) -> list[tuple[str, list[int], str]]:
    """Of each turn of the assistant its kind, the prompt's ids and what it should say."""

    def written(end: int, *, is_asking: bool) -> str:
        messages, tools = list(conversation.messages[:end]), list(conversation.tools) or None
        return str(
            tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=is_asking)
        )

    found: list[tuple[str, list[int], str]] = []
    for number, message in enumerate(conversation.messages):
        if message["role"] != "assistant":
            continue
        before = conversation.messages[number - 1]
        kind = "call" if "tool_calls" in message else "from a result" if before["role"] == "tool" else "without a tool"
        prompt = written(number, is_asking=True)
        expected = written(number + 1, is_asking=False)[len(prompt) :].partition(tokenizer.eos_token)[0]
        found.append((kind, tokenizer.encode(prompt, add_special_tokens=False), expected))
    return found


def measured(wordings: Wordings, seed: str, n: int) -> dict[str, tuple[int, int]]:
    """How many were right, and of how many: turns by kind, and whole conversations."""
    model, tokenizer = load_model(WEIGHTS)
    by_length: dict[int, list[tuple[int, str, list[int], str]]] = defaultdict(list)
    for number, conversation in enumerate(islice(conversations(wordings, seed), n)):
        for kind, prompt, expected in turns(tokenizer, conversation):
            by_length[len(prompt)].append((number, kind, prompt, expected))
    asked, right, wrong = Counter[str](), Counter[str](), set[int]()
    for group in by_length.values():
        for start in range(0, len(group), _BATCH):
            batch = group[start : start + _BATCH]
            answers = greedy_answers(model, tokenizer, [prompt for _, _, prompt, _ in batch], _LONGEST_ANSWER)
            for (number, kind, _, expected), answer in zip(batch, answers, strict=True):
                asked[kind] += 1
                right[kind] += answer == expected
                if answer != expected:
                    wrong.add(number)
                    print(f"  expected: {expected!r}\n  found:    {answer!r}")
    return {**{kind: (right[kind], asked[kind]) for kind in sorted(asked)}, "whole conversation": (n - len(wrong), n)}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("-n", type=int, default=200, help="conversations in learned wordings, and in new ones")
    n = arguments.parse_args().n
    found = {name: measured(each, "tested", n) for name, each in (("learned", LEARNED), ("new", NEW))}
    for name, by_kind in found.items():
        for kind, (right, asked) in by_kind.items():
            print(f"{name} wordings, {kind}: {right} of {asked} ({100 * right / asked:.1f} %)")


if __name__ == "__main__":
    main()
