"""Digests of what tiny models say, so that a change that is to change no bit can be held to it.

`python -m tests.equivalence.digests --write` puts those of this machine into digests.json, beside those of others.
Write them before such a change, never to make a test pass that fails after it.

An engine cuts prompts by what steps took before, and lets sessions share steps as they come; what is here leaves it
nothing to choose, since in fp32 and between experts bits depend on it.

Shapes: T rows, V vocabulary.
"""

import argparse
import asyncio
import hashlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1]))

from splitlearn.backends.cpu.kernels import kernels
from splitlearn.backends.cpu.packing import pack
from splitlearn.build import build_engine
from splitlearn.engine import DeviceThread, Engine, Limits
from splitlearn.model.part import Part
from splitlearn.model.plan import SplitPlan
from support.sessions import Chain, Together, decode, load_parts, prompt
from support.tiny_models import random_model, save_sepweight, tiny_config

FILE = Path(__file__).with_name("digests.json")
N_LAYERS = 3
PLAN = SplitPlan(1, 2, N_LAYERS)
NEW_TOKENS = 4
LENGTH = 45
# of prompts that share steps
LENGTHS = (LENGTH, 3, 17)
# more than the rows that our attention takes at a time
LONG = 530
# keys shared by two heads; biases; layer norms and absolute positions; wide heads; capped scores, and windows in every
# second layer; experts
MODELS: Mapping[str, Mapping[str, Any]] = {
    "llama": {"max_position_embeddings": 1024},
    "qwen2": {},
    "gpt2": {},
    "gemma": {},
    "gemma2": {"max_position_embeddings": 1024},
    "mixtral": {},
}
# dtype of the checkpoint, quantization
WEIGHTS: Mapping[str, tuple[str, str]] = {
    "fp32": ("float32", "none"),
    "bf16": ("bfloat16", "none"),
    "int8": ("bfloat16", "int8"),
}
# rows of each piece of a prompt, again and again: no more than an engine always takes at once
PIECES = (1, 7, 2, 16)
# what oneDNN, MKL and torch choose a kernel by, of what torch tells
_INSTRUCTIONS = (
    "avx2", "fma3", "avx_vnni", "avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "avx10_1", "avx10_2", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16",
)  # fmt: skip
_LIMITS = (
    "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE",
    "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR",
)  # fmt: skip

Digests = dict[str, dict[str, str]]


def machine() -> dict[str, Any]:
    """What decides about the bits of a sum: who computes it, and with which instructions."""
    has = torch.cpu.get_capabilities()
    return {
        # its build has its own oneDNN, MKL and mathematical functions
        "torch": torch.__version__,
        "transformers": ".".join(transformers.__version__.split(".")[:2]),
        "torch's instructions": torch.backends.cpu.get_cpu_capability(),
        "kernels": _library(),
        "processor": f"{platform.machine()}, {_vendor()}",
        "instructions": [name for name in _INSTRUCTIONS if has.get(name)],
        "limits": {name: os.environ[name] for name in _LIMITS if name in os.environ},
    }


def _library() -> str:
    if kernels() is None:
        return "none"
    return "with AVX-512 BF16" if torch.cpu._is_avx512_bf16_supported() else "without AVX-512 BF16"


def _vendor() -> str:
    """MKL has other code for the processors of others."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), "vendor unknown")


def digest(tensors: Iterable[torch.Tensor]) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
        found.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def digests_of(name: str, folder: Path, thread: DeviceThread) -> Iterator[tuple[str, dict[str, str]]]:
    """Of one model, for each dtype and way to run it: the greedy tokens, and the logits that they were chosen from."""
    model = random_model(tiny_config(name, num_hidden_layers=N_LAYERS, **MODELS[name]))
    yield f"{name}, random weights", {"weights": digest(model.state_dict().values())}
    folders: dict[str, Path] = {}
    for weights, (dtype, quantization) in WEIGHTS.items():
        if dtype not in folders:
            folders[dtype] = save_sepweight(folder / dtype, model, chat=False, dtype=dtype)
        parts = load_parts(folders[dtype], PLAN)
        if quantization == "none":
            chain = Chain(parts)
            yield f"{name}, {weights}, parts", _summary(*decode(chain, chain.append(prompt(LENGTH)), NEW_TOKENS))
        for part in parts:
            pack(part, quantization)
        yield f"{name}, {weights}, together", _together(parts)
        yield from ((f"{name}, {weights}, {way}", found) for way, found in asyncio.run(_by_engines(parts, thread)))


async def _by_engines(parts: Sequence[Part], thread: DeviceThread) -> list[tuple[str, dict[str, str]]]:
    def made() -> list[Engine]:
        return [build_engine(part, thread, Limits(max_cached_prefixes=0)) for part in parts]

    engines, _ = await thread.run(made)
    found = [
        ("prompt at once", _summary(*await _generate(engines, prompt(LENGTH), (LENGTH,)))),
        ("prompt in pieces", _summary(*await _generate(engines, prompt(LENGTH), PIECES))),
    ]
    if parts[0].config.max_position_embeddings >= LONG + NEW_TOKENS:
        found.append(("long prompt", _summary(*await _generate(engines, prompt(LONG), (300,)))))
    return found


def _together(parts: Sequence[Part]) -> dict[str, str]:
    """Several sessions in the same steps."""
    sessions = Together(list(parts), len(LENGTHS))
    logits = sessions.append({n: prompt(length) for n, length in enumerate(LENGTHS)})
    tokens, seen = [], list(logits.values())
    for _ in range(NEW_TOKENS):
        chosen = {n: logits_V.argmax()[None] for n, logits_V in logits.items()}
        logits = sessions.append(chosen)
        tokens += [int(token) for token in chosen.values()]
        seen += logits.values()
    return _summary(tokens, seen)


async def _generate(
    engines: Sequence[Engine], ids_T: torch.Tensor, pieces: Sequence[int]
) -> tuple[list[int], list[torch.Tensor]]:
    sessions = [engine.open(ids_T.shape[0] + NEW_TOKENS) for engine in engines]
    tokens: list[int] = []
    logits: list[torch.Tensor] = []

    async def append(position: int, rows: torch.Tensor) -> torch.Tensor:
        for engine, session in zip(engines, sessions, strict=True):
            rows = (await engine.step(session, position, rows)).output
        return rows

    position, n_pieces = 0, 0
    while len(tokens) < NEW_TOKENS:
        count = pieces[n_pieces % len(pieces)]
        rows = ids_T[position : position + count] if position < ids_T.shape[0] else torch.tensor(tokens[-1:])
        logits_V = await append(position, rows)
        position, n_pieces = position + rows.shape[0], n_pieces + 1
        if position >= ids_T.shape[0]:
            logits.append(logits_V)
            tokens.append(int(logits_V.argmax()))
    for engine, session in zip(engines, sessions, strict=True):
        engine.close(session)
    return tokens, logits


def _summary(tokens: Sequence[int], logits: Sequence[torch.Tensor]) -> dict[str, str]:
    return {"tokens": digest([torch.tensor(tokens)]), "logits": digest(logits)}


def all_digests() -> Digests:
    found: Digests = {}
    with DeviceThread(1) as thread:
        for name in MODELS:
            with tempfile.TemporaryDirectory() as folder:
                found.update(digests_of(name, Path(folder), thread))
    return found


def known() -> list[dict[str, Any]]:
    """Each with the `machine` that it was found on."""
    return json.loads(FILE.read_text()) if FILE.exists() else []


def known_here() -> Digests | None:
    here = machine()
    return next((each["digests"] for each in known() if each["machine"] == here), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put this machine's digests into the file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    here, found, before = machine(), all_digests(), known_here()
    print(json.dumps(here, indent=1))
    if before is not None:
        changed = sorted(name for name in found.keys() | before.keys() if found.get(name) != before.get(name))
        print(
            f"{len(changed)} of {len(found)} differ from the file: {'; '.join(changed)}"
            if changed
            else "as in the file"
        )
    if options.write:
        others = [each for each in known() if each["machine"] != here]
        FILE.write_text(json.dumps([*others, {"machine": here, "digests": found}], indent=1) + "\n")


if __name__ == "__main__":
    main()
