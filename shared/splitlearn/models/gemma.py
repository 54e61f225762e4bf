"""The documented place of the split models of Gemma."""

from splitlearn.split_models.gemma import GemmaBottomModel, GemmaTopModel, GemmaTrunkModel

__all__ = ["GemmaBottomModel", "GemmaTopModel", "GemmaTrunkModel"]
