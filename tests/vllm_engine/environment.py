"""The environment with vLLM: this one, with what constraints/vllm.txt names on top."""

from pathlib import Path

from tests.clients.environments import Environment

ROOT = Path(__file__).parents[2]


class VLLMEnvironment(Environment):
    """Its lock stands where operators look for it."""

    @property
    def lock(self) -> Path:
        return ROOT / "constraints" / "vllm.txt"


VLLM = VLLMEnvironment("vllm", (), sees_ours=True)
