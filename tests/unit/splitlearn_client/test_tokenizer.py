import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from splitlearn_client.errors import BadModelFiles, BadRequest, NoChatTemplate, PromptTooLong
from splitlearn_client.text.message_content import ContentFormat
from splitlearn_client.text.template_process import template_process
from splitlearn_client.tokenizer import ChatTokenizer
from support.running_split import PATIENCE, until
from support.tiny_models import TEMPLATE, VOCABULARY, tiny_config, tiny_tokenizer

USER = [{"role": "user", "content": "hi"}]
CONTEXT = 512


def chat_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerFast | None = None, **config: Any) -> ChatTokenizer:
    (tokenizer or tiny_tokenizer()).save_pretrained(folder)
    served = ChatTokenizer(folder, tiny_config("llama", **config))
    served.context = CONTEXT
    return served


def with_template(template: str | dict[str, str]) -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture
def served(tmp_path: Path) -> ChatTokenizer:
    return chat_tokenizer(tmp_path)


async def test_a_prompt_s_tokens_are_the_tokenizer_s_own(served: ChatTokenizer) -> None:
    text = "the quick brown fox <|x|> é"
    assert await served.tokenize(text) == tiny_tokenizer().encode(text)


async def test_a_conversation_is_rendered_by_the_model_s_template_up_to_the_answer(served: ChatTokenizer) -> None:
    ids = await served.tokenize_chat([{"role": "system", "content": "Be short."}, *USER])
    assert served.decode(ids) == "system: Be short.\nuser: hi\nassistant:"


async def test_a_template_sees_the_tokenizer_s_special_tokens_and_writes_them_once(tmp_path: Path) -> None:
    served = chat_tokenizer(tmp_path, with_template("{{ bos_token }}" + TEMPLATE))
    ids = await served.tokenize_chat(USER)
    assert (ids[0], ids.count(1)) == (1, 1)


async def test_without_a_chat_template_the_error_says_where_to_ask_instead(tmp_path: Path) -> None:
    served = chat_tokenizer(tmp_path, tiny_tokenizer(chat=False))
    with pytest.raises(NoChatTemplate, match="/v1/completions"):
        await served.tokenize_chat(USER)


async def test_templates_with_names_need_a_default(tmp_path: Path) -> None:
    (tmp_path / "named").mkdir()
    named = chat_tokenizer(tmp_path / "named", with_template({"rag": TEMPLATE, "tool_use": TEMPLATE}))
    with pytest.raises(NoChatTemplate, match=r"\(rag, tool_use\) and none is called default.*chat_template.jinja"):
        await named.tokenize_chat(USER)
    (tmp_path / "default").mkdir()
    default = chat_tokenizer(tmp_path / "default", with_template({"rag": "no", "default": TEMPLATE}))
    assert default.decode(await default.tokenize_chat(USER)) == "user: hi\nassistant:"


async def test_a_template_s_own_refusal_is_passed_on(tmp_path: Path) -> None:
    served = chat_tokenizer(tmp_path, with_template("{{ raise_exception('roles must alternate') }}"))
    with pytest.raises(BadRequest, match="roles must alternate") as refused:
        await served.tokenize_chat(USER)
    assert refused.value.param == "messages"


@pytest.mark.parametrize("content_format", ["auto", "string", "openai"])
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor", "TemplateSyntaxError"),
        ("{% for m in messages %}{{ m.content | nosuchfilter }}{% endfor %}", "nosuchfilter"),
        ("{{" + "(" * 5000 + ")" * 5000 + "}}", "RecursionError"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "it ran for more than"),
    ],
    ids=["syntax", "filter", "depth", "no end"],
)
async def test_what_no_conversation_can_be_rendered_with_counts_as_no_template_and_plain_prompts_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, reason: str, content_format: ContentFormat
) -> None:
    monkeypatch.setattr("splitlearn_client.text.template_process.CPU_SECONDS", 0.3)
    template_process.cache_clear()
    with_template(source).save_pretrained(tmp_path)
    served = ChatTokenizer(tmp_path, tiny_config("llama"), content_format)
    with pytest.raises(NoChatTemplate, match=rf"cannot be used: .*{reason}.*/v1/completions"):
        await served.tokenize_chat(USER)
    assert await served.tokenize("the quick") == tiny_tokenizer().encode("the quick")


def test_a_template_without_the_user_s_words_is_an_error_at_start(tmp_path: Path) -> None:
    with pytest.raises(BadModelFiles, match="leaves out users' messages"):
        chat_tokenizer(tmp_path, with_template("{% for m in messages %}{{ m.role }}{% endfor %}"))


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gpt2"])
def test_a_folder_without_a_tokenizer_is_an_error_at_start(tmp_path: Path, model_type: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no tokenizer \(tokenizer\.json"):
        ChatTokenizer(tmp_path, tiny_config(model_type))


async def test_a_token_without_an_embedding_is_refused_by_its_name(tmp_path: Path) -> None:
    # as in Gemma 3's text models, whose tokenizer has a token for images
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    rows = tokenizer.convert_tokens_to_ids("<image>")
    served = chat_tokenizer(tmp_path, tokenizer, vocab_size=rows)
    for asked, param in (
        (served.tokenize("look: <image>"), "prompt"),
        (served.tokenize_chat([{"role": "user", "content": "look: <image>"}]), "messages"),
    ):
        with pytest.raises(BadRequest, match=rf"'<image>', token {rows}, .* last token is {rows - 1}") as refused:
            await asked
        assert refused.value.param == param
    assert await served.tokenize("look")


@pytest.mark.parametrize("text", ["a\ud800b", "\udfff", "x" * 70_000 + "\ud83d"])
async def test_half_a_character_is_refused(served: ChatTokenizer, text: str) -> None:
    served.context = 1 << 17
    for asked, param in (
        (served.tokenize(text), "prompt"),
        (served.tokenize_chat([{"role": "user", "content": text}]), "messages"),
    ):
        with pytest.raises(BadRequest, match="surrogate") as refused:
            await asked
        assert refused.value.param == param


def counted(served: ChatTokenizer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the texts that the tokenizer is given from now on."""
    lengths = list[int]()
    encode = served._tokenizer.encode

    def counting(text: str, **more: Any) -> list[int]:
        lengths.append(len(text))
        return list(encode(text, **more))

    monkeypatch.setattr(served._tokenizer, "encode", counting)
    return lengths


async def test_a_text_that_cannot_fit_is_refused_before_it_is_looked_at(
    served: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = counted(served, monkeypatch)
    most = CONTEXT * served.vocabulary.longest
    messages = [{"role": "user", "content": [{"type": "text", "text": "x" * (most // 2)}] * 3}]
    for asked in (served.tokenize("x" * (most + 1)), served.tokenize_chat(messages)):
        with pytest.raises(PromptTooLong, match=f"{CONTEXT} tokens of at most {served.vocabulary.longest} characters"):
            await asked
    assert lengths == []
    with pytest.raises(PromptTooLong, match="send fewer"):
        await served.tokenize_chat(USER * (CONTEXT + 1))


async def test_a_text_with_too_many_tokens_is_refused_before_all_are_made(
    served: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = counted(served, monkeypatch)
    monkeypatch.setattr(served.vocabulary, "longest", 1 << 20)
    with pytest.raises(PromptTooLong, match=rf"more than \d+ tokens, but this model's context is {CONTEXT} tokens"):
        await served.tokenize("the fox " * 200_000)
    assert sum(lengths) <= 1 << 16


async def test_a_long_text_that_fits_has_the_tokens_of_the_whole(served: ChatTokenizer) -> None:
    served.context = 64_000
    text = "the quick brown fox, 日本 " * 3_000
    assert await served.tokenize(text) == tiny_tokenizer().encode(text)


class Held:
    """A tokenizer's `encode` that does not end before it is let go."""

    def __init__(self, served: ChatTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = list[str]()
        self.go = threading.Event()
        encode = served._tokenizer.encode

        def held(text: str, **more: Any) -> list[int]:
            self.begun.append(text[:10])
            assert not text.startswith("held") or self.go.wait(PATIENCE)
            return list(encode(text, **more))

        monkeypatch.setattr(served._tokenizer, "encode", held)


async def test_a_short_prompt_does_not_wait_for_long_ones(
    served: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.context = 200_000
    held = Held(served, monkeypatch)
    long = [asyncio.create_task(served.tokenize("held" + "x" * (1 << 17) + "y" * 200_000)) for _ in range(12)]
    await until(lambda: bool(held.begun))
    async with asyncio.timeout(PATIENCE):
        assert await served.tokenize("the fox") == tiny_tokenizer().encode("the fox")
    held.go.set()
    for task in long:
        task.cancel()
    await asyncio.gather(*long, return_exceptions=True)


async def test_prompts_of_cancelled_requests_are_not_tokenized(
    served: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(served, monkeypatch)
    running = [asyncio.create_task(served.tokenize(f"held {i}")) for i in range(2)]
    await until(lambda: len(held.begun) == 2)
    gone = [asyncio.create_task(served.tokenize(f"gone {i}")) for i in range(50)]
    stays = asyncio.create_task(served.tokenize("stays"))
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    held.go.set()
    await asyncio.gather(*running, stays)
    assert held.begun == ["held 0", "held 1", "stays"]


async def test_a_long_text_is_left_when_its_caller_hangs_up(
    served: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.context = 400_000
    lengths, go, began = list[int](), threading.Event(), threading.Event()

    def slow(text: str, **_: Any) -> list[int]:
        lengths.append(len(text))
        began.set()
        assert go.wait(PATIENCE)
        return [5]

    monkeypatch.setattr(served._tokenizer, "encode", slow)
    asked = asyncio.create_task(served.tokenize("x" * 1_000_000))
    await until(began.is_set)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    go.set()
    served.close()
    await asyncio.to_thread(served._threads.shutdown)
    assert lengths == [1 << 16]


def test_an_empty_row_of_the_embedding_has_no_word_and_is_no_error(served: ChatTokenizer) -> None:
    assert served.decode([VOCABULARY - 1]) == tiny_tokenizer().decode([VOCABULARY - 1])
    assert served.vocabulary.hidden(VOCABULARY + 5) == ""


async def test_a_word_is_spelled_at_the_beginning_and_behind_a_space(served: ChatTokenizer) -> None:
    own = tiny_tokenizer()
    expected = [tuple(own.encode(text, add_special_tokens=False)) for text in ("fox", " fox", "the cat", " the cat")]
    assert await served.spellings([" fox", "the cat"]) == expected
    assert await served.spellings([]) == []


async def test_a_text_of_which_only_the_end_is_used_may_have_more_tokens_than_the_context(
    served: ChatTokenizer,
) -> None:
    text = "z" * 5 * CONTEXT
    assert len(tiny_tokenizer().encode(text)) > 2 * CONTEXT
    assert await served.tokenize(text, is_cut=True) == tiny_tokenizer().encode(text)
    messages = [{"role": "user", "content": text}]
    assert len(await served.tokenize_chat(messages, is_cut=True)) > CONTEXT
