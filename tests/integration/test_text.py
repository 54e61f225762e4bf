"""What becomes of people's words on the way to a model and back, through both services."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import AsyncOpenAI, BadRequestError
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from splitlearn.checkpoints.convert import prepare
from support.running_split import Split, running_client, running_split, running_trunk
from support.tiny_models import TEMPLATE, random_model, tiny_config, tiny_tokenizer

PROMPT = "the quick brown fox"
QUESTION = "who jumps over the dog?"
N = 24
TOKENIZER = tiny_tokenizer()
PARTS = (
    "{% for m in messages %}{{ m.role }}: {% for p in m.content %}{{ p.text }}{% endfor %}{{ '\\n' }}{% endfor %}"
    "assistant:"
)


@pytest.fixture
def openai(split: Split) -> AsyncOpenAI:
    return split.client.openai


@torch.inference_mode()
def greedy(model: PreTrainedModel, prompt: list[int], n: int = N) -> list[int]:
    output_1T = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=n)
    answer: list[int] = output_1T[0, len(prompt) :].tolist()
    return answer


def save(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, advice: dict[str, Any] | None = None
) -> Path:
    """A sepweight directory of the model with this tokenizer and this generation_config.json."""
    model.save_pretrained(folder / "checkpoint")
    tokenizer.save_pretrained(folder / "checkpoint")
    if advice is not None:
        (folder / "checkpoint" / "generation_config.json").write_text(json.dumps(advice))
    prepare(str(folder / "checkpoint")).write(folder / "tiny")
    return folder / "tiny"


async def streamed(openai: AsyncOpenAI, **asked: Any) -> tuple[str, dict[str, list[Any]], str | None]:
    """Text, the four lists of log-probabilities and the reason of a streamed completion."""
    text, told, reason = "", dict[str, list[Any]](), None
    async for chunk in await openai.completions.create(model="tiny", stream=True, **asked):
        choice = chunk.choices[0]
        text, reason = text + choice.text, choice.finish_reason
        if choice.logprobs is not None:
            assert "".join(choice.logprobs.tokens or []) == choice.text
            for name, values in choice.logprobs.model_dump().items():
                told.setdefault(name, []).extend(values)
    return text, told, reason


@pytest.mark.parametrize("stop", [None, "fox", "<s>"])
async def test_the_log_probabilities_of_a_stream_are_those_of_the_whole_reply_and_join_to_its_text(
    openai: AsyncOpenAI, stop: str | None
) -> None:
    asked: dict[str, Any] = {"prompt": PROMPT, "max_tokens": N, "temperature": 0, "logprobs": 5, "stop": stop}
    whole = (await openai.completions.create(model="tiny", **asked)).choices[0]
    assert whole.logprobs is not None
    assert whole.logprobs.tokens is not None
    assert whole.logprobs.top_logprobs is not None
    assert await streamed(openai, **asked) == (whole.text, whole.logprobs.model_dump(), whole.finish_reason)
    assert "".join(whole.logprobs.tokens) == whole.text
    lengths = [len("".join(whole.logprobs.tokens[:i])) for i in range(len(whole.logprobs.tokens))]
    assert whole.logprobs.text_offset == lengths
    # half of this vocabulary are pieces of characters, which look alike
    assert {len(tops) for tops in whole.logprobs.top_logprobs} == {5}
    for token, tops, value in zip(
        whole.logprobs.tokens, whole.logprobs.top_logprobs, whole.logprobs.token_logprobs or [], strict=True
    ):
        assert tops[token] == value


async def test_a_stop_string_that_is_a_special_token_ends_the_answer(
    openai: AsyncOpenAI, tiny_llama: PreTrainedModel
) -> None:
    prompt = TOKENIZER.encode(PROMPT)
    answer = greedy(tiny_llama, prompt)
    assert TOKENIZER.bos_token_id in answer
    n_before = answer.index(TOKENIZER.bos_token_id)
    asked: dict[str, Any] = {"prompt": PROMPT, "max_tokens": N, "temperature": 0}
    before = await openai.completions.create(model="tiny", **{**asked, "max_tokens": n_before})
    stopped = await openai.completions.create(model="tiny", stop=["<s>"], **asked)
    assert (stopped.choices[0].text, stopped.choices[0].finish_reason) == (before.choices[0].text, "stop")
    assert stopped.usage is not None
    assert stopped.usage.completion_tokens == n_before + 1
    assert (await streamed(openai, stop="<s>", **asked))[::2] == (before.choices[0].text, "stop")


@pytest.mark.parametrize("template", [TEMPLATE, PARTS], ids=["takes text", "takes parts"])
async def test_a_question_reaches_the_model_however_it_is_written_and_whatever_its_template_takes(
    tmp_path: Path, template: str
) -> None:
    model, tokenizer = random_model(tiny_config("llama", num_hidden_layers=3)), tiny_tokenizer()
    tokenizer.chat_template = template
    prompt = TOKENIZER.encode(f"user: {QUESTION}\nassistant:")
    parts = [{"type": "text", "text": QUESTION[:9]}, {"type": "text", "text": QUESTION[9:]}]
    async with running_split(save(tmp_path, model, tokenizer)) as split:
        openai = split.client.openai
        plain = await openai.completions.create(model="tiny", prompt=prompt, temperature=0, max_tokens=8)
        for content in (QUESTION, parts):
            messages: Any = [{"role": "user", "content": content}]
            chat = await openai.chat.completions.create(model="tiny", messages=messages, temperature=0, max_tokens=8)
            assert chat.choices[0].message.content == plain.choices[0].text
            assert chat.usage is not None
            assert chat.usage.prompt_tokens == len(prompt)


async def test_a_system_message_that_the_template_leaves_out_is_refused_by_its_place(tmp_path: Path) -> None:
    model, tokenizer = random_model(tiny_config("llama", num_hidden_layers=3)), tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    user = {"role": "user", "content": "hi"}
    async with running_split(save(tmp_path, model, tokenizer)) as split:
        with pytest.raises(BadRequestError, match="leaves this message") as refused:
            await split.client.openai.chat.completions.create(
                model="tiny",
                messages=[user, {"role": "system", "content": "Be short."}, user],  # type: ignore[list-item]
            )
        assert refused.value.param == "messages.1"


async def test_a_template_that_fails_is_the_request_s_error_and_completions_go_on(tmp_path: Path) -> None:
    model, tokenizer = random_model(tiny_config("llama", num_hidden_layers=3)), tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content + 5 }}{% endfor %}"
    async with running_split(save(tmp_path, model, tokenizer)) as split:
        openai = split.client.openai
        with pytest.raises(BadRequestError, match="TypeError") as refused:
            await openai.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}])
        assert refused.value.param == "messages"
        assert (await openai.completions.create(model="tiny", prompt=PROMPT, max_tokens=2)).usage is not None


async def test_what_the_model_s_authors_advise_holds_where_a_request_leaves_it_out(tmp_path: Path) -> None:
    model = random_model(tiny_config("llama", num_hidden_layers=3))
    weights = save(tmp_path, model, tiny_tokenizer(), {"top_k": 1, "max_new_tokens": 7, "do_sample": False})
    messages: Any = [{"role": "user", "content": "hi"}]

    async def said(split: Split, **asked: Any) -> tuple[str, int]:
        answer = await split.client.openai.chat.completions.create(model="tiny", messages=messages, seed=4, **asked)
        assert answer.usage is not None
        return str(answer.choices[0].message.content), answer.usage.completion_tokens

    async with running_split(weights) as split:
        greedy_one = await said(split, temperature=0)
        # one token to choose from is the likeliest
        assert await said(split) == greedy_one
        assert greedy_one[1] == 7
        own = await said(split, extra_body={"top_k": 0}, max_tokens=N)
        assert own[1] == N
    async with (
        running_trunk(weights) as trunk,
        running_client(weights, trunk.address, generation_config="vllm") as client,
    ):
        await client.ready()
        assert await said(Split(trunk, client), max_tokens=N) == own


async def test_a_token_without_an_embedding_harms_no_other_request(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    rows = tokenizer.convert_tokens_to_ids("<image>")
    model = random_model(tiny_config("llama", num_hidden_layers=3, vocab_size=rows))
    async with running_split(save(tmp_path, model, tokenizer)) as split:
        openai = split.client.openai
        alone = await openai.completions.create(model="tiny", prompt=PROMPT, max_tokens=40, temperature=0)
        beside = await openai.completions.create(model="tiny", prompt=PROMPT, max_tokens=40, temperature=0, stream=True)
        first = await anext(aiter(beside))
        with pytest.raises(BadRequestError, match="'<image>'") as refused:
            await openai.completions.create(model="tiny", prompt="see <image>")
        assert refused.value.param == "prompt"
        text = first.choices[0].text + "".join([chunk.choices[0].text async for chunk in beside])
    assert text == alone.choices[0].text


async def test_a_text_that_cannot_fit_is_refused_with_its_length(openai: AsyncOpenAI) -> None:
    long = await openai.completions.create(model="tiny", prompt="x" * 500, max_tokens=1)
    assert long.usage is not None
    with pytest.raises(BadRequestError) as refused:
        await openai.completions.create(model="tiny", prompt="x" * 2_000_000, max_tokens=1)
    assert refused.value.code == "context_length_exceeded"
    assert "2000000 characters" in refused.value.message
