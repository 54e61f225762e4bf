"""Which class is the bottom, trunk or top of which architecture."""

from collections.abc import Callable
from typing import ClassVar, TypeVar

from splitlearn.errors import BadRegistration
from splitlearn.split_models.base import BaseBottomModel, BaseSplitModel, BaseTopModel, BaseTrunkModel

C = TypeVar("C", bound=type[BaseSplitModel])

BASES: dict[str, type[BaseSplitModel]] = {
    base.part_name: base for base in (BaseBottomModel, BaseTrunkModel, BaseTopModel)
}
PARTS = tuple(BASES)


class ModelRegistry:
    """The table of one process, filled when the modules that hold the classes are imported."""

    _classes: ClassVar[dict[tuple[str, str], type[BaseSplitModel]]] = {}

    @classmethod
    def register(cls, model_type: str, part: str) -> Callable[[C], C]:
        """A decorator that makes a class the `part` ("bottom", "trunk" or "top") of `model_type`.

        Defining the same class again, as in a notebook, replaces it.

        Raises:
            BadRegistration: no such part, the class does not derive from the part's base, or another class has the
                place.
        """
        if part not in BASES:
            raise BadRegistration(f"there is no part {part!r}; register one of {', '.join(PARTS)}")

        def decorate(split_class: C) -> C:
            base = BASES[part]
            if not issubclass(split_class, base):
                raise BadRegistration(f"{split_class.__name__} is no {part}: derive it from {base.__name__}")
            holder = cls._classes.get((model_type, part))
            if holder is not None and _full_name(holder) != _full_name(split_class):
                raise BadRegistration(
                    f"the {part} of {model_type!r} is {_full_name(holder)} already; choose another model type"
                )
            split_class.model_type = model_type
            cls._classes[model_type, part] = split_class
            return split_class

        return decorate

    @classmethod
    def find(cls, model_type: str, part: str) -> type[BaseSplitModel] | None:
        """The class that was registered, or None."""
        return cls._classes.get((model_type, part))

    @classmethod
    def registered(cls) -> dict[str, tuple[str, ...]]:
        """The model types that are registered, and which parts of each."""
        types = sorted({model_type for model_type, _ in cls._classes})
        return {name: tuple(part for part in PARTS if (name, part) in cls._classes) for name in types}


def _full_name(split_class: type) -> str:
    return f"{split_class.__module__}.{split_class.__qualname__}"
