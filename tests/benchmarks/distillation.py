"""How well a shadow of at most a quarter of the demo model's trunk stands in for it, fitted one way or the other.

`python -m tests.benchmarks.distillation` fits each contender, thirteen minutes on two cores, and writes the table; with
names of contenders it fits those alone. What was fitted stays in build/distillation and is not fitted again.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean

import torch

from cleangpt.data.batches import Batch
from cleangpt.data.stdlib_questions import collect_questions
from cleangpt.distillation.agreement import top1_agreement
from cleangpt.distillation.ends import Ends
from cleangpt.distillation.shadow_trainer import ShadowTrainer
from cleangpt.distillation.teacher import LocalTrunk
from cleangpt.model.shadow import Shadow, ShadowConfig
from cleangpt.tokenizers import load_tokenizer
from cleangpt.tokenizers.chat import answer_ids, prompt_ids
from cleangpt.trainers.settings import TrainingSettings
from splitlearn.checkpoints.load import load_part

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "deploy" / "demo_model"
WORK = ROOT / "build" / "distillation"
RESULTS = Path(__file__).parent / "results"
LAYERS = "1-5"
BATCH_TOKENS = 1024
UNSEEN_EVERY = 16
LEARNING_RATE = 3e-3
WIDE = {"num_hidden_layers": 1, "width": 256, "num_attention_heads": 8}
NARROW = {"num_hidden_layers": 2, "width": 160, "num_attention_heads": 4}
SMALL = {"num_hidden_layers": 2, "width": 96, "num_attention_heads": 4}


@dataclass(frozen=True)
class Contender:
    """A shape of at most 1 / `part` of the trunk, and how many passes over the text fit it.

    `hidden_epochs` for each layer, by the trunk's rows; `logit_epochs` for all of it, by the logits. `seeds` decide the
    fresh weights and the order of the batches: one shadow for each.
    """

    part: int
    shape: dict[str, int]
    hidden_epochs: int
    logit_epochs: int
    seeds: tuple[int, ...] = (0,)


CONTENDERS = {
    "wide, block by block": Contender(4, WIDE, 1, 1, seeds=(0, 1, 2)),
    "wide, end to end": Contender(4, WIDE, 0, 2, seeds=(0, 1, 2)),
    "narrow, block by block": Contender(4, NARROW, 1, 2),
    "narrow, end to end": Contender(4, NARROW, 0, 4),
    "small, block by block": Contender(16, SMALL, 1, 2),
    "small, end to end": Contender(16, SMALL, 0, 4),
}


@dataclass(frozen=True)
class Texts:
    """`held_out`: questions that were fitted in other words. `unseen`: subjects that were not fitted at all."""

    fitted: Sequence[Batch]
    held_out: Sequence[Batch]
    unseen: Sequence[Batch]


Row = tuple[list[int], int]


def read_texts() -> Texts:
    """Of every subject with several phrasings one is held out; every sixteenth subject is left out altogether."""
    tokenizer = load_tokenizer(WEIGHTS)
    fitted: list[Row] = []
    held_out: list[Row] = []
    unseen: list[Row] = []
    for number, question in enumerate(collect_questions()):
        answer = answer_ids(tokenizer, question.answer)
        prompts = [prompt_ids(tokenizer, phrasing) for phrasing in question.phrasings]
        rows = [([*prompt, *answer], len(prompt)) for prompt in prompts]
        if len(rows) == 1:
            fitted += rows
        elif number % UNSEEN_EVERY == 0:
            unseen += rows[:1]
        else:
            held_out.append(rows.pop(number % len(rows)))
            fitted += rows
    return Texts(*(list(batches(rows)) for rows in (fitted, held_out, unseen)))


def batches(rows: list[Row]) -> Iterator[Batch]:
    """Rows of like length together, padded with 0; answers are to be predicted."""
    waiting: list[Row] = []
    for row in sorted(rows, key=lambda each: len(each[0])):
        if waiting and len(row[0]) * (len(waiting) + 1) > BATCH_TOKENS:
            yield padded(waiting)
            waiting = []
        waiting.append(row)
    yield padded(waiting)


def padded(rows: list[Row]) -> Batch:
    width = max(len(ids) for ids, _ in rows)
    ids_BT = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids, _ in rows])
    learned_BT = torch.tensor([[start <= at < len(ids) for at in range(width)] for ids, start in rows])
    return Batch(ids_BT, learned_BT)


@dataclass(frozen=True)
class Model:
    """The model that is stood in for: what the client holds, and the trunk."""

    ends: Ends
    trunk: LocalTrunk
    trunk_parameters: int


def read_model() -> Model:
    ends = Ends.load(WEIGHTS, LAYERS)
    part = load_part(WEIGHTS, LAYERS, dtype="float32")
    return Model(ends, LocalTrunk(part, ends.fingerprint), sum(each.numel() for each in part.parameters()))


def fit(name: str, seed: int, texts: Texts, model: Model) -> dict[str, float]:
    """Fits one contender from one seed, or reads what was found before."""
    file = WORK / name.replace(", ", "_").replace(" ", "_") / f"seed_{seed}" / "found.json"
    if file.exists():
        known: dict[str, float] = json.loads(file.read_text())
        return known
    contender, ends, trunk = CONTENDERS[name], model.ends, model.trunk
    torch.manual_seed(seed)
    shape = {"hidden_size": ends.bottom.hidden_size, **contender.shape}
    config = ShadowConfig.within(model.trunk_parameters // contender.part, **shape)
    shadow = Shadow(config)
    settings = TrainingSettings(epochs=1, bf16_autocast=True, seed=seed)
    trainer = ShadowTrainer(ends, trunk, shadow, texts.fitted, file.parent, settings)
    results = trainer.train(contender.hidden_epochs, contender.logit_epochs, LEARNING_RATE)
    found = {
        "parameters": shadow.n_parameters,
        "steps": results.steps,
        "seconds": sum(each.seconds for each in results.stages.values()),
        "held_out": top1_agreement(ends, trunk, shadow, texts.held_out),
        "unseen": top1_agreement(ends, trunk, shadow, texts.unseen),
    }
    file.write_text(json.dumps(found))
    return found


def without_a_trunk(texts: Texts, model: Model) -> tuple[float, float]:
    """What bottom and top alone agree in: a fresh shadow between stitches passes on what it gets."""
    ends = model.ends
    size = ends.bottom.hidden_size
    nothing = Shadow(ShadowConfig(size, width=8, num_attention_heads=2, fingerprint=ends.fingerprint))
    held_out, unseen = (top1_agreement(ends, model.trunk, nothing, each) for each in (texts.held_out, texts.unseen))
    return held_out, unseen


Found = dict[str, list[dict[str, float]]]
"""What each contender was found to do, once a seed."""


def percent(shares: Sequence[float]) -> str:
    """The mean, and in brackets each of several."""
    text = f"{100 * mean(shares):.2f} %"
    return text if len(shares) == 1 else f"{text} ({', '.join(f'{100 * each:.2f}' for each in shares)})"


def verdict(found: Found, shape: str, texts: str) -> str:
    """Which way of fitting agrees more often, in one line."""
    blocks, whole = ([each[texts] for each in found[f"{shape}, {way}"]] for way in ("block by block", "end to end"))
    better = sum(ours > theirs for ours, theirs in zip(blocks, whole, strict=True))
    name = "block by block" if mean(blocks) > mean(whole) else "end to end"
    return (
        f"- {shape}, {texts.replace('_', ' ')}: block by block {percent(blocks)}, end to end {percent(whole)}: {name} "
        f"is ahead in the mean; block by block is ahead with {better} of {len(blocks)} seeds."
    )


def line_of(name: str, found: Sequence[dict[str, float]], trunk_parameters: int) -> str:
    held_out, unseen = (percent([each[texts] for each in found]) for texts in ("held_out", "unseen"))
    return (
        f"| {name} | {found[0]['parameters'] / trunk_parameters:.3f} | {found[0]['steps']:.0f} "
        f"| {mean(each['seconds'] for each in found):.0f} | {held_out} | {unseen} |"
    )


def report(found: Found, alone: tuple[float, float], trunk_parameters: int) -> str:
    lines = [line_of(name, each, trunk_parameters) for name, each in found.items()]
    pairs = [(shape, texts) for shape in ("wide", "narrow", "small") for texts in ("held_out", "unseen")]
    verdicts = [verdict(found, shape, texts) for shape, texts in pairs]
    return (
        f"# A shadow of the demo model's trunk, {datetime.now(UTC):%Y-%m-%d}\n\n"
        f"`python -m tests.benchmarks.distillation`: layers {LAYERS}, {trunk_parameters} parameters; "
        f"{os.cpu_count()} cores, torch with {torch.get_num_threads()} threads, bf16 autocast. Top-1 agreement of "
        "bottom + shadow + top with the whole model on the answers, teacher-forced; the mean over the seeds, and "
        "each of them in brackets.\n"
        "Held out: the phrasing was not fitted, the subject was in others (goal 85 % at 0.25 of the parameters). "
        "Unseen: nothing about the subject was fitted.\n\n"
        "| shadow | of the trunk's parameters | steps | seconds | held out | unseen |\n|---|---|---|---|---|---|\n"
        f"| none: bottom and top alone | 0 | 0 | 0 | {percent(alone[:1])} | {percent(alone[1:])} |\n"
        + "\n".join([*lines, "", "At equal steps:", "", *verdicts])
        + f"\n\nwide: {WIDE}; narrow: {NARROW}; small: {SMALL}; the last two between "
        "stitching layers; MLPs as wide as the share allows.\n"
    )


def main(names: Sequence[str]) -> None:
    texts, model = read_texts(), read_model()
    found: Found = {}
    for name in names or CONTENDERS:
        found[name] = []
        for seed in CONTENDERS[name].seeds:
            found[name].append(fit(name, seed, texts, model))
            print(f"{name}, seed {seed}:", found[name][-1], flush=True)
    if not names:
        text = report(found, without_a_trunk(texts, model), model.trunk_parameters)
        print(text)
        (RESULTS / f"distillation_{datetime.now(UTC):%Y-%m-%d}.md").write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
