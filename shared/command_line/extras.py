"""Packages that only some verbs need, and what installs them: the extras of the distribution `splitlearn`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution, requires
from typing import Final

_DISTRIBUTION: Final = "splitlearn"


class MissingExtra(Exception):
    """Packages of an extra are not installed. Whoever installed the project left it out."""

    def __init__(self, packages: Sequence[str], extra: str, *, what: str = "this") -> None:
        listed = f"the package {packages[0]}" if len(packages) == 1 else f"the packages {', '.join(packages)}"
        super().__init__(f'{what} needs {listed}: pip install "{_DISTRIBUTION}[{extra}]"')


@contextmanager
def needing(extra: str | None) -> Iterator[None]:
    """For a block, or as a decorator, that imports what `extra` installs.

    Raises:
        MissingExtra: in the place of a ModuleNotFoundError, if packages of the extra are missing. If all are here,
            the module is somebody else's, and no extra would bring it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if extra is None or not (missing := missing_packages(extra)):
            raise
        raise MissingExtra(missing, extra) from error


def missing_packages(extra: str) -> list[str]:
    """Names of the distributions that `extra` requires on this platform, and that are not installed.

    Several extras have commas between them.
    """
    # slow to import, and only needed where something is missing
    from packaging.requirements import Requirement

    missing = []
    for requirement in map(Requirement, requires(_DISTRIBUTION) or ()):
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}):
            continue
        if not any(marker.evaluate({"extra": each}) for each in extra.split(",")):
            continue
        if requirement.name == _DISTRIBUTION:
            missing += missing_packages(",".join(sorted(requirement.extras)))
        elif not _is_installed(requirement.name):
            missing.append(requirement.name)
    return list(dict.fromkeys(missing))


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
