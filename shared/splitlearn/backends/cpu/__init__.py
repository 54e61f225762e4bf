"""The CPU backend: contiguous keys and values, kernels of our own, fused modules, packed linear layers."""
