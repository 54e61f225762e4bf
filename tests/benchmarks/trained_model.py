"""Trains a model with the widths of Qwen2-0.5B from nothing on the standard library's sources, for some minutes.

It continues where it was stopped, so that it can be trained a few minutes at a time. `tests.benchmarks.trained_quality`
measures what it makes.

Shapes: B windows, T tokens of a window, N tokens of all texts.
"""

import copy
import math
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from cleangpt.data.python_documentation import documentation_texts
from cleangpt.tokenizers.bpe import train_bpe

WINDOW: Final = 256
"""Tokens of a window, in training and when perplexity is measured."""
_VOCABULARY: Final = 4096
_BATCH: Final = 4
_HELD_OUT: Final = 20
"""One file in so many is never learned from."""
_LEARNING_RATE: Final = 1e-3
_WARMUP: Final = 0.05
_LEFT_OUT: Final = frozenset({"site-packages", "test", "tests", "idlelib", "lib2to3", "encodings", "pydoc_data"})


@dataclass(frozen=True)
class Texts:
    """Texts that are learned from, and others."""

    known: Sequence[str]
    held_out: Sequence[str]

    @classmethod
    def of_the_standard_library(cls) -> "Texts":
        """Source files and the documentation, in the same order on every run."""
        folder = Path(sysconfig.get_path("stdlib"))
        files = sorted(file for file in folder.rglob("*.py") if not _LEFT_OUT & set(file.relative_to(folder).parts))
        found = [*(file.read_text(encoding="utf-8", errors="replace") for file in files), *documentation_texts()]
        return cls(
            [text for i, text in enumerate(found) if i % _HELD_OUT], [text for text in found[::_HELD_OUT] if text]
        )


class TrainedModel:
    """A model that is being trained, in `folder`: its tokenizer, its state, and at the end the Hugging Face model."""

    def __init__(self, folder: Path, n_layers: int) -> None:
        self._folder, self._state = folder, folder / "state.pt"
        self.path = folder / "model"
        """The Hugging Face folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self.texts = Texts.of_the_standard_library()
        self.tokenizer = self._made_tokenizer()
        torch.manual_seed(0)
        self._model = Qwen2ForCausalLM(_config(n_layers))
        decays = [each for each in self._model.parameters() if each.ndim > 1]
        others = [each for each in self._model.parameters() if each.ndim < 2]
        groups = [{"params": decays, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, lr=_LEARNING_RATE, betas=(0.9, 0.95), fused=True)
        self.seconds, self.n_steps = 0.0, 0
        if self._state.is_file():
            self._continue(torch.load(self._state, weights_only=True))

    @property
    def n_tokens(self) -> int:
        """How many tokens it was trained on."""
        return self.n_steps * _BATCH * WINDOW

    def train(self, seconds: float, at_once: float) -> bool:
        """Trains until it was trained for `seconds` in all, or `at_once` from now on. Whether it is done."""
        ids_N = torch.tensor([token for ids in self.encoded(self.texts.known) for token in ids])
        stop, self._loss = min(seconds, self.seconds + at_once), math.nan
        with tqdm(total=round(seconds), initial=round(self.seconds), unit="s", desc="training") as bar:
            while self.seconds < stop:
                begun = time.perf_counter()
                self._step(ids_N, min(1.0, self.seconds / seconds))
                self.seconds += time.perf_counter() - begun
                bar.set_postfix(loss=f"{self._loss:.3f}", tokens=self.n_tokens, refresh=False)
                bar.update(round(self.seconds) - bar.n)
        self._save()
        return self.seconds >= seconds

    def held_out(self, most: int) -> torch.Tensor:
        """Windows [B, T] of texts that were not learned from, evenly over them, at most `most`."""
        ids_N = torch.tensor([token for ids in self.encoded(self.texts.held_out) for token in ids])
        windows_BT = ids_N[: len(ids_N) // WINDOW * WINDOW].view(-1, WINDOW)
        return windows_BT[:: max(1, len(windows_BT) // most)][:most]

    def unigram_perplexity(self, windows_BT: torch.Tensor) -> float:
        """Of the same tokens, by how often each token is in the texts that were learned from."""
        ids_N = torch.tensor([token for ids in self.encoded(self.texts.known) for token in ids])
        counts_V = torch.bincount(ids_N, minlength=_VOCABULARY).double() + 1
        return math.exp(-(counts_V / counts_V.sum()).log()[windows_BT[:, 1:]].mean().item())

    def _step(self, ids_N: torch.Tensor, progress: float) -> None:
        generator = torch.Generator().manual_seed(self.n_steps)
        starts_B = torch.randint(len(ids_N) - WINDOW, (_BATCH,), generator=generator)
        ids_BT = ids_N[starts_B[:, None] + torch.arange(WINDOW)]
        rate = min(progress / _WARMUP, 0.5 + 0.5 * math.cos(math.pi * progress)) if progress else 0.01
        for group in self._optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * rate
        with torch.autocast("cpu", torch.bfloat16):
            loss = self._model(input_ids=ids_BT, labels=ids_BT).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._loss = loss.item()
        self.n_steps += 1

    def encoded(self, texts: Sequence[str]) -> list[list[int]]:
        """Their token ids."""
        return [each.ids for each in self.tokenizer.backend_tokenizer.encode_batch(list(texts))]

    def _made_tokenizer(self) -> PreTrainedTokenizerFast:
        if (self.path / "tokenizer.json").is_file():
            return PreTrainedTokenizerFast.from_pretrained(self.path)
        tokenizer = train_bpe(self.texts.known, vocab_size=_VOCABULARY)
        tokenizer.save_pretrained(self.path)
        return tokenizer

    def _save(self) -> None:
        state = {"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict()}
        whole = self._state.with_suffix(".tmp")
        torch.save({**state, "seconds": self.seconds, "n_steps": self.n_steps}, whole)
        whole.replace(self._state)
        copy.deepcopy(self._model).to(torch.bfloat16).save_pretrained(self.path)

    def _continue(self, state: dict[str, Any]) -> None:
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.seconds, self.n_steps = state["seconds"], state["n_steps"]


def _config(n_layers: int) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=_VOCABULARY,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=n_layers,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
