"""The documented place of the base classes of split models."""

from splitlearn.split_models.base import BaseBottomModel, BaseSplitModel, BaseTopModel, BaseTrunkModel

__all__ = ["BaseBottomModel", "BaseSplitModel", "BaseTopModel", "BaseTrunkModel"]
