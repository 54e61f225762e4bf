"""Opens the trunk that a shadow learns from: layers in a local directory, or a service at an address.

`cleangpt` has no network code. A package that has some registers an opener in the entry point group `cleangpt.trunks`
under the name `address`: a callable that takes the address and `wait`, how many seconds to wait for the trunk to start,
and returns a context manager whose value is a TrunkTeacher.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from cleangpt.distillation.addresses import address_alone
from cleangpt.distillation.ends import Ends
from cleangpt.distillation.teacher import LocalTrunk, TrunkTeacher
from cleangpt.errors import PackageMissingError, TrunkMismatchError
from llm_sepweight import Manifest
from splitlearn.checkpoints.load import load_part
from splitlearn.model.part import Part
from splitlearn.model.plan import SplitPlan, fingerprint

GROUP = "cleangpt.trunks"
NAME = "address"

PATIENCE_SECONDS = 60.0
"""How long to wait for a trunk at an address by default."""


@dataclass(frozen=True, eq=False)
class OpenTrunk:
    """A trunk with the bottom and top that fit it. `part` is None if the trunk's layers are remote."""

    ends: Ends
    teacher: TrunkTeacher
    part: Part | None = None


@contextmanager
def opened(
    weights: Path | str, layers: str | None = None, address: str | None = None, wait: float = PATIENCE_SECONDS
) -> Iterator[OpenTrunk]:
    """Opens the ends from a sepweight directory, and the trunk from the same directory or an address.

    Everything local computes in float32.

    Args:
        layers: the trunk's layers, such as "2-22"; None means the default cut.
        address: `host:port` of a trunk service, with or without `#token.fingerprint` behind it; its layers need not be
            in `weights`.
        wait: seconds to wait for a service that is still starting.

    Raises:
        SepweightError, SplitError: files are missing, or the model does not have these layers.
        PackageMissingError: no installed package can open the address.
        TrunkMismatchError: the trunk at the address belongs to another model or cut.
    """
    manifest = Manifest.read(Path(weights))
    plan = SplitPlan.parse(layers, manifest.n_layers)
    if address is None:
        ends = Ends.load(weights, plan.layers)
        part = load_part(weights, plan.trunk, dtype="float32")
        yield OpenTrunk(ends, LocalTrunk(part, ends.fingerprint), part)
        return
    shown = address_alone(address)
    with open_address(address, wait) as teacher:
        # the last word of a fingerprint is the dtype that the trunk computes in, which the trunk chooses
        dtype = teacher.fingerprint.rsplit(" ", 1)[-1]
        # check before loading the ends: with another cut, their files may be missing
        if teacher.fingerprint != (expected := fingerprint(manifest, plan, dtype)):
            raise TrunkMismatchError(
                f"the trunk at {shown} is for [{teacher.fingerprint}], {weights} is [{expected}]; give both "
                "the same weights and layers"
            )
        yield OpenTrunk(Ends.load(weights, plan.layers, trunk=dtype), teacher)


def open_address(address: str, wait: float) -> AbstractContextManager[TrunkTeacher]:
    """A context manager for the trunk at an address. Raises PackageMissingError and the opener's errors."""
    for brought in entry_points(group=GROUP, name=NAME):
        found: AbstractContextManager[TrunkTeacher] = brought.load()(address, wait=wait)
        return found
    raise PackageMissingError(
        f"nothing that is installed here can open the trunk at {address_alone(address)}: no package names {NAME!r} in "
        f'the entry point group {GROUP}; install splitlearn with its services: pip install "splitlearn[trunk]"'
    )
