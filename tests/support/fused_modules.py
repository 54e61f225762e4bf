"""Steps of several sessions through parts whose modules are fused.

Shapes: D hidden size.
"""

from pathlib import Path

import torch
from torch import nn
from transformers import PretrainedConfig

from splitlearn.backends.cpu.module_fusion import FusedModule
from splitlearn.backends.cpu.packing import pack
from splitlearn.checkpoints.load import load_part
from splitlearn.model.part import Part
from splitlearn.runner.batched import BatchedRunner
from splitlearn.runner.interface import SequenceInput
from support.tiny_models import random_model, save_sepweight

STEPS = ({0: 7, 1: 2}, {0: 1, 1: 3, 2: 9}, {0: 1, 1: 1, 2: 1}, {2: 4}, {0: 1, 1: 1, 2: 1})


def packed(folder: Path, config: PretrainedConfig, quantization: str = "none", spec: str = "2-4") -> Part:
    """A part of a random model, the middle layers if nothing else is said."""
    part = load_part(save_sepweight(folder, random_model(config).bfloat16(), chat=False, dtype="bfloat16"), spec)
    pack(part, quantization)
    return part


def fused_modules(module: nn.Module, plan: type) -> list[nn.Module]:
    """The modules inside whose forward is such a plan's."""
    forwards = ((each, vars(each).get("forward")) for each in module.modules())
    return [each for each, forward in forwards if isinstance(forward, FusedModule) and isinstance(forward.plan, plan)]


def without(part: Part, plan: type | None = None) -> None:
    """Lets the model's own forward run, as with any hook of others, and gives modules with such a plan theirs."""
    part.model.register_forward_hook(lambda *_: None)
    for module in fused_modules(part, plan) if plan is not None else ():
        del module.forward


def outputs(runner: BatchedRunner) -> list[torch.Tensor]:
    """Of sessions that bring prompts, more of them, and single rows in the same steps; then all that they keep."""
    dice, found = torch.Generator().manual_seed(0), []
    kvs = [runner.new_kv(None) for _ in range(3)]
    for counts in STEPS:
        rows = [_any_rows(runner.part, count, dice) for count in counts.values()]
        found += runner.run([SequenceInput(kvs[n], kvs[n].n_rows, own) for n, own in zip(counts, rows, strict=True)])
    return [*found, *(view.clone() for kv in kvs for view in kv.views(0, kv.n_rows))]


def _any_rows(part: Part, count: int, dice: torch.Generator) -> torch.Tensor:
    if part.spec.begin:
        return torch.randint(part.config.vocab_size, (count,), generator=dice)
    return torch.randn(count, part.hidden_size, generator=dice).bfloat16()


def equal(found: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    """To the bit."""
    return all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def close(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2**-6, atol=2**-6 * other.abs().max().item())
