import torch

from splitlearn.hf.outputs import cache_of, causal_output, decoder_output
from support.tiny_models import random_model, tiny_config


def test_ours_are_as_those_of_transformers_models() -> None:
    model, ids = random_model(tiny_config("llama")), torch.arange(3)[None]
    whole, inner = model(ids), model.model(ids)
    ours = causal_output(whole.logits, cache_of(whole))
    assert list(ours.keys()) == list(whole.keys())
    assert torch.equal(ours.logits, whole.logits)
    ours = decoder_output(inner.last_hidden_state, cache_of(inner))
    assert list(ours.keys()) == list(inner.keys())
    assert cache_of(ours).get_seq_length() == 3


def test_a_cache_that_is_not_there_is_none() -> None:
    assert cache_of(decoder_output(torch.zeros(1, 1, 2), None)) is None
