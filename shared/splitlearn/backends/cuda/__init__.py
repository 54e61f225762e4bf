"""The CUDA backend: paged keys and values, FlashAttention with block tables, CUDA graphs."""
