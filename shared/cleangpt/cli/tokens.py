"""`cleangpt tokens`: measures how well a tokenizer fits a text, and prunes it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cleangpt.cli.text_flags import Column, Data, DatasetConfig, MaxSamples, Split
from cleangpt.errors import UsageError

if TYPE_CHECKING:
    from cleangpt.analysis import PrunedTokenizer


def tokens(
    data: Data,
    plot_file: Annotated[Path | None, typer.Argument(help="What --plot writes; tokens.png by default.")] = None,
    tokenizer_type: Annotated[
        str, typer.Option("--tokenizer-type", help="character, bpe, gpt2, or a folder with a saved tokenizer.")
    ] = "bpe",
    vocab_size: Annotated[
        int | None, typer.Option("--vocab-size", help="Most entries of a tokenizer that is trained here.")
    ] = None,
    max_samples: MaxSamples = None,
    dataset_config: DatasetConfig = None,
    column: Column = "text",
    split: Split = "train",
    plot: Annotated[bool, typer.Option("--plot", help="Draw coverage and uses by rank.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file.")] = None,
    prune: Annotated[
        Path | None,
        typer.Option("--prune", help="Write the tokenizer without what the text does not need, and its model if any."),
    ] = None,
) -> None:
    """Counts how a tokenizer is used: coverage, tokens per word, bytes per token, unused entries."""
    if plot_file is not None and not plot:
        raise UsageError(f"{plot_file} was given without an option; write --plot {plot_file} to draw a plot there")
    if prune is not None and prune.exists() and (not prune.is_dir() or any(prune.iterdir())):
        raise UsageError(f"{prune} exists already; name a new folder for the pruned tokenizer")
    # import numpy, transformers and matplotlib late, so that --help is quick
    from cleangpt.analysis import as_json, as_table, count_usage, prune_tokenizer
    from cleangpt.data.sources import part_of, read_texts
    from cleangpt.tokenizers import create_tokenizer
    from cleangpt.writing import replacing

    texts = read_texts(part_of(data, dataset_config), column=column, split=split, max_samples=max_samples)
    tokenizer = create_tokenizer(tokenizer_type, texts=texts, vocab_size=vocab_size)
    usage = count_usage(tokenizer, texts)
    typer.echo(as_table(usage, tokenizer))
    if json_file is not None:
        with replacing(json_file) as partial:
            partial.write_text(json.dumps(as_json(usage, tokenizer), indent=2) + "\n", encoding="utf-8")
        typer.echo(f"numbers: {json_file}")
    if plot:
        from cleangpt.analysis.plots import plot_usage

        target = plot_file or Path("tokens.png")
        plot_usage(usage, target, title=f"{tokenizer_type} on {data}")
        typer.echo(f"plot: {target}")
    if prune is not None:
        pruned = prune_tokenizer(tokenizer, texts)
        typer.echo(_written(pruned, tokenizer.vocab_size, Path(tokenizer_type), prune))


def _written(pruned: "PrunedTokenizer", whole: int, source: Path, target: Path) -> str:
    """Writes the pruned tokenizer to `target`, and a pruned copy of the model in `source` if there is one."""
    from cleangpt.writing import replacing_files

    line = f"pruned: {target} with {len(pruned.kept):,} of {whole:,} tokens"
    with replacing_files(target) as partial:
        if (source / "config.json").exists():
            from cleangpt.analysis import cut_embedding
            from cleangpt.model.folder import open_hugging_face

            model = open_hugging_face(source)
            cut = cut_embedding(model, pruned.kept)
            cut.save_pretrained(partial)
            line += f", and its model with {cut.num_parameters():,} of {model.num_parameters():,} parameters"
        pruned.tokenizer.save_pretrained(partial)
    return line
