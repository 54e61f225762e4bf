"""`cleangpt evaluate`: measures a model on a text, alone or next to its teacher."""

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    folder: Annotated[Path, typer.Argument(help="A model's folder, or a shadow that `cleangpt distill` wrote.")],
    data: Annotated[
        str, typer.Option("--data", "--dataset", help="Text: a file, a folder, a dataset on disk or a name.")
    ],
    teacher: Annotated[
        Path | None, typer.Option("--teacher", help="Its teacher's folder; a shadow's sepweight directory.")
    ] = None,
    column: Annotated[str, typer.Option("--column", help="Where a dataset has its text.")] = "text",
    max_samples: Annotated[int | None, typer.Option("--max-samples", min=1, help="Most texts to read.")] = None,
    validation: Annotated[
        float | None,
        typer.Option("--validation", help="Use only this share at the end, which training held out, such as 0.05."),
    ] = None,
    block_size: Annotated[
        int | None, typer.Option("--block-size", min=2, help="Tokens of a row. Default: what fits, up to 256.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Rows of a batch.")] = 8,
    max_batches: Annotated[int | None, typer.Option("--max-batches", min=1, help="Stop after this many.")] = None,
    parse_special_tokens: Annotated[
        bool, typer.Option("--parse-special-tokens", help="Special tokens spelled in the text become them.")
    ] = False,
    generate_comparisons: Annotated[
        bool, typer.Option("--generate-comparisons", help="Let both models continue prompts from the text.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw them to this file: .png, .svg, .pdf.")] = None,
    layers: Annotated[str | None, typer.Option("--layers", help="Of a shadow's trunk, such as 2-22.")] = None,
    trunk: Annotated[str | None, typer.Option("--trunk", help="HOST:PORT of a shadow's trunk.")] = None,
    trunk_wait: Annotated[
        float, typer.Option("--trunk-wait", min=0, help="Seconds to wait for a trunk that is still starting.")
    ] = 60.0,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda ... Default: a GPU if any.")] = None,
) -> None:
    """Perplexity, bits per byte, size and speed; beside a teacher also agreement and the error of hidden states."""
    # import torch and transformers late, so that --help is quick
    from transformers.utils.logging import disable_progress_bar

    from cleangpt.evaluation.folders import FolderRequest, evaluate_folder
    from cleangpt.evaluation.texts import TextChoice

    disable_progress_bar()
    text = TextChoice(data, column, max_samples, block_size, batch_size, validation, max_batches, parse_special_tokens)
    request = FolderRequest(folder, text, teacher, generate_comparisons, device, layers, trunk, trunk_wait)
    report = evaluate_folder(request)
    typer.echo(report.table())
    if json_file is not None:
        report.write_json(json_file)
        typer.echo(f"numbers: {json_file}")
    if plot is not None:
        from cleangpt.evaluation.plots import plot_report

        plot_report(report, plot)
        typer.echo(f"plot: {plot}")
