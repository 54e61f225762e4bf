from pathlib import Path

import pytest

from splitlearn_cli.chat.commands import COMMANDS, Chat, run_command
from splitlearn_cli.chat.conversation import Conversation, Sampling
from splitlearn_cli.errors import BadUsage


@pytest.fixture
def chat() -> Chat:
    conversation = Conversation()
    conversation.asking("one?")
    conversation.answered("1")
    return Chat(conversation, Sampling())


def test_the_help_lists_every_command(chat: Chat) -> None:
    lines = run_command(chat, "/help").shown.splitlines()
    assert [line.split()[0] for line in lines] == [f"/{name}" for name in COMMANDS]


def test_the_last_question_is_asked_again(chat: Chat) -> None:
    assert run_command(chat, "/retry").ask == "one?"
    assert chat.conversation.turns == []


def test_a_turn_is_taken_back(chat: Chat) -> None:
    assert "one?" in run_command(chat, "/undo").shown
    assert chat.conversation.turns == []
    for line in ("/undo", "/retry"):
        with pytest.raises(BadUsage, match="nothing was asked"):
            run_command(chat, line)


def test_the_system_prompt_is_shown_set_and_removed(chat: Chat) -> None:
    assert run_command(chat, "/system").shown == "system prompt: none"
    run_command(chat, "/system be brief ")
    assert chat.conversation.system == "be brief"
    assert run_command(chat, "/system").shown == "system prompt: be brief"
    run_command(chat, "/system none")
    assert chat.conversation.system == ""


def test_sampling_is_set_and_left_to_the_service_again(chat: Chat) -> None:
    run_command(chat, "/set temperature 0.5")
    run_command(chat, "/set seed=7")
    assert "temperature 0.5" in run_command(chat, "/set max_tokens 9").shown
    assert chat.sampling == Sampling(temperature=0.5, max_tokens=9, seed=7)
    run_command(chat, "/set seed none")
    assert chat.sampling.seed is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/nonsense", "no command /nonsense; /help"),
        ("/", "no command /;"),
        ("/set colour 1", "no 'colour' to set; there are temperature"),
        ("/set temperature hot", "temperature: .*got 'hot'"),
        ("/set temperature -1", "temperature: .*greater than or equal to 0"),
        ("/set temperature inf", "temperature: .*finite"),
        ("/set top_p 2", "top_p: .*less than or equal to 1"),
        ("/set max_tokens 0", "max_tokens: .*greater than or equal to 1"),
        ("/set max_tokens 1.5", "max_tokens: .*integer"),
        ("/save", "give a file"),
        ("/save /nowhere/at/all", "cannot write /nowhere/at/all: No such file"),
        ("/load /nowhere/at/all", "cannot read /nowhere/at/all: No such file"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(chat: Chat, line: str, words: str) -> None:
    with pytest.raises(BadUsage, match=words):
        run_command(chat, line)
    assert chat.sampling == Sampling()


def test_a_conversation_is_saved_and_loaded_by_name(chat: Chat, tmp_path: Path) -> None:
    run_command(chat, f"/save {tmp_path / 'a conversation'}")
    before = chat.conversation.as_json()
    run_command(chat, "/new")
    assert chat.conversation.turns == []
    assert run_command(chat, f"/load {tmp_path / 'a conversation'}").shown == "2 messages loaded"
    assert chat.conversation.as_json() == before


def test_a_file_with_something_else_changes_nothing(chat: Chat, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xff\x00")
    before = chat.conversation
    with pytest.raises(BadUsage, match=r"cannot read .*file: it is no conversation"):
        run_command(chat, f"/load {tmp_path / 'file'}")
    assert chat.conversation is before


def test_the_end_is_a_command_too(chat: Chat) -> None:
    assert run_command(chat, "/quit").ends
