"""What the two documents of splitlearn and splitlearn_core show, run as it stands there.

A tiny gpt2 of twelve layers lies in a folder called `gpt2` in the working directory, so that the hub's name finds it.

Shapes: B sequences, T rows, D hidden size, V vocabulary.
"""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from splitlearn.split_models.base import BaseBottomModel, BaseTopModel, BaseTrunkModel
from splitlearn.split_models.registry import ModelRegistry
from support.tiny_models import random_model, save_checkpoint, tiny_config


@pytest.fixture(scope="module")
def gpt2() -> PreTrainedModel:
    return random_model(tiny_config("gpt2", n_layer=12)).requires_grad_(False)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, gpt2: PreTrainedModel) -> Path:
    folder = tmp_path_factory.mktemp("workplace")
    save_checkpoint(folder / "gpt2", gpt2)
    return folder


@pytest.fixture(autouse=True)
def in_workplace(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)


def test_quick_start(gpt2: PreTrainedModel) -> None:
    from transformers import AutoTokenizer

    from splitlearn import ModelFactory

    tokenizer = AutoTokenizer.from_pretrained("gpt2")
    bottom, trunk, top = ModelFactory.create_split_models(
        model_type="gpt2",
        model_name_or_path="gpt2",
        split_point_1=2,
        split_point_2=10,
        device="cpu",
    )
    input_text = "Hello world"
    input_ids = tokenizer.encode(input_text, return_tensors="pt")
    hidden_1 = bottom(input_ids)
    hidden_2 = trunk(hidden_1)
    output = top(hidden_2)
    predicted_token = output.logits.argmax(dim=-1)

    assert hidden_1.shape == hidden_2.shape == (*input_ids.shape, 64)
    expected = gpt2(input_ids).logits
    torch.testing.assert_close(output.logits, expected, atol=1e-4, rtol=0)
    assert torch.equal(predicted_token, expected.argmax(dim=-1))


@pytest.mark.parametrize("model_type", ["gemma", "qwen2"])
def test_the_other_architectures_of_the_table(model_type: str, tmp_path: Path) -> None:
    from splitlearn import ModelFactory

    model = random_model(tiny_config(model_type)).requires_grad_(False)
    save_checkpoint(tmp_path / model_type, model)
    bottom, trunk, top = ModelFactory.create_split_models(model_type, str(tmp_path / model_type), 1, 3, "cpu")
    input_ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    torch.testing.assert_close(top(trunk(bottom(input_ids))).logits, model(input_ids).logits, atol=1e-4, rtol=0)


def test_classes_of_the_table_are_where_the_documents_import_them() -> None:
    from splitlearn.split_models.gemma import GemmaBottomModel, GemmaTopModel, GemmaTrunkModel
    from splitlearn.split_models.gpt2 import GPT2BottomModel, GPT2TopModel, GPT2TrunkModel
    from splitlearn.split_models.qwen2 import Qwen2BottomModel, Qwen2TopModel, Qwen2TrunkModel
    from splitlearn.split_models.registry import ModelRegistry

    for model_type, classes in {
        "gpt2": (GPT2BottomModel, GPT2TrunkModel, GPT2TopModel),
        "gemma": (GemmaBottomModel, GemmaTrunkModel, GemmaTopModel),
        "qwen2": (Qwen2BottomModel, Qwen2TrunkModel, Qwen2TopModel),
    }.items():
        assert tuple(ModelRegistry.find(model_type, part) for part in ("bottom", "trunk", "top")) == classes


def test_direct_model_creation(gpt2: PreTrainedModel) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    from splitlearn.split_models.gpt2 import GPT2BottomModel, GPT2TopModel, GPT2TrunkModel

    config = GPT2Config.from_pretrained("gpt2")
    full_model = GPT2LMHeadModel.from_pretrained("gpt2")
    state_dict = full_model.state_dict()
    bottom = GPT2BottomModel.from_pretrained_split(full_state_dict=state_dict, config=config, end_layer=2)

    trunk = GPT2TrunkModel.from_pretrained_split(full_state_dict=state_dict, config=config, start_layer=2, end_layer=10)
    top = GPT2TopModel.from_pretrained_split(full_state_dict=state_dict, config=config, start_layer=10)
    input_ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(top(trunk(bottom(input_ids))).logits, gpt2(input_ids).logits, atol=1e-4, rtol=0)


class WholeOwnModel(nn.Module):
    """An architecture that Hugging Face does not have: each layer adds what it makes of the mean of all rows so far."""

    def __init__(self, vocab_size: int, hidden_size: int, num_hidden_layers: int, max_length: int) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(vocab_size, hidden_size)
        self.model.position_embeddings = nn.Parameter(torch.randn(max_length, hidden_size))
        self.model.layers = nn.ModuleList(nn.Linear(hidden_size, hidden_size) for _ in range(num_hidden_layers))
        self.lm_head = nn.Linear(hidden_size, vocab_size)

    def forward(self, ids_BT: torch.Tensor) -> torch.Tensor:
        hidden_BTD = self.model.embed_tokens(ids_BT) + self.model.position_embeddings[: ids_BT.shape[1]]
        for layer in self.model.layers:
            hidden_BTD = hidden_BTD + own_layer(layer, hidden_BTD)
        return self.lm_head(hidden_BTD)


def own_layer(layer: nn.Module, hidden_BTD: torch.Tensor) -> torch.Tensor:
    counts_T1 = torch.arange(1, hidden_BTD.shape[1] + 1)[:, None]
    return torch.tanh(layer(hidden_BTD.cumsum(1) / counts_T1))


class OwnBlock(nn.Linear):
    def forward(self, hidden_BTD: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        return hidden_BTD + own_layer(super().forward, hidden_BTD)


@ModelRegistry.register("my_model", "bottom")
class MyBottomModel(BaseBottomModel):
    def __init__(self, config, end_layer):
        super().__init__(config, end_layer)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Parameter(torch.empty(config.max_length, config.hidden_size))
        self.layers = nn.ModuleList(OwnBlock(config.hidden_size, config.hidden_size) for _ in range(end_layer))

    def get_embeddings(self):
        return self.embed_tokens

    def apply_position_encoding(self, inputs_embeds, position_ids):
        return inputs_embeds + self.position_embeddings[position_ids]

    def get_transformer_blocks(self):
        return self.layers

    def prepare_attention_mask(self, attention_mask, hidden_states):
        return attention_mask

    def get_layer_name_pattern(self):
        return r"\.layers\.[0-9]+"

    @classmethod
    def from_pretrained_split(cls, full_state_dict, config, end_layer):
        return cls(config, end_layer).load_split_weights(full_state_dict)


@ModelRegistry.register("my_model", "trunk")
class MyTrunkModel(BaseTrunkModel):
    def __init__(self, config, start_layer, end_layer):
        super().__init__(config, start_layer, end_layer)
        blocks = (OwnBlock(config.hidden_size, config.hidden_size) for _ in range(start_layer, end_layer))
        self.layers = nn.ModuleList(blocks)

    get_transformer_blocks = MyBottomModel.get_transformer_blocks
    prepare_attention_mask = MyBottomModel.prepare_attention_mask
    get_layer_name_pattern = MyBottomModel.get_layer_name_pattern

    @classmethod
    def from_pretrained_split(cls, full_state_dict, config, start_layer, end_layer):
        return cls(config, start_layer, end_layer).load_split_weights(full_state_dict)


@ModelRegistry.register("my_model", "top")
class MyTopModel(BaseTopModel):
    def __init__(self, config, start_layer):
        super().__init__(config, start_layer)
        blocks = (
            OwnBlock(config.hidden_size, config.hidden_size) for _ in range(start_layer, config.num_hidden_layers)
        )
        self.layers = nn.ModuleList(blocks)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)

    get_transformer_blocks = MyBottomModel.get_transformer_blocks
    prepare_attention_mask = MyBottomModel.prepare_attention_mask
    get_layer_name_pattern = MyBottomModel.get_layer_name_pattern

    def get_final_norm(self):
        return nn.Identity()

    def get_lm_head(self):
        return self.lm_head

    @classmethod
    def from_pretrained_split(cls, full_state_dict, config, start_layer):
        return cls(config, start_layer).load_split_weights(full_state_dict)


def test_extending_to_a_new_architecture_from_class_to_logits(tmp_path: Path) -> None:
    from splitlearn import ModelFactory

    config = {"vocab_size": 32, "hidden_size": 8, "num_hidden_layers": 6, "max_length": 16}
    whole = WholeOwnModel(**config).requires_grad_(False)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "my_model", **config}))
    save_file(whole.state_dict(), tmp_path / "model.safetensors")

    bottom, trunk, top = ModelFactory.create_split_models(
        model_type="my_model", model_name_or_path=str(tmp_path), split_point_1=1, split_point_2=4, device="cpu"
    )
    assert [type(part) for part in (bottom, trunk, top)] == [MyBottomModel, MyTrunkModel, MyTopModel]
    input_ids = torch.randint(0, 32, (2, 9))
    logits = top(trunk(bottom(input_ids))).logits
    torch.testing.assert_close(logits, whole(input_ids), atol=1e-5, rtol=0)
    assert logits.std() > 0.1


def test_saving_and_loading_the_three_parts(gpt2: PreTrainedModel) -> None:
    from splitlearn_core import ModelFactory

    bottom, trunk, top = ModelFactory.create_split_models(
        model_type="gpt2", model_name_or_path="gpt2", split_point_1=2, split_point_2=10, device="cpu"
    )
    bottom.save_split_model("./models/bottom/gpt2_2-10_bottom.pt")
    trunk.save_split_model("./models/trunk/gpt2_2-10_trunk.pt")
    top.save_split_model("./models/top/gpt2_2-10_top.pt")
    assert sorted(str(file) for file in Path("models").rglob("*.*")) == [
        "models/bottom/gpt2_2-10_bottom.pt",
        "models/bottom/gpt2_2-10_bottom_metadata.json",
        "models/top/gpt2_2-10_top.pt",
        "models/top/gpt2_2-10_top_metadata.json",
        "models/trunk/gpt2_2-10_trunk.pt",
        "models/trunk/gpt2_2-10_trunk_metadata.json",
    ]

    import torch
    from splitlearn_core.models.gpt2 import GPT2BottomModel, GPT2TopModel, GPT2TrunkModel
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained("gpt2")
    bottom = GPT2BottomModel(config, end_layer=2)
    bottom.load_state_dict(torch.load("./models/bottom/gpt2_2-10_bottom.pt"))
    bottom.eval()
    trunk = GPT2TrunkModel(config, start_layer=2, end_layer=10)
    trunk.load_state_dict(torch.load("./models/trunk/gpt2_2-10_trunk.pt"))
    trunk.eval()
    top = GPT2TopModel(config, start_layer=10)
    top.load_state_dict(torch.load("./models/top/gpt2_2-10_top.pt"))
    top.eval()

    input_ids = torch.tensor([[5, 6, 7], [9, 8, 7]])
    with torch.no_grad():
        logits = top(trunk(bottom(input_ids))).logits
    torch.testing.assert_close(logits, gpt2(input_ids).logits, atol=1e-4, rtol=0)


def test_the_parts_hold_what_the_document_says() -> None:
    from splitlearn_core import ModelFactory

    bottom, trunk, top = ModelFactory.create_split_models("gpt2", "gpt2", 2, 10)
    names = {part.part_name: set(part.state_dict()) for part in (bottom, trunk, top)}
    layers = {name: {int(n) for key in keys for n in re.findall(r"\.h\.(\d+)\.", key)} for name, keys in names.items()}
    assert layers == {"bottom": {0, 1}, "trunk": set(range(2, 10)), "top": {10, 11}}
    assert {"transformer.wte.weight", "transformer.wpe.weight"} <= names["bottom"]
    assert {"transformer.ln_f.weight", "lm_head.weight"} <= names["top"]


def test_other_split_points(gpt2: PreTrainedModel) -> None:
    from splitlearn_core import ModelFactory

    bottom, trunk, top = ModelFactory.create_split_models(
        model_type="gpt2",
        model_name_or_path="gpt2",
        split_point_1=4,
        split_point_2=8,
        device="cpu",
    )
    input_ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(top(trunk(bottom(input_ids))).logits, gpt2(input_ids).logits, atol=1e-4, rtol=0)


def test_a_server_needs_only_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from splitlearn_core import ModelFactory

    (trunk,) = ModelFactory.create_split_models("gpt2", "gpt2", 2, 10, parts=["trunk"])
    trunk.save_split_model(tmp_path / "models" / "trunk" / "gpt2_2-10_trunk.safetensors")
    monkeypatch.chdir(tmp_path)
    served = ModelFactory.load_split_model("models/trunk/gpt2_2-10_trunk.safetensors")
    hidden_BTD = torch.randn(1, 3, 64)
    assert torch.equal(served(hidden_BTD), trunk(hidden_BTD))
