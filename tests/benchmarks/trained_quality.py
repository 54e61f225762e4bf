"""What weights, and keys and values, in fewer bits cost a model of the widths of Qwen2-0.5B, trained here from nothing.

Perplexity of texts that it was not trained on, through our runner as the services use it. Training goes on where it
was stopped; at the end everything is measured. The directories of `splitlearn quantize` are made after texts that it
was trained on.

    python -m tests.benchmarks.trained_quality [--minutes M] [--at-once M] [--layers N] [--windows N]
"""

import argparse
from collections.abc import Sequence
from typing import Final

import torch

from splitlearn.calibration.prompts import cut_prompts
from splitlearn.checkpoints.convert import prepare
from tests.benchmarks.contenders import ROOT
from tests.benchmarks.options_compared import Compared
from tests.benchmarks.trained_model import TrainedModel

_FOLDER: Final = ROOT / "build" / "trained_quality"
# as of `splitlearn quantize`
_PROMPTS, _TOKENS = 16, 512


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15, metavar="M", help="of training in all (default: 15)")
    parser.add_argument("--at-once", type=float, default=15, metavar="M", help="stop after so many, to go on later")
    parser.add_argument("--layers", type=int, default=4, metavar="N", help="of the model (default: 4)")
    parser.add_argument("--windows", type=int, default=48, metavar="N", help="texts of 256 tokens (default: 48)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of torch (default: 1)")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    trained = TrainedModel(_FOLDER, given.layers)
    if not trained.train(given.minutes * 60, given.at_once * 60):
        print(f"trained for {trained.seconds / 60:.1f} of {given.minutes:g} minutes; run it again to go on")
        return
    windows_BT = trained.held_out(given.windows)
    print(
        f"{given.layers} layers, {trained.n_tokens} tokens in {trained.seconds / 60:.1f} minutes; "
        f"unigram perplexity {trained.unigram_perplexity(windows_BT):.2f}"
    )
    source = _FOLDER / "weights"
    prepare(str(trained.path)).write(source, overwrite=True)
    compared = Compared(source, _FOLDER, cut_prompts(trained.encoded(trained.texts.known), _PROMPTS, _TOKENS))
    for weights, kv, found in compared.qualities([(ids, 1) for ids in windows_BT.tolist()]):
        print(f"| {weights.title} | {kv} | {found.whole:.3f} | {found.divergence:.6f} |", flush=True)


if __name__ == "__main__":
    main()
