import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from cleangpt.analysis.pruning import PrunedTokenizer, prune_tokenizer
from cleangpt.errors import PruningError
from cleangpt.tokenizers import BaseTokenizer, create_tokenizer
from cleangpt.tokenizers.hugging_face import HuggingFaceTokenizer

_FEW = 60


@pytest.fixture(scope="module")
def bpe(answers: list[str]) -> BaseTokenizer:
    return create_tokenizer("bpe", texts=answers, vocab_size=1500, context=64, chat=True)


@pytest.fixture(scope="module")
def pruned(bpe: BaseTokenizer, answers: list[str]) -> PrunedTokenizer:
    return prune_tokenizer(bpe, answers[:_FEW])


def _backend(tokenizer: BaseTokenizer) -> dict[str, Any]:
    backend: dict[str, Any] = json.loads(tokenizer.fast.backend_tokenizer.to_str())
    return backend


def test_the_analysed_text_keeps_its_encoding_renumbered(
    bpe: BaseTokenizer, pruned: PrunedTokenizer, answers: list[str]
) -> None:
    assert pruned.tokenizer.vocab_size == len(pruned.kept) < bpe.vocab_size / 1.5
    for text in answers[:_FEW]:
        ids = pruned.tokenizer.encode(text)
        assert [pruned.kept[each] for each in ids] == bpe.encode(text)
        assert ids == pruned.renumbered(bpe.encode(text))
        assert pruned.tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", ["zzz qqq", "日本語 🙂", "shlex.quote"])
def test_other_text_still_survives_the_round_trip(pruned: PrunedTokenizer, text: str) -> None:
    assert pruned.tokenizer.decode(pruned.tokenizer.encode(text)) == text


def test_nothing_stays_that_the_text_does_not_need(
    bpe: BaseTokenizer, pruned: PrunedTokenizer, answers: list[str]
) -> None:
    backend = _backend(pruned.tokenizer)
    used = {each for text in answers[:_FEW] for each in pruned.tokenizer.encode(text)}
    names = pruned.tokenizer.fast.convert_ids_to_tokens(range(len(pruned.kept)))
    parts = {part for pair in backend["model"]["merges"] for part in pair}
    for index, name in enumerate(names):
        assert index in used or len(name) == 1 or name in parts or name.startswith("<|"), name
    results = {"".join(pair) for pair in backend["model"]["merges"]}
    assert results <= parts | {names[each] for each in used}


def test_the_pruned_tokenizer_has_the_special_tokens_template_and_limit_of_the_whole(
    bpe: BaseTokenizer, pruned: PrunedTokenizer, tmp_path: Path
) -> None:
    pruned.tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.special_tokens_map == bpe.fast.special_tokens_map
    assert (loaded.chat_template, loaded.model_max_length) == (bpe.fast.chat_template, 64)
    assert loaded.encode("<|user|> help<|end|>")[0] == pruned.kept.index(2)
    assert loaded.backend_tokenizer.to_str() == pruned.tokenizer.fast.backend_tokenizer.to_str()


def test_an_id_that_is_gone_is_refused(pruned: PrunedTokenizer) -> None:
    gone = next(each for each in range(1500) if each not in pruned.kept)
    with pytest.raises(PruningError, match=str(gone)):
        pruned.renumbered([pruned.kept[0], gone])


def test_a_character_tokenizer_keeps_the_characters_of_the_text_alone() -> None:
    tokenizer = create_tokenizer("character", texts=["abcdefgh"])
    pruned = prune_tokenizer(tokenizer, ["cage"])
    assert pruned.kept == (0, 1, 2, 3, 5, 7, 9)
    assert pruned.tokenizer.decode(pruned.tokenizer.encode("cabbage")) == "ca<|unk|><|unk|>age"


def _fast(backend: Tokenizer, **named: str) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, **named))


def _gpt2(answers: list[str]) -> HuggingFaceTokenizer:
    """As GPT-2's: the only special token is the last entry of the model's own vocabulary."""
    whole = create_tokenizer("bpe", texts=answers, vocab_size=900)
    model = _backend(whole)["model"]
    letters = [name for name in model["vocab"] if not name.startswith("<|")]
    vocabulary = {name: index for index, name in enumerate([*letters, "<|endoftext|>"])}
    backend = Tokenizer(models.BPE(vocabulary, [tuple(pair) for pair in model["merges"]]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.add_special_tokens(["<|endoftext|>"])
    return _fast(backend, eos_token="<|endoftext|>")


def _sentencepiece_bpe(answers: list[str]) -> HuggingFaceTokenizer:
    """As Llama 2's: letters of their own, bytes where there is none, a beginning put before."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    names = ["<unk>", *(f"<0x{each:02X}>" for each in range(256))]
    backend.train_from_iterator(answers, trainers.BpeTrainer(vocab_size=900, special_tokens=names, show_progress=False))
    parts = json.loads(backend.to_str())
    parts["model"] |= {"byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True}
    parts["added_tokens"] = parts["added_tokens"][:1]
    backend = Tokenizer.from_str(json.dumps(parts))
    backend.add_special_tokens(["<s>"])
    begin = ("<s>", backend.token_to_id("<s>"))
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[begin])
    return _fast(backend, bos_token="<s>", unk_token="<unk>")


def _word_piece(answers: list[str]) -> HuggingFaceTokenizer:
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=["[UNK]"], show_progress=False)
    backend.train_from_iterator(answers, trainer)
    backend.add_special_tokens(["[CLS]", "[SEP]"])
    end, begin = ((name, backend.token_to_id(name)) for name in ("[SEP]", "[CLS]"))
    backend.post_processor = processors.BertProcessing(end, begin)
    return _fast(backend, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def _unigram(answers: list[str]) -> HuggingFaceTokenizer:
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=500, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(answers, trainer)
    return _fast(backend, unk_token="<unk>", eos_token="</s>")


@pytest.mark.parametrize("make", [_gpt2, _sentencepiece_bpe, _word_piece, _unigram])
def test_tokenizers_from_elsewhere_are_pruned_without_changing_the_text(make: Any, answers: list[str]) -> None:
    whole = make(answers)
    texts = [*answers[:_FEW], "unseen: é 日本 ~~"]
    pruned = prune_tokenizer(whole, texts)
    assert len(pruned.kept) < whole.vocab_size
    for text in texts:
        ids = pruned.tokenizer.encode(text)
        assert [pruned.kept[each] for each in ids] == whole.encode(text)
        assert pruned.tokenizer.decode(ids) == whole.decode(whole.encode(text))
        assert whole.encode(text) == whole.fast.encode(text, add_special_tokens=False)
        # with what is put around a text
        assert pruned.tokenizer.fast.encode(text) == pruned.renumbered(whole.fast.encode(text))
    assert pruned.tokenizer.fast.special_tokens_map == whole.fast.special_tokens_map


def test_a_whole_word_that_is_looked_up_before_any_merge_is_kept(answers: list[str]) -> None:
    parts = _backend(create_tokenizer("bpe", texts=answers, vocab_size=600))
    parts["model"]["ignore_merges"] = True
    parts["model"]["vocab"]["Ġzzq"] = 600
    whole = _fast(Tokenizer.from_str(json.dumps(parts)), pad_token="<|pad|>")
    pruned = prune_tokenizer(whole, [" zzq zqz"])
    ids = pruned.tokenizer.encode(" zzq zqz")
    assert pruned.kept[ids[0]] == 600
    assert [pruned.kept[each] for each in ids] == whole.encode(" zzq zqz")


def test_the_piece_that_unknown_letters_get_their_score_from_is_kept() -> None:
    # an unknown letter scores 10 less than the worst piece: cheaper, it would break the first piece of the text up
    pieces = [("<unk>", 0.0), ("éx", -15.0), ("yz", -15.0), ("xyz", -1.0), ("zz", -100.0), ("ww", -2.0)]
    whole = _fast(Tokenizer(models.Unigram(pieces, unk_id=0)), unk_token="<unk>")
    pruned = prune_tokenizer(whole, ["éxyz", "xyz"])
    assert pruned.kept == (0, 1, 2, 3, 4)
    assert pruned.tokenizer.encode("éxyz") == [1, 2]


def test_a_tokenizer_that_merges_at_random_is_refused(answers: list[str]) -> None:
    parts = _backend(create_tokenizer("bpe", texts=answers, vocab_size=300))
    parts["model"]["dropout"] = 0.1
    with pytest.raises(PruningError, match="dropout"):
        prune_tokenizer(_fast(Tokenizer.from_str(json.dumps(parts))), answers[:5])
