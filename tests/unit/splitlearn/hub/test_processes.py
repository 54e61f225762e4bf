"""Several processes and one cache, through HF_ENDPOINT as users set it."""

import os
import subprocess
import sys
import threading
from pathlib import Path

from llm_sepweight import Manifest, PartSpec, verify
from splitlearn.hub.listing import Hub
from splitlearn.hub.names import ModelName
from splitlearn.hub.opening import open_named
from splitlearn.hub.store import Cache
from support.loopback_hub import Asked, Fault, LoopbackHub

PATIENCE = 100.0
FETCH = """
import sys
from pathlib import Path
from llm_sepweight import PartSpec
from splitlearn.hub.weights import open_weights

open_weights(Path("org/tiny"), Path(sys.argv[1])).fetch([PartSpec.parse(sys.argv[2])])
"""


def fetch(served: LoopbackHub, cache: Cache, part: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "HF_ENDPOINT": served.url, "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, str(cache.root), part], env=environment, stderr=subprocess.PIPE, text=True
    )


def test_two_processes_at_once_share_one_download_and_both_have_the_model(
    served: LoopbackHub, cache: Cache, checkpoint: Path
) -> None:
    commit = served.add("org/tiny", checkpoint)
    asked, both = [], threading.Event()

    def script(each: Asked) -> None:
        if each.path.startswith("/api/"):
            asked.append(each)
            if len(asked) == 2:
                both.set()
        if each.server == "storage":
            both.wait(PATIENCE)

    served.script = script
    processes = [fetch(served, cache, part) for part in ("f", "b 0-5 e")]
    for process in processes:
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
    size = (checkpoint / "model.safetensors").stat().st_size
    header = (cache.folder("org/tiny", commit).headers / "model.safetensors").stat().st_size
    assert served.count_tensor_bytes() == size - header
    weights = cache.folder("org/tiny", commit).weights
    assert len(Manifest.read(weights).files) == 7
    verify(weights)


def test_a_process_that_is_killed_leaves_what_the_next_one_goes_on_with(
    served: LoopbackHub, hub: Hub, cache: Cache, checkpoint: Path
) -> None:
    commit = served.add("org/tiny", checkpoint)
    folder = cache.folder("org/tiny", commit)
    reached, killed = threading.Event(), threading.Event()

    def script(each: Asked) -> Fault | None:
        # in the middle of a layer, after others are whole
        if each.server == "storage" and (folder.weights / "mid.00001.safetensors").exists():
            reached.set()
            killed.wait(PATIENCE)
            return Fault(status=500)
        return None

    served.script = script
    process = fetch(served, cache, "f")
    assert reached.wait(PATIENCE)
    process.kill()
    process.communicate(timeout=PATIENCE)
    killed.set()
    served.script = lambda _: None
    assert {"begin", "mid.00000"} <= Manifest.read(folder.weights).files.keys()
    served.forget()
    model = open_named(ModelName("org/tiny"), cache, hub=hub)
    missing = model.missing([PartSpec.parse("f")])
    model.fetch([PartSpec.parse("f")])
    assert missing[-4:] == ["mid.00002", "mid.00003", "mid.00004", "end"]
    verify(folder.weights)
    assert not list(folder.path.rglob("*.part"))
    assert served.count_tensor_bytes() == sum(map(len, served.tensor_bytes().values()))
