"""`splitlearn quantize`: a directory of parts to one whose linear layers are in 4 bits."""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from splitlearn_cli.errors import BadUsage
from splitlearn_cli.flags import Flag
from splitlearn_cli.terminal import bytes_bar, human_bytes, note


class Settings(BaseSettings):
    """The model, the texts, and how weights are rounded."""

    model_config = SettingsConfigDict(env_prefix="SPLITLEARN_QUANTIZE_", frozen=True, extra="forbid")

    weights: Path = Field(description="Sepweight directory of a whole model, with its tokenizer.")
    out: Annotated[Path, Flag("-o")] = Field(description="Directory to write.")
    text: str = Field(
        "python-documentation",
        description="Texts that are like those that the model will see: a file, a folder, or a registered name.",
    )
    column: str = Field("text", description="Column of the records, where the texts are in a table.")
    prompts: int = Field(16, ge=1, le=1024, description="Most prompts that are cut out of the texts.")
    tokens: int = Field(512, ge=1, le=8192, description="Most tokens of each prompt.")
    group_size: int = Field(32, ge=32, le=128, multiple_of=32, description="Inputs that share a scale: 32, 64 or 128.")
    symmetric: bool = Field(
        False, description="No zero points: 4.5 bits for each weight in place of 5, in groups of 32, and more error."
    )
    overwrite: bool = Field(False, description="Replace a finished directory.")


def run(settings: Settings) -> None:
    """Runs prompts through one layer after the other, and rounds each weight with regard to what its inputs are then.

    The result is for --quantization int4. Its outputs are nearer to the model's than those of rounding at load.
    """
    if not (settings.weights / "manifest.json").is_file():
        raise BadUsage(
            f"{settings.weights} is no converted directory; make one first: splitlearn convert {settings.weights} "
            "-o DIR"
        )
    from cleangpt.tokenizers import create_tokenizer
    from llm_sepweight import Manifest
    from splitlearn.calibration.directory import Rounding, quantize
    from splitlearn.calibration.prompts import cut_prompts
    from splitlearn_privacy.texts import documents

    manifest = Manifest.read(settings.weights)
    tokenizer = create_tokenizer("hugging_face", folder=settings.weights)
    texts = (each.ids for each in documents(settings.text, tokenizer, settings.column))
    prompts = cut_prompts(texts, settings.prompts, settings.tokens)
    size = sum(entry.size for entry in manifest.files.values())
    with bytes_bar("quantizing", size) as advance:
        done = quantize(
            settings.weights,
            settings.out,
            prompts,
            Rounding(settings.group_size, zero_points=not settings.symmetric),
            overwrite=settings.overwrite,
            progress=advance,
        )
    for line in done.notes():
        note(line)
    written = sum(entry.size for entry in Manifest.read(settings.out).files.values())
    print(f"{settings.out}: {manifest.n_layers} layers, {human_bytes(written)} in place of {human_bytes(size)}")
    print(f"next:  splitlearn up {settings.out} --quantization int4")
