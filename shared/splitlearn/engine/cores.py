"""Whether two processes compute on the same cores."""

import hashlib
import os
from pathlib import Path

# Changes with each boot of the machine; the same inside its containers.
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def cores_name() -> str | None:
    """A hash that is equal in all processes that may use the same cores of one machine; it reveals nothing else.

    None where the system does not tell (Linux does).
    """
    if not _BOOT.exists():
        return None
    cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0)))
    return hashlib.sha256(f"{_BOOT.read_text().strip()} {cores}".encode()).hexdigest()[:16]
