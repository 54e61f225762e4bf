"""The device that a user names."""

import torch

from cleangpt.errors import UsageError


def device_of(name: str | None) -> torch.device:
    """The device of that name, such as `cuda:1`; of None a GPU if there is one, else the CPU.

    Raises:
        UsageError: torch does not know such a device, or this machine does not have it.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise UsageError(f"--device {name} is none that torch knows; name one such as cpu, cuda or cuda:1") from error
    kind = getattr(torch, device.type, None)
    count = kind.device_count() if kind is not None and hasattr(kind, "device_count") and kind.is_available() else 0
    if (device.index or 0) >= count:
        raise UsageError(
            f"--device {name} is not there: this machine has {count} devices of the type {device.type}; name another "
            "one, or leave --device out"
        )
    return device
