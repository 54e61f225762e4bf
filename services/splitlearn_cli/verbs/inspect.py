"""`splitlearn inspect`: shows the contents of a directory of parts, and verifies it."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from splitlearn_cli.terminal import aligned, bytes_bar, human_bytes

if TYPE_CHECKING:
    from llm_sepweight import Manifest


class Settings(BaseSettings):
    """The directory, and whether to verify it."""

    model_config = SettingsConfigDict(env_prefix="SPLITLEARN_INSPECT_", frozen=True, extra="forbid")

    weights: Path = Field(description="Sepweight directory, of a whole model or of one worker.")
    verify: bool = Field(False, description="Read every file that is here, and compare its digest.")


def run(settings: Settings) -> None:
    """Exit code 1 if a file is truncated or, with --verify, damaged; the message names the file."""
    from llm_sepweight import Manifest, PartSpec, verify
    from llm_sepweight.mapped_file import checked_path

    manifest = Manifest.read(settings.weights)
    here = [name for name, entry in manifest.files.items() if (settings.weights / entry.file).is_file()]
    print(aligned(_summary(manifest, here)))
    print()
    print(aligned([("FILE", "BYTES", "HERE"), *_files(manifest, here)]))
    for name in here:
        checked_path(settings.weights, manifest.files[name])
    if settings.verify and here:
        part = PartSpec.of_sections(here)
        size = sum(entry.size for entry in manifest.entries(part).values())
        with bytes_bar("verifying", size) as advance:
            verify(settings.weights, part, progress=advance)
        print(f"\n{len(here)} files match their digests")


def _summary(manifest: "Manifest", here: Sequence[str]) -> list[tuple[str, str]]:
    config = manifest.config
    stored = sum(entry.size for entry in manifest.files.values())
    found = sum(manifest.files[name].size for name in here)
    rows = [
        ("model", manifest.model_name or "unnamed"),
        ("type", str(config.get("model_type", "unknown"))),
        ("layers", str(manifest.n_layers)),
        ("dtype", manifest.dtype),
        ("hidden size", str(_first(config, "hidden_size", "n_embd", "d_model"))),
        ("vocabulary", str(_first(config, "vocab_size"))),
        ("size", f"{human_bytes(stored)} in {len(manifest.files)} files"),
        ("here", f"{human_bytes(found)} in {len(here)} files"),
        *_four_bits(manifest),
        ("digest", manifest.digest[:16]),
        *((manifest.origin or {}).items()),
    ]
    return [*rows, *(("tied", f"{place} is stored as {home}") for place, home in sorted(manifest.tied.items()))]


def _four_bits(manifest: "Manifest") -> list[tuple[str, str]]:
    more = sum(size - manifest.files[section].size for section, size in manifest.dequantized.items())
    files = f"{len(manifest.dequantized)} files hold weights of 4 bits, {human_bytes(more)} less than as numbers"
    return [("int4", files)] if manifest.dequantized else []


def _first(config: dict[str, object], *names: str) -> object:
    return next((config[name] for name in names if name in config), "unknown")


def _files(manifest: "Manifest", here: Sequence[str]) -> Iterable[tuple[str, str, str]]:
    """One row per file; successive files of equal size share a row if all are here, or none."""
    from llm_sepweight.layout import layer_of, section_order

    present = set(here)

    def kind(section: str) -> tuple[bool, int, bool]:
        return layer_of(section) is None, manifest.files[section].size, section in present

    ordered = sorted(manifest.files, key=section_order)
    for (_, size, is_here), group in groupby(ordered, key=kind):
        names = [manifest.files[section].file for section in group]
        label = names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}"
        each = f"{size}" if len(names) == 1 else f"{len(names)} x {size}"
        yield label, each, "yes" if is_here else "no"
