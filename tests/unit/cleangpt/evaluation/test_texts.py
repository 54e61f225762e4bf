import json
from pathlib import Path

import pytest

from cleangpt.data import read_conversations
from cleangpt.data.blocks import joined_ids
from cleangpt.data.stdlib_questions import collect_questions
from cleangpt.data.text_record import TextRecord
from cleangpt.errors import TextTooShortError, UnknownTextSourceError, UsageError
from cleangpt.evaluation.texts import TextChoice, read_evaluation_text
from cleangpt.tokenizers import BaseTokenizer, create_tokenizer


def test_rows_are_as_long_as_the_models_allow_and_follow_the_text(story: Path, tokenizer: BaseTokenizer) -> None:
    text = read_evaluation_text(TextChoice(str(story)), tokenizer, context=32)
    assert {batch.ids_BT.shape[1] for batch in text.batches[:-1]} == {32}
    # what is left at the end is measured too
    assert text.batches[-1].ids_BT.shape[1] < 32
    assert tokenizer.decode(text.batches[0].ids_BT[0].tolist()) == story.read_text()[:32]
    assert text.prompts[0] == story.read_text()[:16]


def test_a_text_shorter_than_two_blocks_is_cut_in_half(tmp_path: Path, tokenizer: BaseTokenizer) -> None:
    file = tmp_path / "a.txt"
    file.write_text("A cat sat on a mat")
    text = read_evaluation_text(TextChoice(str(file)), tokenizer, context=32)
    assert [tuple(batch.ids_BT.shape) for batch in text.batches] == [(2, 9), (1, 3)]
    assert text.prompts[0] == "A ca"


def test_tokens_per_byte_counts_the_end_token(story: Path, tokenizer: BaseTokenizer) -> None:
    n_bytes = story.stat().st_size
    text = read_evaluation_text(TextChoice(str(story)), tokenizer, context=32)
    assert text.tokens_per_byte == (n_bytes + 1) / n_bytes


def test_the_share_held_out_is_the_end_of_the_text(story: Path, tokenizer: BaseTokenizer) -> None:
    choice = TextChoice(str(story), validation=0.1, block_size=16)
    [batch, *_] = read_evaluation_text(choice, tokenizer, context=32).batches
    content = story.read_text()
    total = len(content) + 1
    # the end token, which is the last one, belongs to the share
    start = total - round(0.1 * total)
    assert tokenizer.decode(batch.ids_BT[0].tolist()) == content[start : start + 16]


def test_tokens_per_byte_is_that_of_the_share_held_out(tmp_path: Path, tokenizer: BaseTokenizer) -> None:
    file = tmp_path / "unlike.txt"
    # two bytes a letter at the end, and none before
    file.write_text("a" * 900 + "\N{LATIN SMALL LETTER E WITH ACUTE}" * 100)
    mixed = create_tokenizer("character", texts=[file.read_text()])
    text = read_evaluation_text(TextChoice(str(file), validation=0.05, block_size=16), mixed, context=32)
    assert text.tokens_per_byte == pytest.approx(0.5, rel=0.03)


def record_of(story: Path, tokenizer: BaseTokenizer, held_out: int) -> TextRecord:
    return TextRecord.of("a story", joined_ids([story.read_text()], tokenizer), held_out)


def test_of_a_text_that_a_model_was_trained_on_only_what_was_held_out_can_be_asked_for(
    story: Path, tokenizer: BaseTokenizer
) -> None:
    total = len(story.read_text()) + 1
    record = record_of(story, tokenizer, round(0.1 * total))
    text = read_evaluation_text(TextChoice(str(story), validation=0.1, block_size=16), tokenizer, 32, record)
    assert text.note is None
    content = story.read_text()
    assert tokenizer.decode(text.batches[0].ids_BT[0].tolist()) == content[total - round(0.1 * total) :][:16]
    with pytest.raises(UsageError, match=r"trained on all but the last \d+\.\d+% of this text, .* asks for 20\.00%"):
        read_evaluation_text(TextChoice(str(story), validation=0.2), tokenizer, 32, record)
    everything = record_of(story, tokenizer, 0)
    with pytest.raises(UsageError, match="trained on all of this text"):
        read_evaluation_text(TextChoice(str(story), validation=0.1), tokenizer, 32, everything)


def test_a_share_that_is_shorter_than_a_block_is_measured_in_shorter_ones(
    story: Path, tokenizer: BaseTokenizer
) -> None:
    record = record_of(story, tokenizer, 20)
    text = read_evaluation_text(TextChoice(str(story), validation=0.001), tokenizer, 32, record)
    assert sum(batch.ids_BT.numel() for batch in text.batches) >= 20
    assert text.batches[0].ids_BT.shape[1] == 10


def test_a_report_says_what_the_model_may_have_seen(story: Path, tmp_path: Path, tokenizer: BaseTokenizer) -> None:
    record, other = record_of(story, tokenizer, 20), TextRecord("another", "", 1, 0)

    def note(record: TextRecord | None, validation: float | None) -> str | None:
        choice = TextChoice(str(story), validation=validation)
        return read_evaluation_text(choice, tokenizer, 32, record).note

    assert note(record, 0.01) is None
    assert note(record, None) == "the model was trained on this text: the last 20 tokens were held out"
    assert note(None, None) is None
    assert note(other, None) is None
    assert (
        note(None, 0.1) == "whether the model has seen this share is not known: it does not say what it was trained on"
    )
    assert note(other, 0.1) == "whether the model has seen this share is not known: it was trained on another"


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """A hundred conversations, every second of two answers; the first questions get longer from one to the next."""
    file = tmp_path / "chats.jsonl"
    later = [("assistant", "sat on"), ("user", "a mat."), ("assistant", "The dog")]
    with file.open("w") as lines:
        for number in range(100):
            turns = [("user", "A cat saw it."[: 3 + number // 10]), *later[: 1 + 2 * (number % 2)]]
            lines.write(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}) + "\n")
    return file


@pytest.fixture
def chat_tokenizer() -> BaseTokenizer:
    return create_tokenizer("character", texts=["A cat sat on a mat. The dog saw it."], chat=True)


def test_a_column_of_messages_is_measured_on_the_answers(chats: Path, chat_tokenizer: BaseTokenizer) -> None:
    text = read_evaluation_text(TextChoice(str(chats), column="messages"), chat_tokenizer, 64)
    learned = sum(int(batch.learned_BT.sum()) for batch in text.batches if batch.learned_BT is not None)
    # a hundred times `sat on` and fifty times `The dog`, each with its end token
    assert learned == 100 * 7 + 50 * 8
    assert text.tokens_per_byte == learned / (100 * 6 + 50 * 7)
    asked = ("A c", "A cat", "A cat s", "A cat saw", "A cat saw i")
    assert text.prompts == tuple(f"<|user|> {each}<|end|><|assistant|>" for each in asked)


def test_fewer_conversations_than_prompts_are_asked_once_each(chats: Path, chat_tokenizer: BaseTokenizer) -> None:
    few = read_evaluation_text(TextChoice(str(chats), column="messages", n_prompts=200), chat_tokenizer, 64)
    every = [f"<|user|> {'A cat saw it.'[: 3 + number // 10].strip()}<|end|><|assistant|>" for number in range(100)]
    assert list(few.prompts) == every


def test_of_conversations_the_last_ones_are_the_share_held_out(chats: Path, chat_tokenizer: BaseTokenizer) -> None:
    found = read_conversations(chats)

    def questions(validation: float, held_out: int | None) -> tuple[str, ...]:
        record = None if held_out is None else TextRecord.of_conversations("chats", found, held_out)
        choice = TextChoice(str(chats), column="messages", validation=validation)
        text = read_evaluation_text(choice, chat_tokenizer, 64, record)
        assert sum(len(batch.ids_BT) for batch in text.batches) == 10
        return text.prompts

    last = ("<|user|> A cat saw it<|end|><|assistant|>",) * 5
    assert questions(0.1, held_out=None) == questions(0.1, held_out=10) == questions(0.1, held_out=20) == last
    with pytest.raises(UsageError, match=r"trained on all but the last 5\.00% of this text"):
        questions(0.1, held_out=5)
    whole = TextChoice(str(chats), column="messages")
    record = TextRecord.of_conversations("chats", found, 5)
    note = read_evaluation_text(whole, chat_tokenizer, 64, record).note
    assert note == "the model was trained on this text: the last 5 conversations were held out"


def test_as_many_prompts_are_taken_as_asked_for_from_all_over_the_text(story: Path, tokenizer: BaseTokenizer) -> None:
    text = read_evaluation_text(TextChoice(str(story), n_prompts=3), tokenizer, 32)
    content, total = story.read_text(), len(story.read_text()) + 1
    assert text.prompts == tuple(content[number * total // 3 :][:16] for number in range(3))


def test_no_more_batches_are_read_than_asked_for(story: Path, tokenizer: BaseTokenizer) -> None:
    choice = TextChoice(str(story), batch_size=2, max_batches=3)
    assert [len(each.ids_BT) for each in read_evaluation_text(choice, tokenizer, 32).batches] == [2, 2, 2]


def test_conversations_are_measured_on_their_answers() -> None:
    questions = collect_questions()[:12]
    texts = [part for each in questions for part in (*each.phrasings, each.answer)]
    tokenizer = create_tokenizer("bpe", texts=texts, vocab_size=300, chat=True)
    text = read_evaluation_text(TextChoice("stdlib-questions", max_samples=12), tokenizer, 256)
    learned = sum(int(batch.learned_BT.sum()) for batch in text.batches if batch.learned_BT is not None)
    assert text.tokens_per_byte == learned / sum(len(each.answer.encode()) for each in questions)
    assert len(text.prompts) == 5
    assert text.prompts[0].endswith("<|assistant|>")
    # where the models have room for more than one question, a row holds several; where they have none for one, less
    narrow = read_evaluation_text(TextChoice("stdlib-questions", max_samples=12), tokenizer, 8)
    chosen = read_evaluation_text(TextChoice("stdlib-questions", max_samples=12, block_size=8), tokenizer, 256)
    rows = [sum(len(batch.ids_BT) for batch in each.batches) for each in (narrow, chosen, text)]
    assert rows[0] == rows[1] > 12 > rows[2]
    assert max(batch.ids_BT.shape[1] for batch in narrow.batches) == 8
    assert narrow.tokens_per_byte == text.tokens_per_byte
    first = TextChoice("stdlib-questions", max_samples=12, block_size=8, max_batches=1)
    assert len(chosen.batches) > len(read_evaluation_text(first, tokenizer, 256).batches) == 1


def test_a_text_that_is_too_short_or_not_there_is_refused(tmp_path: Path, tokenizer: BaseTokenizer) -> None:
    (tmp_path / "a.txt").write_text("At")
    with pytest.raises(TextTooShortError, match="3 tokens"):
        read_evaluation_text(TextChoice(str(tmp_path / "a.txt")), tokenizer, 32)
    (tmp_path / "a.txt").write_text("A cat sat")
    with pytest.raises(TextTooShortError, match="a block takes 16"):
        read_evaluation_text(TextChoice(str(tmp_path / "a.txt"), block_size=16), tokenizer, 32)
    with pytest.raises(UnknownTextSourceError):
        read_evaluation_text(TextChoice("nowhere"), tokenizer, 32)


def test_blocks_longer_than_the_context_are_refused(story: Path, tokenizer: BaseTokenizer) -> None:
    assert read_evaluation_text(TextChoice(str(story), block_size=32), tokenizer, 32).batches
    with pytest.raises(UsageError, match="the model has 32 positions, and blocks of 33"):
        read_evaluation_text(TextChoice(str(story), block_size=33), tokenizer, 32)
    assert read_evaluation_text(TextChoice(str(story), block_size=33), tokenizer, None).batches
