"""Text sources, and how text becomes batches of token ids.

The names below are imported on first use, so reading text loads neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cleangpt.data.batches import Batch, EpochBatches, LazyBatches
    from cleangpt.data.blocks import BlockSettings, TokenBlocks
    from cleangpt.data.conversations import ConversationRows, conversation_rows
    from cleangpt.data.messages import Chat, Conversation, Conversations, Message
    from cleangpt.data.reading import Cutting, Reading, reading_of
    from cleangpt.data.sources import (
        CONVERSATION_SOURCES,
        TEXT_SOURCES,
        read_conversations,
        read_source,
        read_texts,
        register_text_source,
        texts_of,
    )

__all__ = [
    "CONVERSATION_SOURCES",
    "TEXT_SOURCES",
    "Batch",
    "BlockSettings",
    "Chat",
    "Conversation",
    "ConversationRows",
    "Conversations",
    "Cutting",
    "EpochBatches",
    "LazyBatches",
    "Message",
    "Reading",
    "TokenBlocks",
    "conversation_rows",
    "read_conversations",
    "read_source",
    "read_texts",
    "reading_of",
    "register_text_source",
    "texts_of",
]

# `messages` and `sources` come first, so that looking up their names does not load torch
_MODULES = ("messages", "sources", "batches", "conversations", "blocks", "reading")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            found = vars(import_module(f"{__name__}.{module}"))
            if name in found:
                return found[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
