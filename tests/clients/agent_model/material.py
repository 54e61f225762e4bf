"""`python -m tests.clients.agent_model.material`: writes what the agents' model is trained on, and its tokenizer."""

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits
from tokenizers.pre_tokenizers import Sequence as Sequentially
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from tests.clients.agent_model.conversations import LEARNED, Conversation, Json, conversations

HERE: Final = Path(__file__).parent
FOLDER: Final = HERE.parents[2] / "build" / "agent_model_material"
TEMPLATE: Final = HERE / "chat_template.jinja"
_SEED: Final = "learned"
_N_CONVERSATIONS: Final = 12_000
_VOCABULARY: Final = 768
_CONTEXT: Final = 1024
_PAD, _BEGIN, _END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# tokens of their own, but text: parsers read them
_MARKERS: Final = ("<tools>", "</tools>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")


def spelled(conversation: Conversation) -> list[dict[str, str]]:
    """The conversation in roles and texts alone, of which the template makes the same text.

    cleangpt trains on such, and knows no tools.
    """
    found: list[dict[str, str]] = []
    messages = list(conversation.messages)
    said = [messages.pop(0)["content"]] if messages[0]["role"] == "system" else []
    if conversation.tools:
        said.append("\n".join(("<tools>", *map(json.dumps, conversation.tools), "</tools>")))
    if said:
        found.append({"role": "system", "content": "\n\n".join(said)})
    results: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            results.append(f"<tool_response>\n{message['content']}\n</tool_response>")
            continue
        if results:
            found.append({"role": "user", "content": "\n".join(results)})
            results = []
        found.append({"role": message["role"], "content": _calls(message) or message["content"]})
    return found


def _calls(message: Json) -> str:
    functions = [call["function"] for call in message.get("tool_calls", ())]
    return "\n".join(f"<tool_call>\n{json.dumps(each)}\n</tool_call>" for each in functions)


def trained_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE whose digits stand alone: a number is copied digit by digit."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = Sequentially([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = ByteLevelDecoder()
    special = [AddedToken(name, special=True, normalized=False) for name in (_PAD, _BEGIN, _END)]
    tokenizer.add_special_tokens(special)
    trainer = BpeTrainer(
        vocab_size=_VOCABULARY - len(_MARKERS),
        special_tokens=special,
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in _MARKERS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        clean_up_tokenization_spaces=False,
        pad_token=_PAD,
        eos_token=_END,
        additional_special_tokens=[_BEGIN],
        chat_template=TEMPLATE.read_text(encoding="utf-8"),
        model_max_length=_CONTEXT,
    )


def main() -> None:
    rows = [spelled(each) for each in islice(conversations(LEARNED, _SEED), _N_CONVERSATIONS)]
    FOLDER.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"messages": row}) for row in rows]
    (FOLDER / "conversations.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    texts = [f"{message['role']}\n{message['content']}" for row in rows for message in row]
    trained_tokenizer(texts).save_pretrained(FOLDER / "tokenizer")
    print(f"{FOLDER}: {len(rows)} conversations, and a tokenizer")


if __name__ == "__main__":
    main()
