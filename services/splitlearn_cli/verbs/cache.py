"""`splitlearn cache`: the models that were fetched by their names."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from splitlearn_cli.errors import BadUsage
from splitlearn_cli.flags import Flag, Positional, Repeated
from splitlearn_cli.terminal import aligned, human_bytes

if TYPE_CHECKING:
    from splitlearn.hub.store import Cache, CachedModel

_COMMIT_DIGITS = 12


class Settings(BaseSettings):
    """What to do with which models."""

    model_config = SettingsConfigDict(env_prefix="SPLITLEARN_CACHE_", frozen=True, extra="forbid")

    action: Literal["ls", "rm"] = Field(description="ls lists the models and what of them is here, rm removes some.")
    models: Annotated[Repeated, Positional()] = Field(
        (), description="For rm: ORG/NAME for all that is here of a model, ORG/NAME@REV for one revision or commit."
    )
    dir: Annotated[Path | None, Flag("--cache-dir")] = Field(
        None, description="The cache's directory. Default: $XDG_CACHE_HOME/splitlearn, or ~/.cache/splitlearn."
    )


def run(settings: Settings) -> None:
    """What a running service uses can be removed: it keeps what it has loaded. What is being fetched cannot."""
    from splitlearn.hub.store import Cache

    cache = Cache.at(settings.dir)
    if settings.action == "ls":
        if settings.models:
            raise BadUsage("ls lists all models; it takes no names")
        _list(cache)
    elif settings.models:
        _remove(cache, settings.models)
    else:
        raise BadUsage("rm needs names: ORG/NAME or ORG/NAME@REV; `splitlearn cache ls` lists what is here")


def _list(cache: "Cache") -> None:
    models = cache.models()
    if not models:
        print(f"{cache.root}: no models")
        return
    print(aligned([("MODEL", "REVISION", "COMMIT", "HERE", "SIZE"), *(tuple(_row(each)) for each in models)]))
    print(f"\n{cache.root}: {human_bytes(sum(each.size for each in models))}")


def _row(model: "CachedModel") -> Iterator[str]:
    yield model.repo
    yield ",".join(model.revisions) or "-"
    yield model.commit[:_COMMIT_DIGITS]
    yield _here(model)
    yield human_bytes(model.size)


def _here(model: "CachedModel") -> str:
    """The sections as a part spec, of how many layers."""
    from llm_sepweight import PartSpec
    from llm_sepweight.growing import has_section

    manifest = model.manifest
    if manifest is None:
        return "nothing whole"
    sections = [each for each in manifest.files if has_section(model.folder.weights, manifest, each)]
    return f"{PartSpec.of_sections(sections) if sections else 'no layers'} of {manifest.n_layers}"


def _remove(cache: "Cache", texts: tuple[str, ...]) -> None:
    from splitlearn.hub.names import ModelName

    for text in texts:
        name = ModelName.parse(text)
        if name is None:
            raise BadUsage(f"{text!r} is no name of a model: expected ORG/NAME or ORG/NAME@REV")
        for gone in cache.remove(name, all_commits="@" not in text):
            print(f"removed {gone.repo} at {gone.commit[:_COMMIT_DIGITS]}, {human_bytes(gone.size)}")
