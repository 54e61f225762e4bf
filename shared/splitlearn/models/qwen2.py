"""The documented place of the split models of Qwen2."""

from splitlearn.split_models.qwen2 import Qwen2BottomModel, Qwen2TopModel, Qwen2TrunkModel

__all__ = ["Qwen2BottomModel", "Qwen2TopModel", "Qwen2TrunkModel"]
