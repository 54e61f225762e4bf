"""Packages that only some verbs need, and the extras of the `splitlearn` distribution that install them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution, requires
from typing import Final

_DISTRIBUTION: Final = "splitlearn"


class MissingExtra(Exception):
    """Packages of an extra are not installed."""

    def __init__(self, packages: Sequence[str], extra: str, *, what: str = "this") -> None:
        listed = f"the package {packages[0]}" if len(packages) == 1 else f"the packages {', '.join(packages)}"
        super().__init__(f'{what} needs {listed}: pip install "{_DISTRIBUTION}[{extra}]"')


@contextmanager
def needing(extra: str | None) -> Iterator[None]:
    """A context or decorator for code that imports packages of `extra`.

    Raises:
        MissingExtra: instead of a ModuleNotFoundError, if packages of the extra are missing. If none is missing, the
            extra does not provide the module, and the original error is raised.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if extra is None or not (missing := missing_packages(extra)):
            raise
        raise MissingExtra(missing, extra) from error


def missing_packages(extra: str) -> list[str]:
    """Names of the distributions that `extra` requires on this platform but that are not installed.

    Commas separate several extras.
    """
    # slow to import, and needed only if something is missing
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
