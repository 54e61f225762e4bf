"""The servers that are compared, each started as its users start it: the same random weights, the same threads."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from subprocess import DEVNULL

from gguf import GGMLQuantizationType as Kind

from support.running_split import free_port
from tests.benchmarks.contenders import Endpoint, ModelShape, make_weights, running, split_model, wait_until_ready
from tests.benchmarks.peers.gguf_file import make_gguf
from tests.benchmarks.peers.programs import llama_server, vllm_python

SESSIONS = 16
CONTEXT = 1024
# what takes a processor with AVX2 for one without more: our kernels, oneDNN and torch
AVX2: Mapping[str, str] = {
    "SPLITLEARN_KERNELS": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
}
# neither may end at a token of random weights that it takes for the last one
_GO_ON = {"ignore_eos": True}
_LOADING_SECONDS = 600.0


def ours(
    shape: ModelShape, threads: int, *flags: str, env: Mapping[str, str] | None = None
) -> AbstractContextManager[Endpoint]:
    """Client service and trunk, two processes: the model is cut in three."""
    return split_model(make_weights(shape)[1], threads, flags, layers=shape.layers, env=env)


@contextmanager
def llama_cpp(shape: ModelShape, threads: int, kind: Kind = Kind.BF16, build: str = "native") -> Iterator[Endpoint]:
    """llama-server: the whole model in one process."""
    port = free_port()
    options = {
        "--model": make_gguf(shape, kind),
        "--port": port,
        "--threads": threads,
        "--threads-batch": threads,
        "--parallel": SESSIONS,
        "--ctx-size": SESSIONS * CONTEXT,
        # prompts that were computed before are kept by none
        "--cache-ram": 0,
    }
    words = [str(word) for option in options.items() for word in option]
    with _served(port, *words, "--no-webui", program=llama_server(build), more={**_GO_ON, "cache_prompt": False}) as it:
        yield it


@contextmanager
def vllm(shape: ModelShape, threads: int) -> Iterator[Endpoint]:
    """`vllm serve`, its CPU build: the whole model in one process beside that of its API."""
    port, python = free_port(), vllm_python()
    options = {
        "--port": port,
        "--dtype": "bfloat16",
        "--max-model-len": CONTEXT,
        "--max-num-seqs": SESSIONS,
        "--served-model-name": shape.name,
    }
    words = [str(word) for option in options.items() for word in option]
    env = {
        "LD_PRELOAD": str(_openmp(python)),
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        # otherwise its threads wait for the next step on cores that the other servers need
        "KMP_BLOCKTIME": "1",
        "HF_HUB_OFFLINE": "1",
    }
    # its `vllm serve` asks for a package of that name, which the CPU build has not
    command = ("-m", "vllm.entrypoints.openai.api_server", "--model", str(make_weights(shape)[0]), *words)
    with _served(port, *command, program=python, env=env, more=_GO_ON) as it:
        yield it


@contextmanager
def _served(
    port: int, *command: str, program: Path, more: Mapping[str, object], env: Mapping[str, str] | None = None
) -> Iterator[Endpoint]:
    url = f"http://127.0.0.1:{port}"
    with running(*command, program=str(program), env=env, stdout=DEVNULL, stderr=DEVNULL) as process:
        wait_until_ready(url, process, within=_LOADING_SECONDS, path="/health")
        yield Endpoint(url, more)


def _openmp(python: Path) -> Path:
    return next(python.parents[1].glob("lib/**/libiomp5.so"))
