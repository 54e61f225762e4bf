"""A model that learns in milliseconds, with dropout where a test wants random numbers, and batches of seeded ids."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedModel

from cleangpt.data.batches import Batch, LazyBatches

VOCABULARY = 40


@dataclass(frozen=True)
class Numbers:
    """`count` batches of rows that count upwards from a random number, so that there is something to learn."""

    count: int = 4
    rows: int = 4
    width: int = 9
    seed: int = 0

    def batches(self, epoch: int) -> Sequence[Batch]:
        return LazyBatches(range(self.count), lambda index: self._batch(epoch, index))

    def _batch(self, epoch: int, index: int) -> Batch:
        generator = torch.Generator().manual_seed(self.seed * 10_000 + epoch * 100 + index)
        first_B1 = torch.randint(VOCABULARY, (self.rows, 1), generator=generator)
        return Batch((first_B1 + torch.arange(self.width)) % VOCABULARY)


@pytest.fixture
def numbers() -> type[Numbers]:
    return Numbers


@pytest.fixture
def counter() -> Callable[..., PreTrainedModel]:
    """Makes a model, always with the same weights."""

    def make(dropout: float = 0.0) -> PreTrainedModel:
        torch.manual_seed(3)
        config = GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=16,
            n_embd=16,
            n_layer=1,
            n_head=2,
            attn_pdrop=dropout,
            embd_pdrop=dropout,
            resid_pdrop=dropout,
            bos_token_id=None,
            eos_token_id=None,
        )
        return AutoModelForCausalLM.from_config(config)

    return make
