"""`splitlearn convert`: a checkpoint to a directory of parts, or a directory to the files of one trunk."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from splitlearn_cli.errors import BadUsage
from splitlearn_cli.flags import Flag
from splitlearn_cli.terminal import bytes_bar, human_bytes, note

if TYPE_CHECKING:
    from llm_sepweight import Manifest


class Settings(BaseSettings):
    """Input and output of the conversion."""

    model_config = SettingsConfigDict(env_prefix="SPLITLEARN_CONVERT_", frozen=True, extra="forbid")

    source: str = Field(
        description="Hugging Face folder, id of a model on the hub, GGUF file, or with --layers a converted directory."
    )
    out: Annotated[Path, Flag("-o")] = Field(description="Directory to write.")
    name: str | None = Field(None, description="The model's name in the API. Default: the last part of SOURCE.")
    dtype: str | None = Field(
        None,
        description="float32, bfloat16 or float16. Default: as in the checkpoint; bfloat16 for a quantised GGUF file.",
    )
    keep_int4: bool = Field(
        False,
        description="Keep weights of 4 bits as they are where --quantization int4 can take them; they are dequantised "
        "otherwise.",
    )
    trunk_of: Path | None = Field(
        None,
        description="Converted directory of the model that SOURCE was trained from, some layers as they were: its "
        "trunk serves the result.",
    )
    layers: str | None = Field(
        None, description="Copy only what a trunk of these layers, START-END without END, needs."
    )
    overwrite: bool = Field(False, description="Replace a finished directory.")


def run(settings: Settings) -> None:
    """The result does not depend on the cut. After an interruption, run it again: a partial result does not load."""
    converted = (Path(settings.source) / "manifest.json").is_file()
    if converted and settings.layers is None:
        raise BadUsage(
            f"{settings.source} is converted already; give --layers START-END to copy the files of one trunk"
        )
    if converted and (settings.dtype or settings.name or settings.trunk_of or settings.keep_int4):
        raise BadUsage(
            "--dtype, --name, --trunk-of and --keep-int4 cannot be given with a converted directory; convert the "
            "checkpoint again"
        )
    if settings.trunk_of and (settings.dtype or settings.name):
        raise BadUsage("--trunk-of says dtype and name; leave out --dtype and --name")
    if settings.layers is None:
        _convert(settings)
    elif converted:
        _extract(settings, settings.layers)
    else:
        raise BadUsage(
            f"--layers needs a converted directory, but {settings.source} is none; "
            "convert it first without --layers, then copy the layers out of the result"
        )


def _convert(settings: Settings) -> None:
    from llm_sepweight import Manifest
    from splitlearn.checkpoints.convert import prepare

    trunk_of = None if settings.trunk_of is None else Manifest.read(settings.trunk_of)
    conversion = prepare(
        settings.source,
        dtype=settings.dtype,
        name=settings.name,
        trunk_of=trunk_of,
        keep_int4=settings.keep_int4,
    )
    with bytes_bar("converting", conversion.total_bytes) as advance:
        manifest = conversion.write(settings.out, overwrite=settings.overwrite, progress=advance)
    for line in conversion.notes():
        note(line)
    size = sum(entry.size for entry in manifest.files.values())
    if trunk_of is None:
        _report(settings.out, manifest.n_layers, size)
    else:
        _report_ends(settings.out, manifest, trunk_of, size)


def _extract(settings: Settings, layers: str) -> None:
    from llm_sepweight import Manifest, extract
    from splitlearn.model.plan import SplitPlan

    manifest = Manifest.read(settings.source)
    plan = SplitPlan.parse(layers, manifest.n_layers)
    size = sum(entry.size for entry in manifest.entries(plan.trunk).values())
    with bytes_bar("copying", size) as advance:
        extract(settings.source, settings.out, plan.trunk, overwrite=settings.overwrite, progress=advance)
    print(f"{settings.out}: layers {plan.layers} of {plan.n_layers}, {human_bytes(size)}")
    print(f"next:  splitlearn trunk {settings.out} --layers {plan.layers}")


def _report_ends(out: Path, manifest: "Manifest", trunk_of: "Manifest", size: int) -> None:
    from splitlearn.checkpoints.own_ends import shared_layers

    shared = shared_layers(manifest.files, trunk_of)
    print(f"{out}: {manifest.n_layers} layers, {human_bytes(size)}")
    print(f"layers {shared} are those of {trunk_of.model_name}: a trunk of them, and of no others, serves {out}")
    print(f"next:  splitlearn client {out} --trunk HOST:50051")


def _report(out: Path, n_layers: int, size: int) -> None:
    from splitlearn.model.plan import SplitPlan

    layers = SplitPlan.parse(None, n_layers).layers
    print(f"{out}: {n_layers} layers, {human_bytes(size)}")
    print(f"next:  splitlearn trunk {out} --layers {layers}")
    print(f"       splitlearn client {out} --trunk HOST:50051")
