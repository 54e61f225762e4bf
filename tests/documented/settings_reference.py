"""docs/configuration.md, made from the settings themselves: python -m tests.documented.settings_reference."""

from collections.abc import Iterator
from pathlib import Path

from pydantic_settings import BaseSettings

from splitlearn_cli.command import GlobalSettings
from splitlearn_cli.flags import _is_positional, _metavar, _spellings, _switch, _variable
from splitlearn_cli.group import VERBS, module_of

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
_HEAD = """# Configuration

Made by `make settings-reference` from the settings themselves; do not edit. Every flag has an environment variable. The
command line wins, then the environment, then the default. An empty variable counts as not set.
"""


def render() -> str:
    """The whole page."""
    sections = ["## Before the verb\n", *_table(GlobalSettings)]
    for name, verb in VERBS.items():
        settings = module_of(name).Settings
        sections += [f"\n## splitlearn {name}\n", f"{verb.line}\n", *_table(settings)]
    return "\n".join([_HEAD, *sections]) + "\n"


def _table(settings: type[BaseSettings]) -> Iterator[str]:
    yield "| flag | environment variable | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in settings.model_fields.items():
        if _is_positional(field):
            flag = f"`{name.upper()}`"
        elif field.annotation is bool:
            flag = ", ".join(f"`{spelling}`" for spelling in _switch(name, field).split("/"))
        else:
            flag = f"`{', '.join(_spellings(name, field))} {_metavar(field.annotation)}`".replace("|", "\\|")
        default = "required" if field.is_required() else "" if field.default in (None, ()) else f"`{field.default}`"
        yield f"| {flag} | `{_variable(settings, name)}` | {default} | {field.description} |"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
