"""A directory of parts whose linear layers are rounded to 4 bits, layer by layer, after what prompts make of them.

One layer is in memory at a time, with the second moments of its linear layers' inputs, [K, K] each, and the rows of all
prompts before it. Its inputs are what comes out of the layers before it as they are rounded already.

Shapes: T tokens of a prompt, N outputs, K inputs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from llm_sepweight import Manifest, PartSpec, SepweightWriter, TensorSource, load, verify
from llm_sepweight.layout import BEGIN, END, place, section_name, split_place
from splitlearn.backends.cpu.linear.int4 import BLOCK, GROUP_SIZE, Int4Weight, quantize_int4
from splitlearn.calibration.feedback import output_errors, round_int4
from splitlearn.calibration.layers import FoundLayers, LinearLayer, linear_layers, run, second_moments
from splitlearn.checkpoints.folder import refuse_checkpoint, shorten, tokenizer_files
from splitlearn.checkpoints.int4 import Int4Codes, Int4Groups
from splitlearn.checkpoints.load import load_part
from splitlearn.errors import BadCheckpoint, BadRows
from splitlearn.model.part import Part


@dataclass(frozen=True)
class Rounding:
    """How weights are rounded.

    Attributes:
        group_size: inputs that share a scale, a multiple of 32.
        zero_points: whether groups have zero points of their own, which take 0.5 bits of each weight in groups of 32.
    """

    group_size: int = GROUP_SIZE
    zero_points: bool = True

    def __post_init__(self) -> None:
        if self.group_size < BLOCK or self.group_size % BLOCK:
            raise ValueError(f"group_size is {self.group_size}; a group has a multiple of {BLOCK} inputs")


@dataclass
class Quantized:
    """What was rounded, and what was not.

    Attributes:
        n_weights: weights of linear layers that are in 4 bits.
        error, nearest_error: the mean square of what outputs are off by, summed over all: as weights are now, and as
            rounding to the nearest level in groups of 32 would have made them.
        left: by reason, the places of the weights that stay numbers.
    """

    n_weights: int = 0
    error: float = 0.0
    nearest_error: float = 0.0
    left: dict[str, list[str]] = field(default_factory=dict)

    def notes(self) -> list[str]:
        """In a line each."""
        rounded = f"rounded {_weights(self.n_weights)} to 4 bits"
        if self.nearest_error:
            rounded += f"; the error of outputs is {self.error / self.nearest_error:.2f} of round-to-nearest's"
        return [rounded, *(f"left {_weights(len(each))} as {why}: {shorten(each)}" for why, each in self.left.items())]

    def leave(self, reason: str, places: Sequence[str]) -> None:
        """Notes weights that stay numbers."""
        self.left.setdefault(reason, []).extend(places)


def quantize(
    source: Path,
    out: Path,
    prompts: Sequence[Sequence[int]],
    rounding: Rounding | None = None,
    *,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Quantized:
    """Writes `source` to `out` with weights of 4 bits in its linear layers, as `convert --keep-int4` would.

    Embeddings, norms, biases and experts in one tensor are copied. A head that is tied to the embedding gets weights of
    4 bits beside the embedding's numbers. If it fails, `out` is as it was.

    Args:
        source: a sepweight directory of a whole model.
        prompts: token ids; of each, as many as the model's context holds.
        progress: told the number of bytes of `source` each time some are done.

    Raises:
        SepweightError: files of `source` are missing or damaged, `out` is a finished directory and `overwrite` is not
            given, or it cannot be written.
        BadCheckpoint: the weights of `source` are in 4 bits already, or are not finite.
        BadPlan: the model cannot be cut between all of its layers.
        BadRows: there is no prompt, or one has ids that are no token of the model.
    """
    manifest = Manifest.read(source)
    if manifest.dequantized:
        raise BadCheckpoint(f"{source} has weights of 4 bits already; quantize the directory of numbers it comes from")
    if not overwrite:
        refuse_checkpoint(out)
    names = tokenizer_files(source)
    entries = manifest.entries(PartSpec.parse("f"))
    copied = {split_place(home)[0] for home in manifest.tied.values()}
    # what is in 4 bits takes less, in place of its numbers as beside those that it is tied to
    needed = sum(entry.size for entry in (*entries.values(), *(entries[section] for section in copied)))
    beside = sum((source / name).stat().st_size for name in names)
    done = Quantized()
    with SepweightWriter(out, overwrite=overwrite, source=source, needed=needed + beside) as writer:
        sizes = {}
        for section, sources, is_rounded in _sections(source, manifest, prompts, rounding or Rounding(), done):
            writer.write_section(section, sources)
            # they keep the file mapped
            del sources
            if is_rounded:
                sizes[section] = manifest.files[section].size
            if progress is not None:
                progress(manifest.files[section].size)
        for name in names:
            writer.write_beside(source / name, name)
        writer.commit(
            model_name=manifest.model_name,
            config=manifest.config,
            dtype=manifest.dtype,
            n_layers=manifest.n_layers,
            tied=manifest.tied,
            dequantized=sizes,
        )
    return done


def _sections(
    source: Path, manifest: Manifest, prompts: Sequence[Sequence[int]], rounding: Rounding, done: Quantized
) -> Iterator[tuple[str, list[TensorSource], bool]]:
    """The sections to be written, each with its tensors, and whether some of these are in 4 bits."""
    rows: Sequence[torch.Tensor] = ()
    for layer in range(manifest.n_layers):
        is_last = layer == manifest.n_layers - 1
        spec = PartSpec(begin=layer == 0, layers=(range(layer, layer + 1),), end=is_last)
        part = _load(source, spec)
        rows = _checked(prompts, part) if layer == 0 else rows
        found = linear_layers(part, set(manifest.tied.values()), rounding.group_size)
        rounded = _rounded(found, second_moments(part, found.layers, rows), rounding, done)
        rows = [] if is_last else list(run(part, rows))
        # the next one must not have to share memory with it
        del part, found
        for section in _of(spec, layer):
            codes = rounded.get(section, {})
            yield section, _sources(_stored(source, manifest, section), codes), bool(codes)
        del rounded, codes


def _load(source: Path, spec: PartSpec) -> Part:
    """A part as its files say. A damaged one would get a digest of its own otherwise, and look whole."""
    verify(source, spec)
    return load_part(source, spec)


def _checked(prompts: Sequence[Sequence[int]], first: Part) -> list[torch.Tensor]:
    n_tokens = first.config.get_text_config(decoder=True).vocab_size
    if not prompts or not all(prompts):
        raise BadRows("there is no prompt to run, or one is empty")
    if not all(0 <= token < n_tokens for ids in prompts for token in ids):
        raise BadRows(f"a prompt has ids that are none of the model's {n_tokens} tokens; use the model's tokenizer")
    return [torch.tensor(ids[: first.context_length]) for ids in prompts]


def _rounded(
    found: FoundLayers, inputs: Mapping[str, torch.Tensor], rounding: Rounding, done: Quantized
) -> dict[str, dict[str, Int4Codes]]:
    """By section and name. The layers compute with them from then on, but for the head, which no layer is behind."""
    for reason, places in found.left.items():
        done.leave(reason, places)
    rounded: dict[str, dict[str, Int4Codes]] = {}
    for layer in found.layers:
        weight_NK, moments_KK = layer.weight_NK, inputs[layer.place]
        nearest = quantize_int4(weight_NK)
        obstacle = _codes(nearest).obstacle()
        # an infinite one is refused below
        if obstacle is not None and weight_NK.isfinite().all():
            done.leave(obstacle, [layer.place])
            continue
        weight = _round(layer, moments_KK, rounding)
        done.n_weights += 1
        done.error += output_errors(weight_NK, weight, moments_KK).sum().item()
        done.nearest_error += output_errors(weight_NK, nearest, moments_KK).sum().item()
        if layer.section != END:
            layer.replace_weight(weight)
        rounded.setdefault(layer.section, {})[layer.name] = _codes(weight)
    return rounded


def _round(layer: LinearLayer, moments_KK: torch.Tensor, rounding: Rounding) -> Int4Weight:
    try:
        return round_int4(layer.weight_NK, moments_KK, rounding.group_size, zero_points=rounding.zero_points)
    except BadCheckpoint as error:
        raise BadCheckpoint(f"{layer.place}: {error}") from error


def _codes(weight: Int4Weight) -> Int4Codes:
    groups = Int4Groups(weight.scale_NG, weight.zero_NG)
    return Int4Codes(weight.group_size, lambda: weight.levels_NK, lambda: groups)


def _stored(source: Path, manifest: Manifest, section: str) -> dict[str, torch.Tensor]:
    """The tensors that the file of a section holds, without those that are tied to others."""
    weights = load(source, PartSpec.of_sections([section]))
    (tensors,) = (each for each in (weights.begin, *weights.mid.values(), weights.end) if each is not None)
    return {name: tensor for name, tensor in tensors.items() if place(section, name) not in manifest.tied}


def _sources(stored: Mapping[str, torch.Tensor], rounded: Mapping[str, Int4Codes]) -> list[TensorSource]:
    numbers = [TensorSource.of(name, tensor) for name, tensor in stored.items() if name not in rounded]
    return [*numbers, *(source for name, codes in rounded.items() for source in codes.sources(name))]


def _of(spec: PartSpec, layer: int) -> list[str]:
    """The sections that a part of one layer has."""
    return [*([BEGIN] if spec.begin else []), section_name(layer), *([END] if spec.end else [])]


def _weights(count: int) -> str:
    return f"{count} weight{'' if count == 1 else 's'}"
