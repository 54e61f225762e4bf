"""Weights on disk: Hugging Face checkpoints read and converted, sepweight directories loaded into parts."""
