"""Values that flags of several commands take. Without torch, so that a command can list its flags at once."""

from typing import Literal

Quantization = Literal["none", "int8", "int4"]
"""How the weights of linear layers are held in memory; `splitlearn.backends.cpu.packing` has the layers of each."""

KVCacheDtype = Literal["auto", "int8"]
"""How keys and values are held in memory; auto: as the model computes them."""

Verify = Literal["auto", "always", "never"]
"""When weight files are compared with their digests: before serving where that is quick, always, or never."""

EngineName = Literal["native", "vllm"]
"""What computes a trunk's layers: this package, or vLLM's model runner."""
