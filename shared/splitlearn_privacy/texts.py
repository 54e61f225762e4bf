"""Texts that attacks are trained on, and others that they are tested on.

Shapes: N texts, T tokens of each.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
from typing import Final, Self

import torch
from torch import Tensor

from cleangpt.data import Conversations, read_source
from cleangpt.data.turns import Dialogue, dialogues_of
from cleangpt.tokenizers import BaseTokenizer
from splitlearn_privacy.errors import TooLittleText

_TEST_EVERY: Final = 4
"""One document in so many is kept for the test."""
_FEWEST_TRAINING: Final = 16
_FEWEST_TEST: Final = 2


@dataclass(frozen=True)
class Document:
    """Token ids, and which of them a model is expected to predict: all of a text, the answers of a conversation."""

    ids: tuple[int, ...]
    is_said: tuple[bool, ...]

    @property
    def n_asked(self) -> int:
        """Tokens before the first that a model is expected to predict; 0 for running text."""
        return next((n for n, is_said in enumerate(self.is_said) if is_said), len(self.ids))

    @property
    def first_answer(self) -> tuple[int, ...]:
        """The tokens from `n_asked` up to the next that a model is not expected to predict."""
        start = self.n_asked
        return self.ids[start : start + sum(1 for _ in takewhile(bool, self.is_said[start:]))]


@dataclass(frozen=True, eq=False)
class Texts:
    """Token ids of texts of equal length: `training_NT` for attacks to learn from, and `test_NT` to read.

    No document is in both, and no test text is also a training text. `test_said_NT`: see `Document.is_said`.
    """

    training_NT: Tensor  # noqa: N815 - a shape
    test_NT: Tensor  # noqa: N815 - a shape
    test_said_NT: Tensor  # noqa: N815 - a shape

    @property
    def n_common(self) -> int:
        """How many tokens all texts begin with, such as a chat template's; nothing is gained by reading those."""
        every_NT = torch.cat([self.training_NT, self.test_NT])
        return int((every_NT == every_NT[:1]).all(0).int().cumprod(0).sum())

    @classmethod
    def cut(cls, found: Sequence[Document], length: int, n_training: int, n_test: int) -> Self:
        """Cuts documents into texts of `length` tokens; a rest that is shorter is left out.

        Of a conversation it takes the beginning alone, as a model never sees a later part without it.

        Args:
            found: documents. One in four is used for the test.
            n_training, n_test: the most texts of each kind, taken evenly over the documents.

        Raises:
            TooLittleText: fewer than 16 training texts or 2 test texts, or a model is expected to predict none of it.
        """
        training = {text.ids: text for i, each in enumerate(found) if i % _TEST_EVERY for text in _pieces(each, length)}
        others = (text for each in found[::_TEST_EVERY] for text in _pieces(each, length))
        test = {text.ids: text for text in others if text.ids not in training}
        if len(training) < _FEWEST_TRAINING or len(test) < _FEWEST_TEST:
            raise TooLittleText(
                f"{len(found)} documents give {len(training)} texts of {length} tokens to train attacks on and "
                f"{len(test)} others to test them on; at least {_FEWEST_TRAINING} and {_FEWEST_TEST} are needed: give "
                "more text, in several files or records, or a smaller --tokens"
            )
        learned, read = _spread(list(training.values()), n_training), _spread(list(test.values()), n_test)
        if not any(any(text.is_said[1:]) for text in read):
            raise TooLittleText(f"no conversation comes to an answer within {length} tokens; give a larger --tokens")
        training_NT, test_NT = (torch.tensor([text.ids for text in each]) for each in (learned, read))
        return cls(training_NT, test_NT, torch.tensor([text.is_said for text in read]))


def prompts_alike(found: Sequence[Document], most: int, longest: int | None, most_said: int) -> list[tuple[int, ...]]:
    """Prompts of conversations that differ in length as little as they can, and so do their answers.

    They are those of the most common lengths.

    Args:
        most: how many; none is there twice.
        longest: tokens of each, at most; None for no bound.
        most_said: tokens of an answer behind which its length does not matter.
    """
    said = {each.ids[: each.n_asked]: each.first_answer for each in found if 0 < each.n_asked < len(each.ids)}
    lengths = {
        asked: (len(asked), min(len(answer), most_said))
        for asked, answer in said.items()
        if longest is None or len(asked) <= longest
    }
    count = Counter(lengths.values())
    return sorted(lengths, key=lambda asked: (-count[lengths[asked]], lengths[asked]))[:most]


def documents(source: str, tokenizer: BaseTokenizer, column: str = "text") -> list[Document]:
    """The documents of a source, as `cleangpt.data.read_source` finds them.

    Conversations are as the chat template writes them.

    Raises:
        TextError: the source is unknown or empty.
        TokenizerError: there is no chat template, or it cannot write a conversation.
    """
    found = read_source(source, column=column)
    if not isinstance(found, Conversations):
        return [Document(tuple(ids), (True,) * len(ids)) for ids in tokenizer.encode_all(found)]
    dialogues = (dialogues_of(tokenizer.fast, item.wordings[0])[0] for item in found.items)
    return [_conversation(each) for each in dialogues]


def _conversation(dialogue: Dialogue) -> Document:
    pieces = [piece for turn in dialogue for piece in ((turn.prompt, False), (turn.answer, True))]
    return Document(
        tuple(chain.from_iterable(ids for ids, _ in pieces)), tuple(is_said for ids, is_said in pieces for _ in ids)
    )


def _pieces(document: Document, length: int) -> list[Document]:
    starts = range(0, len(document.ids) - length + 1, length)
    if document.n_asked:
        starts = starts[:1]
    spans = [slice(start, start + length) for start in starts]
    return [Document(document.ids[span], document.is_said[span]) for span in spans]


def _spread(texts: Sequence[Document], most: int) -> Sequence[Document]:
    return [texts[i * len(texts) // most] for i in range(most)] if len(texts) > most else texts
