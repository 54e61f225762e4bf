"""Bottom and top, as the client has them, with a shadow in place of the trunk between them: a model that guesses.

A shadow is a small stack of layers that was fitted to a trunk. Its folder has a config.json with a `model_type` and the
`fingerprint` of the bottom and top that it fits. A package that brings such a type registers a loader in the entry
point group `splitlearn_client.shadows`, under the type's name: a callable that takes the folder, a torch device and the
dtype of rows, and returns a `splitlearn.runner.shadowed.ShadowPart`.
"""

import json
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, Self

import torch

from llm_sepweight import Manifest
from splitlearn.backends.cpu.packing import pack
from splitlearn.build import build_engine
from splitlearn.checkpoints.load import resolve_device, resolve_dtype
from splitlearn.engine import DeviceThread, Engine
from splitlearn.errors import BadPlan
from splitlearn.model.footprint import footprint
from splitlearn.model.part import Part
from splitlearn.model.plan import SplitPlan, fingerprint
from splitlearn.runner.select import runner_for
from splitlearn.runner.shadowed import ShadowedRunner, ShadowPart
from splitlearn_client.errors import BadModelFiles
from splitlearn_client.local_parts import LocalParts
from splitlearn_client.model_drafter import ModelDrafter, draft_limits
from splitlearn_client.settings import ClientSettings

GROUP: Final = "splitlearn_client.shadows"
_WRITER: Final = "cleangpt distill --shadow"

Load = Callable[[Path, torch.device, torch.dtype], ShadowPart]


class ShadowModel:
    """A shadow, from its folder on; `complete` puts it between the parts that it fits.

    Attributes:
        layers: of the trunk that it stands in for.
    """

    def __init__(self, shadow: ShadowPart, layers: str) -> None:
        self.layers = layers
        self._shadow = shadow
        self._engine: Engine | None = None

    @classmethod
    def load(cls, folder: Path, settings: ClientSettings) -> Self:
        """Loads the shadow alone. Blocks; call it on the device thread.

        Raises:
            BadModelFiles: it is no shadow, none that can be loaded here, or one of another model or cut.
            SepweightError, SplitError: the model's own files are missing or damaged, or it has no such device or cut.
            Exception: what its loader raises where files are damaged.
        """
        config, manifest = _read_config(folder), Manifest.read(settings.weights)
        plan = _plan(folder, str(config.get("fingerprint")), settings, manifest)
        load = _loader(folder, str(config.get("model_type")))
        device = torch.device(resolve_device(settings.device))
        shadow = load(folder, device, resolve_dtype(settings.dtype or manifest.dtype))
        for each in (shadow.part, shadow.entrance, shadow.exit):
            if each is not None:
                pack(each, settings.quantization)
        return cls(shadow, plan.layers)

    def complete(self, parts: LocalParts, settings: ClientSettings, thread: DeviceThread) -> None:
        """Makes a model of it and the parts, which have its cut and keep their weights. Blocks, on the device thread.

        Raises:
            NoRoom: the memory holds no keys and values for it.
        """
        shadow, bottom, top = self._shadow, parts.bottom, parts.top
        own = _row_bytes(shadow.part)
        row_bytes = bottom.row_bytes + own + top.row_bytes

        def runner(_bottom: Part, kv_bytes: int | None) -> ShadowedRunner:
            # as many rows in each of them
            most_rows = (kv_bytes or 0) // row_bytes
            layers = None if shadow.part is None else runner_for(shadow.part, most_rows * own)
            below, above = (runner_for(each.part, most_rows * each.row_bytes) for each in (bottom, top))
            return ShadowedRunner(shadow, below, layers, above)

        limits = draft_limits(settings, bottom.part.device)
        self._engine = build_engine(bottom.part, thread, limits, runner=runner)

    def drafter(self, most_rows: int) -> ModelDrafter:
        """Of an answer with at most so many rows, which begins after `complete`."""
        if self._engine is None:
            raise RuntimeError("the shadow has no bottom and top yet")
        return ModelDrafter(self._engine, most_rows)


def _row_bytes(layers: Part | None) -> int:
    """What a row takes in the cache of a shadow's layers."""
    if layers is None:
        return 0
    return sum(layer.row for layer in footprint(layers.config).layers) * layers.dtype.itemsize


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadModelFiles(f"{file} cannot be read ({error}); name the folder that `{_WRITER}` wrote") from error
    if not isinstance(found, dict) or "fingerprint" not in found:
        raise BadModelFiles(f"{file} is not that of a shadow; name the folder that `{_WRITER}` wrote")
    return found


def _plan(folder: Path, found: str, settings: ClientSettings, manifest: Manifest) -> SplitPlan:
    """The cut that it was fitted for. Raises BadModelFiles if that is not this model's, or not the one asked for."""
    fit = f"{_WRITER} --weights {settings.weights}"
    try:
        plan = SplitPlan.of_fingerprint(found)
    except BadPlan as error:
        raise BadModelFiles(f"{folder} was not fitted for a model ({error}); fit a shadow: {fit}") from error
    # any dtype will do: what the trunk rounds changes few guesses
    expected = fingerprint(manifest, plan, found.rsplit(" ", 1)[-1])
    if found != expected:
        raise BadModelFiles(
            f"{folder} was fitted for [{found}], this client holds [{expected}]; fit a shadow for this model: {fit}"
        )
    wanted = settings.layers and SplitPlan.parse(settings.layers, manifest.n_layers)
    if wanted and wanted != plan:
        raise BadModelFiles(
            f"{folder} was fitted for layers {plan.layers}, and --layers is {wanted.layers}; fit a shadow for these: "
            f"{fit} --layers {wanted.layers}; or serve and ask for {plan.layers}"
        )
    return plan


def _loader(folder: Path, model_type: str) -> Load:
    for brought in entry_points(group=GROUP, name=model_type):
        try:
            load: Load = brought.load()
        except ImportError as error:
            raise BadModelFiles(
                f"{folder} holds a {model_type}, whose loader {brought.value} cannot be imported here: {error}; "
                "install what it needs"
            ) from error
        return load
    raise BadModelFiles(
        f"{folder} holds a {model_type}, and no package that is installed here names it in the entry point group "
        f"{GROUP}; install the one that brings it: cleangpt_shadow comes with splitlearn, "
        'pip install "splitlearn[client]"'
    )
