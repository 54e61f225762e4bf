"""Weights of a language model, one file per layer."""
