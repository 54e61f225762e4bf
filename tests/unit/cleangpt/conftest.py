"""A tokenizer and a model small enough to memorise three answers in seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast, Qwen3Config

from cleangpt.data.conversations import ConversationRows, conversation_rows
from cleangpt.data.messages import Conversations
from cleangpt.data.stdlib_questions import Question
from cleangpt.tokenizers.bpe import train_bpe


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small lose more to waiting threads than they win."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of MLflow, which takes seconds to make. Skips where MLflow is not installed."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        # read when the package is imported
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        pytest.importorskip("mlflow").MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture(scope="session")
def three_questions() -> tuple[Question, ...]:
    return (
        Question("left", "talk", "Turn to the left."),
        Question("right", "talk", "Go the other way."),
        Question("help", "talk", "Ask me where to turn."),
    )


@pytest.fixture(scope="session")
def tiny_tokenizer(three_questions: tuple[Question, ...]) -> PreTrainedTokenizerFast:
    texts = [text for each in three_questions for text in (*each.phrasings, each.answer)]
    return train_bpe(texts, vocab_size=300, context=64, chat=True)


@pytest.fixture(scope="session")
def three_rows(three_questions: tuple[Question, ...], tiny_tokenizer: PreTrainedTokenizerFast) -> ConversationRows:
    questions = Conversations(three_questions, per_row=(1, 1, 1, 1, 1, 1, 2, 4, 8))
    return conversation_rows(questions, tiny_tokenizer, batch_tokens=24, context=64, seed=1)


@pytest.fixture
def tiny_model(tiny_tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Fresh for every test, always with the same weights."""
    torch.manual_seed(7)
    config = Qwen3Config(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tiny_tokenizer.eos_token_id,
        pad_token_id=tiny_tokenizer.pad_token_id,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
