"""What the document of cleangpt shows, under this project's names and with data of this machine.

The hub's names are folders in the working directory: `gpt2` is a tiny model of that kind with a tokenizer of its kind,
`roneneldan/TinyStories`, `wikitext` and `wikimedia/wikipedia` are a few sentences that the datasets library saved.

Shapes: B rows, T positions, N rows that count, D hidden size, V vocabulary.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

import cleangpt.model  # noqa: F401 - registers its models with the Auto classes
from support.cleangpt_workplace import SMALL, STORIES, Ran, run, run_documented

# Commands


def test_training_a_model(workplace: Path) -> None:
    more = ("--data", "wikitext", "--block_size", 16, "--batch_size", 1, "--max_steps", 1, "--validation", 0)
    command = "cleangpt train --model_type SASP --tokenizer_type gpt2 --n_layer 6 --n_head 6 --n_embd 384"
    run_documented(command, *more, "--out", "sasp")
    config = AutoModelForCausalLM.from_pretrained(workplace / "sasp").config
    assert config.model_type == "cleangpt_sasp"
    assert (config.num_hidden_layers, config.num_attention_heads, config.hidden_size) == (6, 6, 384)
    assert config.vocab_size == len(AutoTokenizer.from_pretrained(workplace / "gpt2"))


@pytest.fixture(scope="module")
def distilled(workplace: Path) -> Ran:
    return run_documented("""
        cleangpt distill
            --teacher_model_name_or_path "gpt2"
            --student_model_type "Factored"
            --student_n_embd 384
            --student_n_head 6
            --dataset_name "roneneldan/TinyStories"
            --dataset_text_column "story"
            --epochs_per_block 3
            --batch_size 32
            --output_dir "./distilled_model_output"
    """)


def test_distilling_a_model(distilled: Ran, workplace: Path) -> None:
    history = json.loads((workplace / "distilled_model_output" / "history.json").read_text())
    assert len(history["blocks"]) == 2
    for stage in (*history["blocks"], history["head"]):
        assert stage["losses"][-1] < 0.8 * stage["losses"][0]
    student = AutoModelForCausalLM.from_pretrained(workplace / "distilled_model_output" / "student")
    assert (student.config.model_type, student.config.hidden_size) == ("cleangpt_factored", 384)


def test_the_flags_of_the_documented_example_of_distillation(workplace: Path) -> None:
    run_documented("""
        cleangpt distill
            --teacher_model_name_or_path "gpt2"
            --student_model_type "Vanilla"
            --student_n_embd 32
            --student_n_head 2
            --student_dropout 0.1
            --student_bias
            --dataset_name "roneneldan/TinyStories"
            --dataset_text_column "story"
            --block_size 16
            --batch_size 32
            --epochs_per_block 1
            --lr_per_block 1e-3
            --weight_decay_per_block 0.01
            --max_grad_norm_per_block 1.0
            --distill_loss_type "mse"
            --distill_loss_temperature 2.0
            --no_freeze_previous_blocks
            --output_dir "./every_flag"
            --max_samples 16
            --device "cpu"
            --no_stitching_layers
            --stitching_layer_bias
            --train_lm_head
            --lm_head_epochs 1
            --lm_head_lr 1e-4
            --lm_head_weight_decay 0.01
            --lm_head_max_grad_norm 1.0
            --logit_loss_type "kl_div"
            --logit_loss_temperature 2.0
            --logit_loss_weight 1.0
            --initialize_head_from_teacher
    """)
    history = json.loads((workplace / "every_flag" / "history.json").read_text())
    assert max(history["head"]["rates"]) == pytest.approx(1e-4)
    config = AutoModelForCausalLM.from_pretrained(workplace / "every_flag" / "student").config
    assert (config.dropout, config.bias) == (0.1, True)


def test_evaluating_a_distilled_model(distilled: Ran, workplace: Path) -> None:
    def evaluated(model_path: str) -> "subprocess.CompletedProcess[str]":
        words = shlex.split(f"""
            -m cleangpt.distillation.evaluation.evaluate_distilled_model
                --model_path "./distilled_model_output/{model_path}"
                --model_type "Factored"
                --teacher_model_name "gpt2"
                --dataset "wikimedia/wikipedia"
                --dataset_config "20231101.en"
                --generate_comparisons
        """)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=False)

    ran = evaluated("student")
    assert ran.returncode == 0, ran.stderr
    assert "top-1 agreement with the teacher" in ran.stdout
    assert ran.stdout.count("\nprompt: ") == 5


def test_analysing_token_usage(workplace: Path) -> None:
    command = "cleangpt tokens --dataset wikitext --tokenizer_type gpt2 --max_samples 1000 --plot"
    assert run_documented(command).out.splitlines()[0].split() == ["samples", str(len(STORIES))]
    assert (workplace / "tokens.png").read_bytes().startswith(b"\x89PNG")


# Components


def test_tokenizers() -> None:
    from cleangpt.tokenizers import create_tokenizer

    tokenizer = create_tokenizer("gpt2")
    encoded = tokenizer.encode("Hello, world!")
    decoded = tokenizer.decode(encoded)
    assert decoded == "Hello, world!"
    assert all(isinstance(each, int) for each in encoded)


def test_models() -> None:
    from cleangpt.config import GPTConfig
    from cleangpt.model import get_model

    config = GPTConfig(model_type="SASP", n_layer=6, n_head=6, n_embd=384, vocab_size=50257)
    model = get_model(config.model_type, config=config)
    assert model.get_input_embeddings().weight.shape == (50257, 384)
    assert len(model.base_model.layers) == 6


def test_training(device: torch.device, ids_BT: Tensor) -> None:
    from cleangpt.config import GPTConfig
    from cleangpt.model import get_model
    from cleangpt.trainers import get_trainer

    torch.manual_seed(0)
    model = get_model("Vanilla", config=GPTConfig(n_layer=1, n_head=2, n_embd=16, vocab_size=320, block_size=32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    dataloader = DataLoader(list(ids_BT), batch_size=4)
    trainer = get_trainer(
        trainer_type="simple", model=model, dataloader=dataloader, optimizer=optimizer, device=device, num_epochs=5
    )
    history = trainer.train()
    assert len(history.losses) == 10
    assert history.losses[-1] < history.losses[0]


def test_distillation(
    teacher_model: PreTrainedModel, tokenizer: Any, device: torch.device, ids_BT: Tensor, workplace: Path
) -> None:
    from cleangpt.config import GPTConfig
    from cleangpt.distillation.distillation_trainer import DistillationTrainer
    from cleangpt.model import get_model

    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 320, "block_size": 32}
    student_model = get_model("Factored", config=GPTConfig(**sizes))
    distill_trainer = DistillationTrainer(
        teacher_model=teacher_model,
        student_model=student_model,
        tokenizer=tokenizer,
        train_dataloader=DataLoader(list(ids_BT), batch_size=4),
        device=device,
        output_dir="./snippet_output",
        use_stitching_layers=True,
        logit_loss_type="kl_div",
    )
    results = distill_trainer.train(epochs_per_block=3, lr_per_block=1e-3, train_lm_head=True, lm_head_epochs=3)
    assert [len(each.losses) for each in results.blocks] == [6, 6]
    assert results.head is not None
    assert len(results.head.losses) == 6
    saved = AutoModelForCausalLM.from_pretrained(workplace / "snippet_output" / "student")
    assert all(map(torch.equal, saved.parameters(), student_model.parameters()))


# as the document's models do, a text goes on behind the last of the 32 positions, and says so
@pytest.mark.filterwarnings("ignore::cleangpt.inference.generation.ContextSlides")
def test_inference(teacher_model: PreTrainedModel, tokenizer: Any, device: torch.device) -> None:
    from cleangpt.inference.generation import run_generation

    torch.manual_seed(0)
    generated_ids, generated_text = run_generation(
        model=teacher_model,
        tokenizer=tokenizer,
        prompt_text="Once upon a time",
        device=device,
        max_new_tokens=50,
        temperature=0.8,
        top_k=50,
    )
    assert generated_text.startswith("Once upon a time")
    n_prompt = len(tokenizer.encode("Once upon a time"))
    assert n_prompt < len(generated_ids) <= n_prompt + 50


# Extending


def test_adding_a_tokenizer(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cleangpt.tokenizers import BaseTokenizer, TokenizerFactory, TokenizerRequest

    class WordTokenizer(BaseTokenizer):
        @classmethod
        def create(cls, request: TokenizerRequest) -> "WordTokenizer":
            words = sorted({word for text in request.texts or () for word in text.split()})
            vocabulary = {word: index for index, word in enumerate(["<|unk|>", *words])}
            backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unk|>"))
            backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
            return cls(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<|unk|>"))

    monkeypatch.setitem(TokenizerFactory.TOKENIZER_TYPES, "words", WordTokenizer)
    words = ("train", "--data", "wikitext", "--tokenizer_type", "words", "--out", "of_words", *SMALL)
    assert run(*words).code == 0
    saved = AutoTokenizer.from_pretrained(workplace / "of_words")
    assert saved.convert_ids_to_tokens(saved.encode("the red cat")) == ["the", "red", "cat"]


def test_adding_a_model_that_can_be_trained_and_distilled(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cleangpt.config import GPTConfig
    from cleangpt.model import MODEL_REGISTRY

    def small_llama(config: GPTConfig) -> PreTrainedModel:
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.n_embd,
                intermediate_size=2 * config.n_embd,
                num_hidden_layers=config.n_layer,
                num_attention_heads=config.n_head,
                max_position_embeddings=config.block_size,
                bos_token_id=None,
                eos_token_id=config.eos_token_id,
            )
        )

    monkeypatch.setitem(MODEL_REGISTRY, "SmallLlama", small_llama)
    words = ("train", "--data", "wikitext", "--model_type", "SmallLlama", "--tokenizer_type", "character", *SMALL)
    assert run(*words, "--out", "own").code == 0
    assert AutoModelForCausalLM.from_pretrained(workplace / "own").config.model_type == "llama"
    # no version of its own that gives hidden states: any model does
    words = ("distill", "--teacher_model_name_or_path", "gpt2", "--student_model_type", "SmallLlama")
    text = ("--dataset_name", "wikitext", "--max_samples", 8)
    assert run(*words, *text, "--student_n_embd", 16, "--output_dir", "own_student").code == 0
    assert AutoModelForCausalLM.from_pretrained(workplace / "own_student" / "student").config.model_type == "llama"


def test_adding_a_training_strategy(ids_BT: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    from cleangpt.config import GPTConfig
    from cleangpt.data import Batch
    from cleangpt.model import get_model
    from cleangpt.trainers import TRAINER_REGISTRY, BaseTrainer, Callback, get_trainer

    class SmoothedTrainer(BaseTrainer):
        def callbacks(self) -> Sequence[Callback]:
            return ()

        def loss(self, model: Any, batch: Batch) -> Tensor:
            logits_BTV = model(batch.ids_BT[:, :-1]).logits
            return nn.functional.cross_entropy(
                logits_BTV.flatten(0, 1), batch.ids_BT[:, 1:].flatten(), label_smoothing=1.0
            )

    monkeypatch.setitem(TRAINER_REGISTRY, "smoothed", SmoothedTrainer)
    torch.manual_seed(0)
    model = get_model("Vanilla", config=GPTConfig(n_layer=1, n_head=2, n_embd=16, vocab_size=320, block_size=32))
    dataloader = DataLoader(list(ids_BT), batch_size=4)
    trainer = get_trainer("smoothed", model=model, dataloader=dataloader, num_epochs=4)
    assert isinstance(trainer, SmoothedTrainer)
    # wholly smoothed, every id is as good as another: no model is better than the one that knows nothing
    losses = trainer.train().losses
    assert losses == pytest.approx([torch.tensor(320.0).log().item()] * 8, abs=0.1)


def test_a_distillation_loss_of_ones_own(teacher_model: PreTrainedModel, ids_BT: Tensor) -> None:
    from cleangpt.config import GPTConfig
    from cleangpt.data import Batch
    from cleangpt.distillation.blocks import Blocks
    from cleangpt.distillation.stage import StagePlan
    from cleangpt.distillation.stitching import StitchingLayers, block_map
    from cleangpt.distillation.trainers.backbone_trainer import BackboneTrainer
    from cleangpt.model import get_model
    from cleangpt.trainers import TrainingSettings
    from cleangpt.trainers.loaders import epochs_of

    class HuberLoss(nn.Module):
        def forward(self, student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
            return nn.functional.huber_loss(student_ND, teacher_ND)

    torch.manual_seed(0)
    student = get_model("SASP", config=GPTConfig(n_layer=2, n_head=2, n_embd=16, vocab_size=320, block_size=32))
    blocks = Blocks(teacher_model), Blocks(student)
    stitches = StitchingLayers(2, 16, 32, use=True)
    trainer = BackboneTrainer(*blocks, stitches, block_map(2, 2), HuberLoss())
    plan = StagePlan(epochs_of([Batch(ids_BT)]), TrainingSettings(epochs=1), "")
    with torch.no_grad():
        rows_ND = [each.after(ids_BT, 0).flatten(0, 1) for each in blocks]
        expected = float(HuberLoss()(stitches(0, rows_ND[1]), rows_ND[0]))
    histories = trainer.train(plan, epochs_per_block=20, lr_per_block=1e-2)
    assert histories[0].losses[0] == pytest.approx(expected, rel=1e-4)
    assert all(each.losses[-1] < 0.7 * each.losses[0] for each in histories)
