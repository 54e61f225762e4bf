"""What the numbers of a run may depend on beside its settings and its data."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Final

import torch

import cleangpt
import splitlearn
from cleangpt.cli.run_record import digest_of_code
from cleangpt.trainers.processes import Processes

_DISTRIBUTIONS: Final = ("splitlearn", "torch", "transformers", "tokenizers", "safetensors", "numpy")
_PACKAGES: Final = (cleangpt, splitlearn)


def environment(device: torch.device, processes: Processes) -> dict[str, str]:
    """Versions, digests of code, the processor, and how many threads and processes share the sums; by name."""
    found = {"python": platform.python_version(), **{name: version(name) for name in _DISTRIBUTIONS}}
    found |= {f"code of {each.__name__}": digest_of_code(Path(str(each.__file__)).parent) for each in _PACKAGES}
    return {
        **found,
        "system": f"{platform.system()} {platform.machine()}",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": str(torch.get_num_threads()),
        "processes": str(processes.count),
    }
