"""Running text as blocks of equal length: all texts are concatenated and cut into windows of T tokens.

A block starts with the last token of the block before, so the token after it is predicted too.

Shapes: N tokens of the whole text, C blocks, B blocks of a batch, T positions.
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Self

import torch
from torch import Tensor

from cleangpt.data.batches import TEXT, Batch, LazyBatches
from cleangpt.errors import TextError, TextTooShortError
from cleangpt.tokenizers.base import BaseTokenizer

_TEXTS_AT_ONCE = 256
# A training must not resume from a checkpoint whose batches were cut differently.
_WAY_OF_CUTTING = 2


@dataclass(frozen=True)
class BlockSettings:
    """Blocks of `block_size` tokens, `batch_size` of them per batch, in an order drawn from `seed`."""

    block_size: int
    batch_size: int
    seed: int = 0

    def __post_init__(self) -> None:
        # a block of one token has nothing to predict
        if self.block_size < 2 or self.batch_size < 1:
            raise TextError(
                f"block_size is {self.block_size} and batch_size {self.batch_size}; at least 2 and 1 are needed"
            )


@dataclass(frozen=True, eq=False)
class TokenBlocks:
    """The batches of every epoch over one long text, `ids_N` (int32). Every epoch covers every token.

    Shuffled, for training: each epoch cuts the text at other positions, so that over the epochs every token occurs
    everywhere in a block, and blocks come in random order. The first and the last block of the text overlap their
    neighbors, and an epoch learns the overlap twice. Not shuffled, for measuring: every epoch is the same, blocks come
    in text order, and every token but the first is predicted once; the remainder is a shorter block in a batch of its
    own. Either way, a batch depends only on the text, the settings, the epoch and its index. The last batch may be
    smaller. Raises TextTooShortError if the text is shorter than a block.
    """

    ids_N: Tensor  # noqa: N815 - a shape
    settings: BlockSettings
    shuffled: bool = True

    def __post_init__(self) -> None:
        if len(self.ids_N) < self.settings.block_size:
            raise TextTooShortError(
                f"the text has {len(self.ids_N)} tokens and a block takes {self.settings.block_size}; "
                "give more text or a smaller block_size"
            )

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        tokenizer: BaseTokenizer,
        settings: BlockSettings,
        *,
        parse_special_tokens: bool = False,
    ) -> Self:
        """Concatenates the texts, each followed by the tokenizer's end token if it has one; see `joined_ids`."""
        return cls(joined_ids(texts, tokenizer, parse_special_tokens=parse_special_tokens), settings)

    def split(self, fraction: float) -> tuple["TokenBlocks", "TokenBlocks"]:
        """The text without its last `fraction` (0 to 1), and that last part, unshuffled, for validation.

        The last part has at least one block. Raises TextTooShortError if the rest is shorter than one.
        """
        if not 0 < fraction < 1:
            raise TextError(f"the validation fraction is {fraction}; it lies between 0 and 1, both excluded")
        total, block = len(self.ids_N), self.settings.block_size
        held_out = max(block, round(fraction * total))
        if total - held_out < block:
            raise TextTooShortError(
                f"the text has {total} tokens and a block takes {block}: {held_out} tokens to validate on leave "
                f"{total - held_out} to train on; give more text, a smaller block_size or a smaller fraction"
            )
        learned_N, held_out_N = self.ids_N[: total - held_out], self.ids_N[total - held_out :]
        return (
            TokenBlocks(learned_N, self.settings, self.shuffled),
            TokenBlocks(held_out_N, self.settings, shuffled=False),
        )

    @property
    def described(self) -> dict[str, str]:
        """A digest of the text, and the settings by name: what a checkpoint says of its data."""
        return {
            TEXT: hashlib.sha256(self.ids_N.numpy().tobytes()).hexdigest(),
            "batch_size": str(self.settings.batch_size),
            "ids per block": str(self.settings.block_size),
            "seed of the order": str(self.settings.seed),
            "shuffled": str(self.shuffled),
            "way of cutting": str(_WAY_OF_CUTTING),
        }

    def batches(self, epoch: int) -> LazyBatches[tuple[Tensor, int]]:
        """The batches of one epoch, in training order."""
        starts_C, block = self._starts(epoch), self.settings.block_size
        sources = [(starts_B, block) for starts_B in torch.split(starts_C, self.settings.batch_size)]
        # the last token of the last block is the first one that nothing was predicted from
        end = int(starts_C[-1]) + block - 1
        if not self.shuffled and end < len(self.ids_N) - 1:
            sources.append((torch.tensor([end]), len(self.ids_N) - end))
        return LazyBatches(sources, lambda source: Batch(self._rows(*source)))

    def _rows(self, starts_B: Tensor, width: int) -> Tensor:
        return self.ids_N.unfold(0, width, 1)[starts_B].long()

    def _starts(self, epoch: int) -> Tensor:
        """Where an epoch's full blocks start, in the epoch's order; neighbors in the text share at least one token."""
        stride, last = self.settings.block_size - 1, len(self.ids_N) - self.settings.block_size
        if not self.shuffled:
            return torch.arange(0, last + 1, stride)
        drawn = hashlib.sha256(f"{self.settings.seed} {epoch}".encode()).digest()
        # a generator takes signed 64 bits
        generator = torch.Generator().manual_seed(int.from_bytes(drawn[:8]) >> 1)
        shift = int(torch.randint(stride, (), generator=generator))
        # clamping may give several blocks the same start at an end of the text; the set keeps one
        starts = sorted({min(max(0, start - shift), last) for start in range(0, last + 2 * stride, stride)})
        starts_C = torch.tensor(starts)
        return starts_C[torch.randperm(len(starts_C), generator=generator)]


def joined_ids(texts: Iterable[str], tokenizer: BaseTokenizer, *, parse_special_tokens: bool = False) -> Tensor:
    """The ids of all texts in one int32 tensor [N]; the end token, if there is one, follows each text.

    A special token that is spelled in a text is text, unless `parse_special_tokens` is set.
    """
    end = [] if tokenizer.end_id is None else [tokenizer.end_id]
    ids = array("i")
    for group in _groups(texts):
        for each in tokenizer.encode_all(group, parse_special_tokens=parse_special_tokens):
            ids.extend(each)
            ids.extend(end)
    return torch.frombuffer(ids, dtype=torch.int32) if ids else torch.empty(0, dtype=torch.int32)


def _groups(texts: Iterable[str]) -> Iterator[list[str]]:
    waiting = iter(texts)
    while group := list(islice(waiting, _TEXTS_AT_ONCE)):
        yield group
