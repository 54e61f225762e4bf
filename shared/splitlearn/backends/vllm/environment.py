"""What vLLM reads from the environment. To be set before anything of vLLM is imported."""

from collections.abc import MutableMapping, Sequence

from splitlearn.backends.vllm.serving_request import ServingRequest


def prepare(environment: MutableMapping[str, str], request: ServingRequest, cores: Sequence[int]) -> None:
    """Sets what a trunk needs; of the rest what the operator has not set.

    Args:
        cores: the numbers of those that this process may use.
    """
    needed = {
        "VLLM_PP_LAYER_PARTITION": request.partition,
        # one worker runs in this process
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # nobody is told that it runs
        "VLLM_NO_USAGE_STATS": "1",
        # its log lines come with ours
        "VLLM_CONFIGURE_LOGGING": "0",
        # the older one: it needs no Triton
        "VLLM_USE_V2_MODEL_RUNNER": "0",
    }
    environment.update(needed)
    defaults = {
        # workers talk to each other on this machine alone
        "VLLM_HOST_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    if request.n_workers > 1:
        # on CPUs; left alone, each worker asks for a NUMA node of its own
        defaults["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(_shares(cores, request.n_workers))
    for name, value in defaults.items():
        environment.setdefault(name, value)


def _shares(cores: Sequence[int], n_workers: int) -> list[str]:
    """Cores of each worker: as many for one as for another, and at least one."""
    count = max(1, len(cores) // n_workers)
    firsts = [i * count % len(cores) for i in range(n_workers)]
    return [",".join(str(core) for core in cores[first : first + count]) for first in firsts]
