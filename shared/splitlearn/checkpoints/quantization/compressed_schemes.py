"""Which scheme of a compressed-tensors config holds for which module."""

import re
from dataclasses import dataclass

import torch

from splitlearn.checkpoints.quantization.declaration import Declaration
from splitlearn.checkpoints.quantization.grid import Grid
from splitlearn.checkpoints.quantization.weight import fail
from splitlearn.errors import BadCheckpoint

_PACKED = "pack-quantized"
# which codes each format may have
_FORMATS = {
    _PACKED: {("int", 2), ("int", 4), ("int", 8)},
    "int-quantized": {("int", 8)},
    "float-quantized": {("float", 8)},
    "naive-quantized": {("int", 8), ("float", 8)},
}
_MIXED = "mixed-precision"
_DTYPES = {"int": torch.int8, "float": torch.float8_e4m3fn}
_PATTERN = "re:"


@dataclass(frozen=True)
class Scheme:
    """How the weights of some modules are quantised.

    Attributes:
        declared: what the config says, for errors.
        targets: names of modules, patterns that begin with "re:", or classes of modules.
        group: how many columns have one scale, for the strategy "group".
    """

    declared: Declaration
    targets: tuple[str, ...]
    is_packed: bool
    bits: int
    dtype: torch.dtype
    symmetric: bool
    strategy: str
    group: int
    block: tuple[int, int] | None

    @classmethod
    def read(cls, declared: Declaration, section: Declaration, general_format: str) -> "Scheme | None":
        """The scheme of a section of config_groups; None where it leaves weights as they are."""
        weights = section.section("weights")
        if weights is None:
            return None
        kind, bits = weights.text("type", "int"), weights.whole("num_bits", 8)
        form = section.text("format", general_format)
        if form not in _FORMATS:
            raise declared.refuse(f"format {form}")
        if (kind, bits) not in _FORMATS[form]:
            raise declared.refuse(f"format {form} of {bits} bits ({kind})")
        if weights.values.get("actorder") in (True, "group", "dynamic"):
            raise declared.refuse(f"actorder {weights.values['actorder']}")
        strategy, group = _strategy(weights)
        symmetric = weights.flag("symmetric", True)
        if form == _PACKED and not symmetric and strategy not in ("group", "channel"):
            raise declared.refuse(f"format {form}, zeros and strategy {strategy}")
        targets = section.texts("targets")
        for target in targets:
            _check_pattern(declared, target)
        block = weights.block("block_structure")
        return cls(declared, targets, form == _PACKED, bits, _DTYPES[kind], symmetric, strategy, group, block)

    def grid(self, shape: tuple[int, int], key: str) -> Grid:
        """How the scales of a weight are arranged.

        Args:
            key: the scales' name, for the error.

        Raises:
            BadCheckpoint: groups do not divide the columns.
        """
        if self.strategy == "group" and shape[1] % self.group:
            raise fail(key, f"belongs to groups of {self.group} columns, which do not divide {shape[1]}")
        blocks = {"tensor": shape, "channel": (1, shape[1]), "group": (1, self.group)}
        return Grid(shape, blocks.get(self.strategy) or self.block or shape)


def _check_pattern(declared: Declaration, target: str) -> None:
    try:
        re.compile(target.removeprefix(_PATTERN) if target.startswith(_PATTERN) else "")
    except re.error as error:
        raise BadCheckpoint(f"{declared.source}: config.json has {target!r} for a pattern: {error}") from error


def _strategy(weights: Declaration) -> tuple[str, int]:
    group = weights.whole("group_size", 0)
    by_size = "tensor" if group == 0 else "channel" if group == -1 else "group"
    strategy = weights.text("strategy", by_size)
    if strategy not in ("tensor", "channel", "group", "block"):
        raise weights.refuse(f"strategy {strategy}")
    if (strategy == "group" and group <= 0) or (strategy == "block" and weights.block("block_structure") is None):
        raise BadCheckpoint(f"{weights.source}: config.json lacks the size of the blocks of strategy {strategy}")
    return strategy, group


@dataclass(frozen=True)
class Schemes:
    """All schemes of a config, at least one."""

    schemes: tuple[Scheme, ...]

    @classmethod
    def read(cls, declared: Declaration) -> "Schemes":
        """Raises UnsupportedModel, BadCheckpoint."""
        general = declared.text("format", "dense")
        sparsity = declared.section("sparsity_config")
        if sparsity is not None and sparsity.text("format", "dense") != "dense":
            raise declared.refuse(f"sparsity {sparsity.text('format', '')}")
        if declared.section("transform_config") is not None:
            raise declared.refuse("transform_config")
        status = declared.text("quantization_status", "compressed")
        if status != "compressed":
            raise declared.refuse(f"quantization_status {status}")
        groups = declared.section("config_groups")
        named = [] if groups is None else [groups.section(name) for name in groups.values]
        read = [Scheme.read(declared, section, general) for section in named if section is not None]
        schemes = tuple(scheme for scheme in read if scheme is not None)
        if not schemes:
            # "mixed-precision" is no format of its own
            option = "no weights in config_groups" if general in (*_FORMATS, _MIXED) else f"format {general}"
            raise declared.refuse(option)
        return cls(schemes)

    def of(self, module: str) -> Scheme:
        """The scheme of a module that is quantised: by its name, else by a pattern, else by its class.

        Raises:
            BadCheckpoint: no scheme is its own.
        """
        if len(self.schemes) == 1:
            return self.schemes[0]
        for matches in (_is_named, _fits_pattern, _is_class):
            found = next((each for each in self.schemes if any(matches(name, module) for name in each.targets)), None)
            if found is not None:
                return found
        raise fail(f"{module}.weight_scale", "belongs to none of the config_groups")


def _is_named(target: str, module: str) -> bool:
    return target == module


def _fits_pattern(target: str, module: str) -> bool:
    return target.startswith(_PATTERN) and re.match(target.removeprefix(_PATTERN), module) is not None


def _is_class(target: str, module: str) -> bool:
    """A module that is quantised and that neither a name nor a pattern means is a linear layer."""
    return target == "Linear"
