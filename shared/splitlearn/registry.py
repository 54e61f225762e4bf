"""The documented place of the registry of split models."""

from splitlearn.split_models.registry import ModelRegistry

__all__ = ["ModelRegistry"]
