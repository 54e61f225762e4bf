from collections.abc import Iterator

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from cleangpt.analysis.embedding_cut import cut_embedding
from cleangpt.analysis.pruning import PrunedTokenizer, prune_tokenizer
from cleangpt.errors import PruningError
from cleangpt.tokenizers import BaseTokenizer, create_tokenizer

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
_QWEN3 = {**_SIZES, "vocab_size": 410, "head_dim": 16, "num_key_value_heads": 1, "eos_token_id": [1, 399]}
_CONFIGS = {
    "tied": Qwen3Config(**_QWEN3, bos_token_id=None, pad_token_id=0, tie_word_embeddings=True),
    "untied": Qwen3Config(**_QWEN3, bos_token_id=None, pad_token_id=0, tie_word_embeddings=False),
    "gpt2": GPT2Config(vocab_size=400, n_embd=32, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1),
    "neox": GPTNeoXConfig(**_SIZES, vocab_size=400, bos_token_id=0, eos_token_id=1, tie_word_embeddings=False),
    "with a bias in its head": PhiConfig(**_SIZES, vocab_size=400, bos_token_id=399, eos_token_id=1),
}


@pytest.fixture(scope="module")
def tokenizer(answers: list[str]) -> BaseTokenizer:
    return create_tokenizer("bpe", texts=answers, vocab_size=400)


@pytest.fixture(scope="module")
def pruned(tokenizer: BaseTokenizer, answers: list[str]) -> PrunedTokenizer:
    return prune_tokenizer(tokenizer, answers[:20])


@pytest.fixture(params=list(_CONFIGS))
def model(request: pytest.FixtureRequest, pruned: PrunedTokenizer) -> Iterator[PreTrainedModel]:
    """One that never says a token that is dropped: its head finds these far less likely than all others."""
    config: PreTrainedConfig = _CONFIGS[request.param]
    torch.manual_seed(3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_config(config).eval()
    dropped = torch.ones(config.vocab_size, dtype=torch.bool)
    dropped[list(pruned.kept)] = False
    head = model.get_output_embeddings()
    with torch.no_grad():
        head.weight[~dropped] += 0.3 * torch.randn_like(head.weight[~dropped])
        head.weight[dropped] = 0.0
        if head.bias is not None:
            head.bias.normal_()
            head.bias[dropped] = -100.0
    yield model
    torch.set_num_threads(threads)


@torch.inference_mode()
def test_the_cut_model_says_the_same_tokens_renumbered(
    model: PreTrainedModel, tokenizer: BaseTokenizer, pruned: PrunedTokenizer, answers: list[str]
) -> None:
    cut = cut_embedding(model, pruned.kept)
    whole_BT = torch.tensor([tokenizer.encode(answers[0])])
    cut_BT = torch.tensor([pruned.tokenizer.encode(answers[0])])
    torch.testing.assert_close(cut(cut_BT).logits, model(whole_BT).logits[..., list(pruned.kept)], rtol=1e-5, atol=1e-5)
    answer = model.generate(whole_BT, attention_mask=torch.ones_like(whole_BT), do_sample=False, max_new_tokens=8)
    same = cut.generate(cut_BT, attention_mask=torch.ones_like(cut_BT), do_sample=False, max_new_tokens=8)
    assert same[0].tolist() == pruned.renumbered(answer[0].tolist())
    assert answer.shape[1] > whole_BT.shape[1]


def test_the_cut_model_has_a_row_for_each_kept_token_and_nothing_else_less(
    model: PreTrainedModel, pruned: PrunedTokenizer
) -> None:
    before = model.config.vocab_size
    cut = cut_embedding(model, pruned.kept)
    assert cut.config.vocab_size == cut.get_input_embeddings().weight.shape[0] == len(pruned.kept)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert (cut.get_output_embeddings().weight is cut.get_input_embeddings().weight) == tied
    rows = (1 if tied else 2) * 32 + (model.get_output_embeddings().bias is not None)
    assert model.num_parameters() - cut.num_parameters() == (before - len(pruned.kept)) * rows
    assert model.config.vocab_size == before


def test_token_ids_of_the_config_are_renumbered_and_those_that_are_gone_left_out(pruned: PrunedTokenizer) -> None:
    assert 399 not in pruned.kept
    cut = cut_embedding(AutoModelForCausalLM.from_config(_CONFIGS["tied"]), pruned.kept)
    assert (cut.config.eos_token_id, cut.config.pad_token_id) == ([1], 0)
    assert cut.generation_config.eos_token_id == [1]
    phi = cut_embedding(AutoModelForCausalLM.from_config(_CONFIGS["with a bias in its head"]), pruned.kept)
    assert phi.config.bos_token_id is None


def test_a_saved_cut_model_comes_back_equal(pruned: PrunedTokenizer, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("cut")
    cut = cut_embedding(AutoModelForCausalLM.from_config(_CONFIGS["untied"]), pruned.kept).eval()
    cut.save_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids_BT = torch.tensor([[4, 5, 6]])
    with torch.inference_mode():
        assert torch.equal(loaded(ids_BT).logits, cut(ids_BT).logits)


def test_a_tokenizer_of_another_model_is_refused() -> None:
    model = AutoModelForCausalLM.from_config(_CONFIGS["gpt2"])
    with pytest.raises(PruningError, match="up to 400, the model has 400 embedding rows"):
        cut_embedding(model, (0, 1, 400))
