"""compressed-tensors: what its own library packs becomes what it unpacks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme
from transformers import AutoModelForCausalLM, CompressedTensorsConfig

from splitlearn.checkpoints.convert import prepare
from splitlearn.errors import BadCheckpoint, SplitError, UnsupportedModel
from support.quantized_checkpoints import (
    UP,
    State,
    assert_same,
    converted,
    declare,
    edit,
    logits_after_conversion,
    logits_of,
    save_quantized,
)

PACKED, INT, FLOAT = "pack-quantized", "int-quantized", "float-quantized"


def scheme_of(form: str, **weights: Any) -> dict[str, Any]:
    kind = "float" if form == FLOAT else "int"
    return {"targets": ["Linear"], "format": form, "weights": {"num_bits": 8, "type": kind, **weights}}


def declared(*schemes: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "quant_method": "compressed-tensors",
        "format": schemes[0]["format"] if len(schemes) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": {f"group_{i}": scheme for i, scheme in enumerate(schemes)},
        "ignore": ["lm_head"],
        **fields,
    }


class Library:
    """Quantises by the library; remembers what it makes of the result."""

    def __init__(self, scheme: dict[str, Any], dtype: torch.dtype = torch.float32) -> None:
        self._scheme = QuantizationScheme(**scheme)
        self._compressor = BaseCompressor.get_value_from_registry(scheme["format"])
        self._dtype = dtype
        self.unpacked: State = {}

    def __call__(self, module: str, weight: torch.Tensor) -> State:
        args = self._scheme.weights
        assert args is not None
        given: State = {"weight": weight, "weight_scale": self._scales(weight).to(self._dtype)}
        if not args.symmetric:
            zeros = torch.arange(given["weight_scale"].numel()) % (2**args.num_bits) - 2 ** (args.num_bits - 1)
            given["weight_zero_point"] = zeros.to(torch.int8).reshape(given["weight_scale"].shape)
        made: State = self._compressor.compress(given, self._scheme)
        self.unpacked[f"{module}.weight"] = self._compressor.decompress(made, self._scheme)["weight"]
        return made

    def _scales(self, weight: torch.Tensor) -> torch.Tensor:
        args = self._scheme.weights
        assert args is not None
        greatest = 448 if args.type == "float" else 2 ** (args.num_bits - 1) - 1
        rows, columns = weight.shape
        match args.strategy:
            case "tensor":
                sizes = weight.abs().amax().reshape(1)
            case "channel":
                sizes = weight.abs().amax(1, keepdim=True)
            case "group":
                sizes = weight.abs().reshape(rows, -1, args.group_size or columns).amax(2)
            case _:
                high, wide = args.block_structure or (rows, columns)
                padded = torch.nn.functional.pad(weight, (0, -columns % wide, 0, -rows % high)).abs()
                sizes = padded.reshape(-(-rows // high), high, -(-columns // wide), wide).amax((1, 3))
        return sizes / greatest


GROUPS = {"strategy": "group", "group_size": 16}
SCHEMES = [
    scheme_of(PACKED, num_bits=4, **GROUPS),
    scheme_of(PACKED, num_bits=4, symmetric=False, **GROUPS),
    scheme_of(PACKED, num_bits=4, strategy="channel"),
    scheme_of(PACKED, num_bits=4, strategy="channel", symmetric=False),
    scheme_of(PACKED, num_bits=8, **GROUPS),
    scheme_of(PACKED, num_bits=8, symmetric=False, **GROUPS),
    scheme_of(PACKED, num_bits=2, symmetric=False, strategy="channel"),
    scheme_of(PACKED, num_bits=4, strategy="tensor"),
    scheme_of(INT, strategy="channel"),
    scheme_of(INT, strategy="channel", symmetric=False),
    scheme_of(INT, strategy="tensor"),
    scheme_of(INT, **GROUPS),
    scheme_of(FLOAT, strategy="tensor"),
    scheme_of(FLOAT, strategy="channel"),
    scheme_of(FLOAT, strategy="block", block_structure=[40, 24]),
    scheme_of("naive-quantized", strategy="channel"),
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_are_those_of_the_library(tmp_path: Path, scheme: dict[str, Any], dtype: str) -> None:
    library = Library(scheme, getattr(torch, dtype))
    folder = save_quantized(tmp_path / "ct", declared(scheme), library)
    state = converted(folder, dtype)
    assert len(library.unpacked) == 35
    assert_same({name: state[name] for name in library.unpacked}, library.unpacked)


@pytest.mark.parametrize("scheme", [SCHEMES[1], SCHEMES[8], SCHEMES[12]])
def test_logits_are_those_of_transformers(tmp_path: Path, scheme: dict[str, Any]) -> None:
    folder = save_quantized(tmp_path / "ct", declared(scheme), Library(scheme))
    whole = AutoModelForCausalLM.from_pretrained(folder, quantization_config=CompressedTensorsConfig(dequantize=True))
    expected = logits_of(whole.eval())
    torch.testing.assert_close(logits_after_conversion(folder, tmp_path / "out"), expected)


def test_modules_may_have_schemes_of_their_own(tmp_path: Path) -> None:
    four = {**scheme_of(PACKED, num_bits=4, **GROUPS), "targets": ["re:.*mlp.*"]}
    eight = {**scheme_of(INT, strategy="channel"), "targets": ["Linear"]}
    one = {**scheme_of(FLOAT, strategy="tensor"), "targets": [UP]}
    libraries = [Library(each) for each in (four, eight, one)]

    def quantize(module: str, weight: torch.Tensor) -> State:
        return libraries[2 if module == UP else 0 if "mlp" in module else 1](module, weight)

    folder = save_quantized(tmp_path / "ct", declared(eight, four, one), quantize)
    state = converted(folder)
    for library in libraries:
        assert library.unpacked
        assert_same({name: state[name] for name in library.unpacked}, library.unpacked)


PACKED_4 = scheme_of(PACKED, num_bits=4, symmetric=False, **GROUPS)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop(f"{UP}.weight_scale"), "weight_packed is quantised, but .*weight_scale is missing"),
        (lambda state: state.pop(f"{UP}.weight_packed"), "weight_scale is quantised, but .*weight_packed is missing"),
        (lambda state: state.pop(f"{UP}.weight_shape"), "weight_packed is quantised, but .*weight_shape is missing"),
        (lambda state: state.pop(f"{UP}.weight_zero_point"), "weight_zero_point is missing"),
        (
            lambda state: state.update({f"{UP}.weight_scale": torch.ones(96, 3)}),
            r"weight_scale should have the shape \[96, 4\]",
        ),
        (
            lambda state: state.update({f"{UP}.weight_zero_point": torch.zeros(96, 4).int()}),
            r"weight_zero_point should have the shape \[12, 4\]",
        ),
        (
            lambda state: state.update({f"{UP}.weight_packed": torch.zeros(96, 8)}),
            "weight_packed should be int32",
        ),
        *(
            (
                lambda state, sizes=sizes: state.update({f"{UP}.weight_shape": torch.tensor(sizes)}),
                "weight_packed should|weight_shape should|weight_scale .* do not divide",
            )
            for sizes in ([96, 2**40], [-96, 64], [96, 0], [96, -64], [96, 60], [96], [2**62, 2**62])
        ),
    ],
)
def test_tensors_that_do_not_belong_together_are_named(
    tmp_path: Path, change: Callable[[State], Any], named: str
) -> None:
    folder = save_quantized(tmp_path / "ct", declared(PACKED_4), Library(PACKED_4))
    edit(folder, change)
    with pytest.raises(BadCheckpoint, match=named):
        prepare(str(folder))


def test_groups_that_do_not_divide_the_columns_are_named(tmp_path: Path) -> None:
    folder = save_quantized(tmp_path / "ct", declared(PACKED_4), Library(PACKED_4))
    declare(folder, declared(scheme_of(PACKED, num_bits=4, strategy="group", group_size=40)))
    with pytest.raises(BadCheckpoint, match=r"weight_scale belongs to groups of 40 columns, which do not divide"):
        prepare(str(folder))


def with_weights(**fields: Any) -> dict[str, Any]:
    return declared(scheme_of(PACKED, **{"num_bits": 4, **GROUPS, **fields}))


@pytest.mark.parametrize(
    ("section", "error", "named"),
    [
        (declared(scheme_of("nvfp4-pack-quantized")), UnsupportedModel, "format nvfp4-pack-quantized"),
        (declared(scheme_of("marlin-24")), UnsupportedModel, "format marlin-24"),
        (with_weights(num_bits=3), UnsupportedModel, r"pack-quantized of 3 bits \(int\)"),
        (with_weights(actorder="group"), UnsupportedModel, "actorder group"),
        (with_weights(strategy="tensor_group"), UnsupportedModel, "strategy tensor_group"),
        (with_weights(strategy="tensor", symmetric=False), UnsupportedModel, "zeros and strategy tensor"),
        (
            declared(PACKED_4, sparsity_config={"format": "sparse-24-bitmask"}),
            UnsupportedModel,
            "sparsity sparse-24-bitmask",
        ),
        (declared(PACKED_4, transform_config={"config_groups": {"u": {}}}), UnsupportedModel, "transform_config"),
        (declared(PACKED_4, quantization_status="frozen"), UnsupportedModel, "quantization_status frozen"),
        (declared({"targets": ["Linear"], "format": PACKED}), UnsupportedModel, "no weights in config_groups"),
        (with_weights(group_size=0), BadCheckpoint, "lacks the size of the blocks"),
        (with_weights(num_bits="four"), BadCheckpoint, "num_bits of compressed-tensors"),
        (declared(PACKED_4, config_groups=[1]), BadCheckpoint, "config_groups of compressed-tensors"),
        (declared({**PACKED_4, "targets": ["re:("]}), BadCheckpoint, "for a pattern"),
        (
            declared({**PACKED_4, "targets": ["re:.*mlp"]}, {**SCHEMES[0], "targets": ["re:none"]}),
            BadCheckpoint,
            "self_attn.*belongs to none of the config_groups",
        ),
    ],
)
def test_options_that_are_not_covered_are_refused_by_name(
    tmp_path: Path, section: dict[str, Any], error: type[SplitError], named: str
) -> None:
    folder = save_quantized(tmp_path / "ct", declared(PACKED_4), Library(PACKED_4))
    declare(folder, section)
    with pytest.raises(error, match=named):
        prepare(str(folder))


def test_columns_in_order_of_activations_are_refused_by_name(tmp_path: Path) -> None:
    folder = save_quantized(tmp_path / "ct", declared(PACKED_4), Library(PACKED_4))
    edit(folder, lambda state: state.update({f"{UP}.weight_g_idx": torch.zeros(64, dtype=torch.int32)}))
    with pytest.raises(UnsupportedModel, match="compressed-tensors with columns in order of activations"):
        prepare(str(folder))
