import resource
import subprocess
import sys

import pytest

from splitlearn_trunk.open_files import allow_more_files

_SCRIPT = """
import resource
from splitlearn_trunk.open_files import allow_more_files
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))
allow_more_files()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_a_worker_may_open_as_many_files_as_it_is_allowed_to_ask_for() -> None:
    # a limit that was lowered cannot be raised again, so another process tries it
    ran = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True, timeout=120)
    assert ran.stdout.split() == ["300", "300"]


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [
        ((1024, resource.RLIM_INFINITY), (65536, resource.RLIM_INFINITY)),
        ((1024, 2**20), (65536, 2**20)),
        ((100_000, 2**20), None),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None),
    ],
)
def test_it_asks_for_enough_and_never_for_less_than_it_has(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], wanted: tuple[int, int] | None
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: asked.append(pair))
    allow_more_files()
    assert asked == ([] if wanted is None else [wanted])
