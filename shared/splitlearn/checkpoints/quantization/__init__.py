"""Weights that checkpoints store as codes: one reader for each format."""
