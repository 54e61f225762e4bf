"""`cleangpt evaluate`: measures a model on a text, alone or next to its teacher."""

from pathlib import Path
from typing import Annotated

import typer

from cleangpt.cli.text_flags import Column, Data, DatasetConfig, MaxSamples, Split

Teacher = Annotated[
    Path | None,
    typer.Option("--teacher", "--teacher-model-name", help="Its teacher's folder; a shadow's sepweight directory."),
]
Validation = Annotated[
    float | None,
    typer.Option("--validation", help="Use only this share at the end, which training held out, such as 0.05."),
]
ParseSpecialTokens = Annotated[
    bool, typer.Option("--parse-special-tokens", help="Special tokens spelled in the text become them.")
]
Comparisons = Annotated[
    bool, typer.Option("--generate-comparisons", help="Let both models continue prompts from the text.")
]
MaxTokens = Annotated[
    int, typer.Option("--max-tokens", "--max-new-tokens", min=1, help="Tokens to continue each of them by.")
]
Out = Annotated[
    Path | None, typer.Option("--out", "--output-dir", help="Write report.json and report.png to this directory.")
]
TrunkWait = Annotated[
    float, typer.Option("--trunk-wait", min=0, help="Seconds to wait for a trunk that is still starting.")
]


def evaluate(
    folder: Annotated[Path, typer.Argument(help="A model's folder, or a shadow that `cleangpt distill` wrote.")],
    data: Data,
    teacher: Teacher = None,
    dataset_config: DatasetConfig = None,
    column: Column = "text",
    split: Split = "train",
    max_samples: MaxSamples = None,
    validation: Validation = None,
    block_size: Annotated[
        int | None, typer.Option("--block-size", min=2, help="Tokens of a row. Default: what fits, up to 256.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Rows of a batch.")] = 8,
    max_batches: Annotated[int | None, typer.Option("--max-batches", min=1, help="Stop after this many.")] = None,
    parse_special_tokens: ParseSpecialTokens = False,
    generate_comparisons: Comparisons = False,
    num_comparison_prompts: Annotated[
        int, typer.Option("--num-comparison-prompts", min=1, help="How many of them.")
    ] = 5,
    max_new_tokens: MaxTokens = 32,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw them to this file: .png, .svg, .pdf.")] = None,
    out: Out = None,
    layers: Annotated[str | None, typer.Option("--layers", help="Of a shadow's trunk, such as 2-22.")] = None,
    trunk: Annotated[str | None, typer.Option("--trunk", help="HOST:PORT of a shadow's trunk.")] = None,
    trunk_wait: TrunkWait = 60.0,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda ... Default: a GPU if any.")] = None,
) -> None:
    """Perplexity, bits per byte, size and speed; beside a teacher also agreement and the error of hidden states."""
    # import torch and transformers late, so that --help is quick
    from transformers.utils.logging import disable_progress_bar

    from cleangpt.data.sources import part_of
    from cleangpt.evaluation.folders import FolderRequest, evaluate_folder
    from cleangpt.evaluation.outputs import write_report
    from cleangpt.evaluation.texts import TextChoice

    disable_progress_bar()
    text = TextChoice(
        source=part_of(data, dataset_config),
        column=column,
        split=split,
        max_samples=max_samples,
        block_size=block_size,
        batch_size=batch_size,
        validation=validation,
        max_batches=max_batches,
        parse_special_tokens=parse_special_tokens,
        n_prompts=num_comparison_prompts,
    )
    request = FolderRequest(
        folder, text, teacher, generate_comparisons, device, layers, trunk, trunk_wait, max_new_tokens
    )
    report = evaluate_folder(request)
    typer.echo(report.table())
    for line in write_report(report, json_file, plot, out):
        typer.echo(line)
