"""The model families against each other: same text, tokens, schedule and seed, and as many parameters.

    python -m tests.benchmarks.families [--quick] [NAME ...]

Every family has the layers, the heads and the width of Vanilla; what its attention saves goes into wider MLPs. Each
trains on the interpreter's documentation without every sixteenth text, which is validated on. Vanilla trains again
with ALiBi, so that what ALiBi does can be told from what Factored does, and from another seed: a difference as small as
between two seeds says nothing. SASP trains also with skip connections and Factored without head mixing, as the original
cleanGPT computes them. A training that was finished is kept in build/families and is not repeated; with names,
those alone are trained and no result is written.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cleangpt.config import OWN_OPTIONS, GPTConfig
from cleangpt.data.blocks import BlockSettings, TokenBlocks, joined_ids
from cleangpt.data.sources import read_texts
from cleangpt.model import get_model
from cleangpt.model.parameter_counts import parameter_count
from cleangpt.tokenizers import create_tokenizer
from cleangpt.trainers import Callback, History, Run, Training, TrainingSettings, WarmupCosine, train
from cleangpt.trainers.plots import smoothed
from tests.benchmarks.contenders import RESULTS, ROOT

WORK = ROOT / "build" / "families"
PLOT = "families.png"
TEXT = "python-documentation"
BASE = GPTConfig("Vanilla", block_size=128, vocab_size=2048, n_layer=4, n_head=4, n_embd=128)
BATCH_SIZE = 16
EPOCHS = 3
HELD_OUT_EVERY = 16
INNER_STEP = 8
CLOSE = 0.02
SCHEDULE = WarmupCosine(peak=2e-3, warmup=50)


@dataclass(frozen=True)
class Contender:
    """`seed` decides the fresh weights and the order of the text; `options` are fields of the config."""

    model_type: str
    seed: int = 0
    options: Mapping[str, bool] = field(default_factory=dict)


CONTENDERS = {
    "Vanilla": Contender("Vanilla"),
    "SASP": Contender("SASP"),
    "SASP with skips": Contender("SASP", options={"skip_connections": True}),
    "Factored": Contender("Factored"),
    "Factored without mixing": Contender("Factored", options={"head_mixing": False}),
    "FactoredALiBi": Contender("FactoredALiBi"),
    "Vanilla with ALiBi": Contender("Vanilla", options={"alibi": True}),
    "Vanilla, another seed": Contender("Vanilla", seed=1),
}


@dataclass(frozen=True)
class Texts:
    """Blocks to train on, of seed 0, and the blocks of other texts to validate on."""

    learned: TokenBlocks
    held_out: TokenBlocks


@dataclass(frozen=True)
class Found:
    """`tokens_per_second` is that of the median step, evaluations not counted."""

    config: GPTConfig
    parameters: int
    tokens_per_second: float
    history: History

    @property
    def validation_loss(self) -> float:
        """At the end, nats per token."""
        return self.history.evaluations[-1].loss


class StepTimes(Callback):
    """When each step was finished."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step(self, run: Run) -> None:
        self.times.append(time.perf_counter())

    @property
    def median_seconds(self) -> float:
        """Of a step; steps behind an evaluation are too few to change it."""
        return median(end - begin for begin, end in zip(self.times, self.times[1:], strict=False))


def read_blocks() -> Texts:
    """The tokenizer is trained on the learned texts alone."""
    texts = read_texts(TEXT)
    held_out = texts[::HELD_OUT_EVERY]
    learned = [text for number, text in enumerate(texts) if number % HELD_OUT_EVERY]
    tokenizer = create_tokenizer("bpe", texts=learned, vocab_size=BASE.vocab_size)
    settings = BlockSettings(BASE.block_size, BATCH_SIZE)
    return Texts(
        TokenBlocks(joined_ids(learned, tokenizer), settings),
        TokenBlocks(joined_ids(held_out, tokenizer), settings, shuffled=False),
    )


def parameters_of(config: GPTConfig) -> int:
    return parameter_count(config).total


def matched(contender: Contender) -> GPTConfig:
    """The contender's config with as many parameters as BASE, by the width of its MLPs."""
    model_type = contender.model_type
    wanted, config = parameters_of(BASE), replace(BASE, model_type=model_type, **contender.options)
    narrow, wider = (parameters_of(replace(config, n_inner=inner)) for inner in (INNER_STEP, 2 * INNER_STEP))
    found = replace(config, n_inner=INNER_STEP * (1 + round((wanted - narrow) / (wider - narrow))))
    share = parameters_of(found) / wanted
    if abs(share - 1) > CLOSE:
        raise ValueError(f"{model_type} has {share:.3f} of the parameters of {BASE.model_type}, not within {CLOSE}")
    return found


def fit(name: str, texts: Texts, steps: int | None, work: Path | None) -> Found:
    """Trains one contender for `steps`, or all epochs, or reads from `work` what was found before."""
    contender = CONTENDERS[name]
    config = matched(contender)
    file = None if work is None else work / f"{name.replace(', ', '_').replace(' ', '_')}.json"
    if file is not None and file.exists():
        known = json.loads(file.read_text())
        return Found(config, known["parameters"], known["tokens_per_second"], History.from_dict(known["history"]))
    torch.manual_seed(contender.seed)
    model = get_model(contender.model_type, config)
    learned = replace(texts.learned, settings=replace(texts.learned.settings, seed=contender.seed))
    settings = TrainingSettings(
        epochs=None if steps else EPOCHS,
        max_steps=steps,
        schedule=SCHEDULE,
        weight_decay=0.1,
        bf16_autocast=True,
        seed=contender.seed,
        evaluate_every=50,
    )
    times = StepTimes()
    history = train(Training(model, learned, settings, validation=texts.held_out, callbacks=[times]))
    speed = BATCH_SIZE * BASE.block_size / times.median_seconds
    found = Found(config, sum(each.numel() for each in model.parameters()), speed, history)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        kept = {"parameters": found.parameters, "tokens_per_second": speed, "history": history.to_dict()}
        file.write_text(json.dumps(kept))
    return found


def report(found: Mapping[str, Found], texts: Texts) -> str:
    first = found["Vanilla"]
    lines = [
        f"| {name} | {each.config.n_inner} | {each.parameters:,} | {each.parameters / first.parameters:.4f} "
        f"| {each.validation_loss:.3f} | {each.validation_loss - first.validation_loss:+.3f} "
        f"| {math.exp(each.validation_loss):.1f} | {each.tokens_per_second:.0f} |"
        for name, each in found.items()
    ]
    noise = abs(found["Vanilla, another seed"].validation_loss - first.validation_loss)
    return (
        f"# Model families, {datetime.now(UTC):%Y-%m-%d}\n\n"
        f"`python -m tests.benchmarks.families`: {BASE.n_layer} layers of width {BASE.n_embd}, {BASE.n_head} heads, "
        f"{BASE.block_size} positions, BPE of {BASE.vocab_size} entries; the interpreter's documentation, "
        f"{len(texts.learned.ids_N):,} tokens trained on {EPOCHS} times in {first.history.step} steps of {BATCH_SIZE} "
        f"blocks, {len(texts.held_out.ids_N):,} of other texts validated on. AdamW, {SCHEDULE}, weight decay 0.1, bf16 "
        f"autocast; {torch.get_num_threads()} threads on {os.cpu_count()} cores, one after the other. Tokens/s are "
        "those of the median step.\n\n"
        "| model | MLP width | parameters | of Vanilla's | validation loss, nats | against Vanilla | perplexity "
        "| tokens/s |\n|---|---:|---:|---:|---:|---:|---:|---:|\n" + "\n".join(lines) + "\n\n"
        f"Two seeds of Vanilla differ by {noise:.3f} nats.\n\n![loss curves]({PLOT})\n"
    )


def drawn(found: Mapping[str, Found]) -> Figure:
    """Validation beside training, from the first evaluation on; dashed where a family's own option was changed."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    FigureCanvasAgg(figure)
    validation, training = figure.subplots(1, 2, sharex=True, sharey=True)
    for number, (name, each) in enumerate(found.items()):
        is_changed = bool(set(CONTENDERS[name].options) & set(OWN_OPTIONS))
        style = {"color": f"C{number}", "linestyle": "--" if is_changed else "-", "linewidth": 1.6}
        steps = [evaluation.step for evaluation in each.history.evaluations]
        losses = [evaluation.loss for evaluation in each.history.evaluations]
        label = f"{name}: {each.validation_loss:.3f}"
        validation.plot(steps, losses, **style, marker="o", markersize=3, label=label)
        first = steps[0]
        training.plot(range(first, each.history.step + 1), smoothed(each.history.losses)[first - 1 :], **style)
    validation.set_ylabel("loss, nats per token")
    for axes, title in ((validation, "texts held out"), (training, "texts trained on (smoothed)")):
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(visible=True, alpha=0.3)
    validation.legend(title="on held-out texts at the end")
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CONTENDERS)}; none is all of them")
    parser.add_argument("--quick", action="store_true", help="see that it works; writes no result")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.names) - set(CONTENDERS)):
        parser.error(f"no contender is called {', '.join(unknown)}; choose of {', '.join(CONTENDERS)}")
    texts = read_blocks()
    found = {}
    for name in options.names or CONTENDERS:
        each = found[name] = fit(name, texts, 10 if options.quick else None, None if options.quick else WORK)
        print(f"{name}: loss {each.validation_loss:.3f}, {each.tokens_per_second:.0f} tokens/s", flush=True)
    if options.names:
        return
    text = report(found, texts)
    print(text)
    if not options.quick:
        RESULTS.mkdir(exist_ok=True)
        drawn({name: each for name, each in found.items() if not CONTENDERS[name].seed}).savefig(
            RESULTS / PLOT, dpi=110
        )
        (RESULTS / f"families_{datetime.now(UTC):%Y-%m-%d}.md").write_text(text)


if __name__ == "__main__":
    main()
