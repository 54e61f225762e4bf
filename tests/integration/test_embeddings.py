"""Embeddings over a real trunk, against transformers' own hidden states.

Shapes: T rows, D hidden size.
"""

import asyncio
import base64
import json
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import httpx
import numpy as np
import pytest
import torch
from openai import BadRequestError
from torch.nn.functional import normalize
from transformers import AutoModel

from splitlearn.checkpoints.convert import prepare
from splitlearn_client.pooling_config import Mode
from support.embedding_models import POOLED, hidden_states, save_embedding_model, write_modules
from support.running_split import RunningClient, Split, running_client, running_split, running_trunk
from support.tiny_models import CONTEXT, VOCABULARY, random_model, save_sepweight, tiny_config, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
TEXTS = ["the quick brown fox", "grüße 😀", "x", "the lazy dog jumps over the quick brown fox " * 9]
LONG = [3 + (7 * i + i * i) % (VOCABULARY - 3) for i in range(300)]
ST_MEAN = {"word_embedding_dimension": 64, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


async def embedded(client: RunningClient, sent: Any, **fields: Any) -> list[torch.Tensor]:
    """The vectors of a reply, in its order."""
    reply = await client.http.post("/v1/embeddings", json={"model": "tiny", "input": sent, **fields})
    assert reply.status_code == 200, reply.text
    data = reply.json()["data"]
    assert [each["index"] for each in data] == list(range(len(data)))
    return [torch.tensor(each["embedding"]) for each in data]


def assert_equal(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> None:
    for each_D, expected_D in zip(found, expected, strict=True):
        torch.testing.assert_close(each_D, expected_D, atol=2e-5, rtol=2e-5)


@asynccontextmanager
async def running_mode(weights: Path, trunk: str, **settings: Any) -> AsyncIterator[RunningClient]:
    async with running_client(weights, trunk, max_num_batched_tokens=64, **settings) as client:
        await client.ready()
        yield client


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "opt"])
async def test_every_pooling_is_that_of_transformers_own_hidden_states(tmp_path: Path, family: str) -> None:
    weights = save_sepweight(tmp_path, random_model(tiny_config(family)))
    inputs = [LONG, LONG[:1], LONG[40:57], LONG[:64]]
    hidden = [hidden_states(tmp_path / "checkpoint", ids) for ids in inputs]
    assert set(POOLED) == set(get_args(Mode))
    async with running_trunk(weights) as trunk:
        for mode, pool in POOLED.items():
            async with running_mode(weights, trunk.address, pooling=mode) as client:
                together = await embedded(client, inputs)
                alone = [(await embedded(client, [ids]))[0] for ids in inputs]
            expected = [normalize(pool(hidden_TD), dim=0) for hidden_TD in hidden]
            assert_equal(together, expected)
            assert_equal(alone, expected)


async def test_texts_of_any_length_together_are_what_each_is_alone(split: Split, tmp_path: Path) -> None:
    together = await embedded(split.client, TEXTS)
    assert_equal(together, [(await embedded(split.client, text))[0] for text in TEXTS])
    assert_equal(together, await embedded(split.client, [TOKENIZER.encode(text) for text in TEXTS]))
    many = await embedded(split.client, [LONG[: 1 + i] for i in range(40)])
    assert_equal(many[7:8], await embedded(split.client, LONG[:8]))
    assert split.trunk.open_sessions == 0


@pytest.mark.parametrize("includes", [True, False])
async def test_what_a_checkpoint_names_survives_conversion_and_holds(tmp_path: Path, includes: bool) -> None:
    prompts = {"prompts": {"query": "the dog asks: ", "document": ""}, "default_prompt_name": "query"}
    pooling = {**ST_MEAN, "include_prompt": includes}
    model = random_model(tiny_config("llama"))
    weights = save_embedding_model(tmp_path, model, ["Transformer", "Pooling"], pooling, prompts)
    ids = TOKENIZER.encode("the dog asks: the fox")
    n_left_out = 0 if includes else len(TOKENIZER.encode("the dog asks: "))
    hidden_TD = hidden_states(tmp_path / "checkpoint", ids)
    async with running_split(weights) as split:
        # no Normalize: not of length 1
        assert_equal(await embedded(split.client, "the fox"), [hidden_TD[n_left_out:].mean(dim=0)])
        # ids are all that was meant
        assert_equal(await embedded(split.client, ids), [hidden_TD.mean(dim=0)])


async def test_a_model_saved_without_its_head_as_embedding_models_are_is_served(tmp_path: Path) -> None:
    model = random_model(tiny_config("qwen3", tie_word_embeddings=True))
    save_sepweight(tmp_path / "whole", model)
    checkpoint = tmp_path / "headless" / "checkpoint"
    weights = save_embedding_model(
        tmp_path / "headless", model, ["Transformer", "Pooling", "Normalize"], {"pooling_mode_lasttoken": True}
    )
    bare = AutoModel.from_pretrained(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    bare.save_pretrained(checkpoint)
    prepare(str(checkpoint)).write(weights, overwrite=True)
    async with running_split(weights) as split:
        expected = normalize(hidden_states(checkpoint, LONG)[-1], dim=0)
        assert_equal(await embedded(split.client, LONG), [expected])


async def test_the_openai_package_reads_both_encodings_of_the_same_numbers(split: Split) -> None:
    openai = split.client.openai
    # base64 unless told otherwise, which the package decodes
    by_default = await openai.embeddings.create(model="tiny", input=TEXTS)
    as_floats = await openai.embeddings.create(model="tiny", input=TEXTS, encoding_format="float", user="alice")
    # which texts share a step is rounding in fp32
    for one, other in zip(by_default.data, as_floats.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    assert all(isinstance(number, float) for number in by_default.data[0].embedding)
    n_tokens = sum(len(TOKENIZER.encode(text)) for text in TEXTS)
    assert (by_default.usage.prompt_tokens, by_default.usage.total_tokens) == (n_tokens, n_tokens)
    assert (by_default.object, by_default.model, by_default.data[1].object) == ("list", "tiny", "embedding")
    asked = {"model": "tiny", "input": TEXTS[0], "encoding_format": "base64"}
    raw = (await split.client.http.post("/v1/embeddings", json=asked)).json()["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(raw), "<f4").tolist() == pytest.approx(as_floats.data[0].embedding, abs=1e-6)


async def test_fewer_dimensions_are_the_first_numbers_at_length_1(split: Split) -> None:
    (whole_D,) = await embedded(split.client, LONG)
    assert float(whole_D.norm()) == pytest.approx(1.0, abs=1e-6)
    assert_equal(await embedded(split.client, LONG, dimensions=5), [normalize(whole_D[:5], dim=0)])
    assert_equal(await embedded(split.client, LONG, dimensions=64), [whole_D])
    with pytest.raises(BadRequestError, match="64 numbers at most") as refused:
        await split.client.openai.embeddings.create(model="tiny", input="x", dimensions=65)
    assert refused.value.param == "dimensions"


async def test_the_numbers_before_the_head_bound_the_dimensions_where_it_is_narrower(tmp_path: Path) -> None:
    weights = save_sepweight(tmp_path, random_model(tiny_config("opt")))
    async with running_split(weights) as split:
        assert len((await embedded(split.client, "x", dimensions=32))[0]) == 32
        reply = await split.client.http.post("/v1/embeddings", json={"model": "tiny", "input": "x", "dimensions": 33})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "dimensions")


async def test_an_input_may_fill_the_context_and_not_more(split: Split) -> None:
    full = [5] * CONTEXT
    (vector_D,) = await embedded(split.client, full)
    assert vector_D.isfinite().all()
    reply = await split.client.http.post("/v1/embeddings", json={"model": "tiny", "input": [[5], [*full, 5]]})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "input.1")
    # refused before the first input was run
    assert split.client.value("prompt_tokens_total") == CONTEXT


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"input": ""}, "input", "at least 1 character"),
    ({"input": []}, "input", "at least 1 item"),
    ({"input": ["x", ""]}, "input.1", "at least 1 character"),
    ({"input": [[5], []]}, "input.1", "at least 1 item"),
    ({"input": None}, "input", "required"),
    ({"input": 5}, "input", "expected a string"),
    ({"input": {"text": "x"}}, "input", "expected a string"),
    ({"input": [5, "x"]}, "input.1", "valid integer"),
    ({"input": [True]}, "input", "expected a string"),
    ({"input": [5.5]}, "input", "expected a string"),
    ({"input": [[5, -1]]}, "input.0", "does not exist"),
    ({"input": [VOCABULARY]}, "input", "does not exist"),
    ({"input": ["x"] * 2049}, "input", "at most 2048"),
    ({"input": [[5]] * 2049}, "input", "at most 2048"),
    ({"input": [[5] * 500] * 601}, "input", "more than 300000 tokens"),
    ({"input": "\ud800"}, "input", "surrogate"),
    ({"encoding_format": "hex"}, "encoding_format", "'float' or 'base64'"),
    ({"dimensions": 0}, "dimensions", "greater than or equal to 1"),
    ({"dimensions": "5"}, "dimensions", "valid integer"),
    ({"dimensions": 10**30}, "dimensions", "64 numbers at most"),
    ({"truncate_prompt_tokens": 5}, "truncate_prompt_tokens", "not supported"),
    ({"messages": []}, "messages", "not supported"),
    ({"add_special_tokens": False}, "add_special_tokens", "not supported"),
]


async def test_what_cannot_be_embedded_is_refused_by_name_and_nothing_runs(split: Split) -> None:
    for fields, param, words in REFUSED:
        body = {"model": "tiny", "input": "x", **fields}
        # with escapes, of which half a pair is one
        sent = {"content": json.dumps(body), "headers": {"content-type": "application/json"}}
        reply = await split.client.http.post("/v1/embeddings", **sent)  # type: ignore[arg-type]
        assert reply.status_code == 400, (fields, reply.text)
        error = reply.json()["error"]
        assert (error["param"], error["type"]) == (param, "invalid_request_error"), error
        assert words in error["message"], error
    another = await split.client.http.post("/v1/embeddings", json={"model": "other", "input": "x"})
    assert (another.status_code, another.json()["error"]["code"]) == (404, "model_not_found")
    assert split.client.value("prompt_tokens_total") == 0
    assert_equal(await embedded(split.client, ["x"]), await embedded(split.client, "x"))


async def test_a_model_whose_embeddings_need_more_has_none_and_generates_all_the_same(
    tiny_weights: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "tiny"
    shutil.copytree(tiny_weights, weights)
    write_modules(weights, ["Transformer", "Pooling", "Dense", "Normalize"], ST_MEAN)
    async with running_split(weights) as split:
        reply = await split.client.http.post("/v1/embeddings", json={"model": "tiny", "input": "x"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "no_embeddings")
        assert "need Dense" in reply.json()["error"]["message"]
        assert (await split.client.complete(prompt="x", max_tokens=2)).status_code == 200
        async with running_mode(weights, split.trunk.address, pooling="mean") as client:
            (chosen_D,) = await embedded(client, LONG)
        async with running_mode(tiny_weights, split.trunk.address, pooling="mean") as client:
            assert_equal([chosen_D], await embedded(client, LONG))


async def test_a_reply_of_many_inputs_is_whole_json_whatever_is_asked(split: Split) -> None:
    reply: httpx.Response = await split.client.http.post(
        "/v1/embeddings", json={"model": "tiny", "input": [[5, 6]] * 2048, "dimensions": 3}
    )
    data = reply.json()["data"]
    assert [each["index"] for each in data] == list(range(2048))
    assert {tuple(np.round(each["embedding"], 4)) for each in data} == {tuple(np.round(data[0]["embedding"], 4))}
    assert reply.json()["usage"] == {"prompt_tokens": 4096, "total_tokens": 4096}


async def test_callers_at_once_get_what_they_get_alone(split: Split) -> None:
    alone = [await embedded(split.client, LONG[: 20 * i]) for i in range(1, 9)]
    chat = split.client.complete(prompt="the quick", max_tokens=40, ignore_eos=True)
    *together, answered = await asyncio.gather(*(embedded(split.client, LONG[: 20 * i]) for i in range(1, 9)), chat)
    for one, other in zip(alone, together, strict=True):
        assert_equal(one, other)
    quiet = await split.client.complete(prompt="the quick", max_tokens=40, ignore_eos=True)
    assert answered.json()["choices"][0]["text"] == quiet.json()["choices"][0]["text"]
