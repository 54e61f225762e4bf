"""The flags that say which text a verb reads, the same for every verb that has no settings file."""

from typing import Annotated

import typer

Data = Annotated[
    str,
    typer.Option("--data", "--dataset", "--dataset-name", help="Text: a file, a folder, a dataset on disk or a name."),
]
DatasetConfig = Annotated[
    str | None, typer.Option("--dataset-config", "--dataset-config-name", help="A file or folder inside of --data.")
]
Column = Annotated[
    str, typer.Option("--column", "--dataset-text-column", help="Where records have their text or messages.")
]
Split = Annotated[str, typer.Option("--split", "--dataset-split", help="Split of a dataset on disk.")]
MaxSamples = Annotated[int | None, typer.Option("--max-samples", min=1, help="Most texts to read.")]
