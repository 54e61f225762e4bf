"""A checkout that can be imported without being installed. Standard library alone."""

import tomllib
from pathlib import Path
from typing import Any


def link_checkout(root: Path, site: Path) -> None:
    """What an editable install would do to an environment's packages, but for building the kernels.

    That one compiles them anew each time, one after the other, into files that others may have open.
    """
    (site / "checkout.pth").write_text("".join(f"{root / name}\n" for name in ("shared", "services")))
    project = project_table(root)
    described = site / f"{project['name']}-{project['version']}.dist-info"
    described.mkdir()
    head = f"Metadata-Version: 2.4\nName: {project['name']}\nVersion: {project['version']}\n"
    (described / "METADATA").write_text(head)
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    lines = [
        line for group, each in groups.items() for line in (f"[{group}]", *(f"{n} = {at}" for n, at in each.items()))
    ]
    (described / "entry_points.txt").write_text("\n".join(lines))


def project_table(root: Path) -> dict[str, Any]:
    """What pyproject.toml says of the project."""
    return dict(tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"])
