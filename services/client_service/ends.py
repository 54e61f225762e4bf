"""The client's own parts: bottom and top on this machine, on one device thread."""

from pathlib import Path
from typing import Self

from llm_sepweight import Manifest
from splitlearn.engine import DeviceThread, Engine
from splitlearn.loading import load_parts, resolve_device
from splitlearn.plan import SplitPlan, fingerprint


class Ends:
    """Embeddings and first layers, last layers and head of one model, cut at `plan`."""

    def __init__(self, bottom: Engine, top: Engine, plan: SplitPlan, expected: str) -> None:
        self.bottom = bottom
        self.top = top
        self.plan = plan
        self.fingerprint = expected
        """What a trunk must answer to fit between them."""

    @classmethod
    def load(cls, weights: Path, plan: SplitPlan, thread: DeviceThread, *, device: str, dtype: str | None) -> Self:
        """Reads both parts from their files; blocking, runs on the device thread.

        Raises:
            SepweightError, SplitError: files or plan do not fit the model.
        """
        where = resolve_device(device)
        bottom, top = load_parts(weights, [plan.bottom, plan.top], device=where, dtype=dtype)
        name = str(bottom.dtype).removeprefix("torch.")
        expected = fingerprint(Manifest.read(weights), plan, name)
        return cls(Engine(bottom, thread), Engine(top, thread), plan, expected)
