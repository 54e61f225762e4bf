"""What random requests to a model are made of, by its sepweight directory."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from transformers import PretrainedConfig

from cleangpt.data.stdlib_questions import collect_questions
from llm_sepweight import Manifest
from splitlearn.model.layout import config_from_dict
from support.random_requests import Material
from tests.clients.agent_model.conversations import NEW, Conversation, conversations

_CONVERSATIONS = 200


def material_of(weights: Path, model: str) -> Material:
    """Of a model with that name in requests: with tools, and what is asked of those, if its chat template has tools."""
    config: PretrainedConfig = config_from_dict(Manifest.read(weights).config).get_text_config(decoder=True)
    template = (weights / "chat_template.jinja").read_text(encoding="utf-8")
    sizes = config.vocab_size, config.max_position_embeddings
    if "tools" not in template:
        pairs = [(each.phrasings[0], each.answer) for each in collect_questions()]
        return Material(model, pairs, *sizes, has_system="system" in template)
    made = list(islice(conversations(NEW, "requests"), _CONVERSATIONS))
    tools = [list(each.tools) for each in made if each.tools]
    return Material(model, [pair for each in made for pair in _pairs(each)], *sizes, tools, "system" in template)


def _pairs(conversation: Conversation) -> Iterator[tuple[str, str]]:
    """The questions, with what the assistant said last before the next one."""
    question, answer = "", ""
    for message in conversation.messages:
        if message["role"] == "user":
            if answer:
                yield question, answer
            question, answer = str(message["content"]), ""
        elif message["role"] == "assistant":
            answer = str(message.get("content") or "")
    if answer:
        yield question, answer
