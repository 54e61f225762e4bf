"""The documented place of the split models of GPT2."""

from splitlearn.split_models.gpt2 import GPT2BottomModel, GPT2TopModel, GPT2TrunkModel

__all__ = ["GPT2BottomModel", "GPT2TopModel", "GPT2TrunkModel"]
