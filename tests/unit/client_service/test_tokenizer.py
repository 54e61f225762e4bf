from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from client_service.errors import BadRequest, NoChatTemplate
from client_service.tokenizer import TextCodec
from support.tiny_models import tiny_config, tiny_tokenizer

LOST = "\N{REPLACEMENT CHARACTER}"
TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    " leading and  double   spaces ",
    "Grüße, œuvre, naïve",
    "日本語のテキスト、漢字とかな",
    "family 👨‍👩‍👧‍👦 and flags 🇯🇵🇩🇪, then text",
    "😀😁😂🤣😃😄😅😆😉😊",
    "line\nbreak\ttab\r\n",
]


def byte_level(folder: Path) -> TextCodec:
    """Tokens are pieces of UTF-8, as in gpt2, llama 3 and qwen."""
    tiny_tokenizer().save_pretrained(folder)
    return TextCodec(folder, tiny_config("llama"))


def byte_fallback(folder: Path) -> TextCodec:
    """Tokens are words that begin with their space, and bytes for everything else, as in llama 2 and gemma."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz,"]
    vocabulary = {word: i for i, word in enumerate([*words, "▁t", "he", "▁the"])}
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)
    return TextCodec(folder, tiny_config("llama"))


@pytest.fixture(params=[byte_level, byte_fallback])
def codec(request: pytest.FixtureRequest, tmp_path: Path) -> TextCodec:
    made: TextCodec = request.param(tmp_path)
    return made


def pieces(codec: TextCodec, prompt: list[int], answer: list[int]) -> list[str]:
    """What each token adds, and what is left at the end."""
    text = codec.decoder(prompt)
    return [*(text.feed(token) for token in answer), text.flush()]


@pytest.mark.parametrize("text", TEXTS)
def test_an_answer_token_by_token_is_the_answer_at_once(codec: TextCodec, text: str) -> None:
    prompt, answer = codec.encode("the fox"), codec.encode(text)
    said = pieces(codec, prompt, answer)
    assert "".join(said) == codec.decode([*prompt, *answer]).removeprefix("the fox")
    assert "".join(said).strip() == text.strip()


@pytest.mark.parametrize("text", TEXTS)
def test_no_piece_holds_a_broken_character(codec: TextCodec, text: str) -> None:
    assert LOST not in "".join(pieces(codec, codec.encode("the"), codec.encode(text)))


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_goes_on_wherever_between_two_characters_the_prompt_ended(codec: TextCodec, text: str) -> None:
    ids = codec.encode(text)
    for cut in range(1, len(ids)):
        begun = codec.decode(ids[:cut])
        if not begun.endswith(LOST):
            assert begun + "".join(pieces(codec, ids[:cut], ids[cut:])) == codec.decode(ids)


def test_a_character_spread_over_tokens_comes_with_its_last_one(codec: TextCodec) -> None:
    face = codec.encode("a😀")[-4:]
    said = pieces(codec, codec.encode("the"), [*face, *codec.encode("b")[-1:]])
    assert said[:3] == ["", "", ""]
    assert said[3] == "😀"
    assert said[4].strip() == "b"


def test_spaces_between_words_are_kept(codec: TextCodec) -> None:
    # as in the middle of a text; some tokenizers put a space in front of a text of its own
    answer = codec.encode("the the the")[len(codec.encode("the")) :]
    assert "".join(pieces(codec, codec.encode("the"), answer)) == " the the"


def test_what_is_incomplete_when_no_more_tokens_come_is_flushed(codec: TextCodec) -> None:
    half = codec.encode("a😀")[-4:-2]
    said = pieces(codec, codec.encode("the"), half)
    assert said[:-1] == ["", ""]
    assert set(said[-1]) == {LOST}


def test_bytes_that_make_no_character_do_not_swallow_the_text_after_them(codec: TextCodec) -> None:
    half, rest = codec.encode("a😀")[-4:-2], codec.encode("athe fox")[1:]
    said = "".join(pieces(codec, codec.encode("the"), [*half, *rest]))
    assert said.lstrip(LOST).endswith("fox")


def test_special_tokens_have_no_text_in_an_answer_but_a_name_by_themselves(codec: TextCodec) -> None:
    end = codec.end_token
    assert end is not None
    assert codec.piece(end) == "</s>"
    assert pieces(codec, codec.encode("the"), [end]) == ["", ""]


def test_a_conversation_is_rendered_by_the_model_s_template_up_to_the_answer(tmp_path: Path) -> None:
    codec = byte_level(tmp_path)
    ids = codec.encode_chat([{"role": "system", "content": "Be short."}, {"role": "user", "content": "hi"}])
    assert codec.decode(ids) == "system: Be short.\nuser: hi\nassistant:"


def test_without_a_chat_template_the_error_says_where_to_ask_instead(tmp_path: Path) -> None:
    tiny_tokenizer(chat=False).save_pretrained(tmp_path)
    codec = TextCodec(tmp_path, tiny_config("llama"))
    with pytest.raises(NoChatTemplate, match="/v1/completions"):
        codec.encode_chat([{"role": "user", "content": "hi"}])


def test_a_template_s_own_refusal_is_passed_on(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(BadRequest, match="roles must alternate") as refused:
        TextCodec(tmp_path, tiny_config("llama")).encode_chat([{"role": "user", "content": "hi"}])
    assert refused.value.param == "messages"


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gpt2"])
def test_a_folder_without_a_tokenizer_is_an_error_at_start(tmp_path: Path, model_type: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no tokenizer \(tokenizer\.json"):
        TextCodec(tmp_path, tiny_config(model_type))
