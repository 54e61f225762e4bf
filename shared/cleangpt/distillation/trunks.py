"""Opens the trunk that a shadow learns from: layers in a directory here, or a service at an address.

`cleangpt` knows no network. A package that does names what opens an address, in the entry point group
`cleangpt.trunks` under the name `address`: something that is called with the address, and with `wait`, the seconds that
a trunk gets to start. It gives a context manager, whose value is a TrunkTeacher.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

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
"""How long a trunk at an address is waited for, unless somebody says otherwise."""


@dataclass(frozen=True, eq=False)
class OpenTrunk:
    """A trunk with the bottom and top that fit it. `part` is None where its layers are elsewhere."""

    ends: Ends
    teacher: TrunkTeacher
    part: Part | None = None


@contextmanager
def opened(
    weights: Path | str, layers: str | None = None, address: str | None = None, wait: float = PATIENCE_SECONDS
) -> Iterator[OpenTrunk]:
    """The ends from a sepweight directory, and the trunk from there too or from an address.

    All that is here computes in float32.

    Args:
        layers: the trunk's, as "2-22"; None takes the default cut.
        address: of a trunk service, `host:port`; its layers need not be in `weights`.
        wait: seconds to wait for a service that is still starting.

    Raises:
        SepweightError, SplitError: files missing, or layers that the model does not have.
        PackageMissingError: an address, and nothing installed that could open it.
        TrunkMismatchError: the trunk at the address is of another model or cut.
    """
    manifest = Manifest.read(Path(weights))
    plan = SplitPlan.parse(layers, manifest.n_layers)
    if address is None:
        ends = Ends.load(weights, plan.layers)
        part = load_part(weights, plan.trunk, dtype="float32")
        yield OpenTrunk(ends, LocalTrunk(part, ends.fingerprint), part)
        return
    with open_address(address, wait) as teacher:
        # the last word of a fingerprint is the dtype that the trunk computes in, which is up to the trunk
        dtype = teacher.fingerprint.rsplit(" ", 1)[-1]
        # before the ends are read: of another cut, their files need not be here
        if teacher.fingerprint != (expected := fingerprint(manifest, plan, dtype)):
            raise TrunkMismatchError(
                f"the trunk at {address} is for [{teacher.fingerprint}], {weights} is [{expected}]; give both the same "
                "weights and layers"
            )
        yield OpenTrunk(Ends.load(weights, plan.layers, trunk=dtype), teacher)


def open_address(address: str, wait: float) -> AbstractContextManager[TrunkTeacher]:
    """The trunk at an address, to be used as a context. Raises PackageMissingError, and what the opener raises."""
    for brought in entry_points(group=GROUP, name=NAME):
        found: AbstractContextManager[TrunkTeacher] = brought.load()(address, wait=wait)
        return found
    raise PackageMissingError(
        f"nothing that is installed here can open the trunk at {address}: no package names {NAME!r} in the entry point "
        f'group {GROUP}; install splitlearn with its services: pip install "splitlearn[trunk]"'
    )
