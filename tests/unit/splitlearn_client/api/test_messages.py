"""Which piece of a streamed message has the ids of which tokens."""

from splitlearn_client.answer import TokenDelta
from splitlearn_client.api.messages import StreamedMessage
from splitlearn_client.parsing.dialect import Dialect, Prefix
from splitlearn_client.parsing.forms.hermes import Hermes
from splitlearn_client.parsing.thoughts import THOUGHTS

READING = Dialect(Hermes(), THOUGHTS["think"], new_identity=lambda: "call_1").reading(
    {"f": {"type": "object"}}, Prefix()
)
TEXTS = ["<think>\n", "why?", "\n</think>\n", "So", "<", "b", '<tool_call>\n{"name": "f", ', '"arguments": {}}', "</"]


def test_every_token_is_in_one_piece_of_a_message_that_is_taken_apart() -> None:
    message = StreamedMessage(READING)
    ids = list(range(len(TEXTS)))
    deltas = [TokenDelta(text, token_ids=(token,)) for token, text in zip(ids, TEXTS, strict=True)]
    deltas.append(TokenDelta("tool_call>", finish_reason="stop", token_ids=(len(TEXTS),)))
    pieces = [piece for delta in deltas for piece, _ in message.add(delta)]
    assert [token for piece in pieces for token in piece.token_ids] == [*ids, len(TEXTS)]


def test_a_token_that_made_nothing_certain_comes_with_the_next_piece() -> None:
    message = StreamedMessage(READING)
    assert message.add(TokenDelta("<", token_ids=(5,))) == []
    [(piece, said)] = message.add(TokenDelta("b", token_ids=(6,)))
    assert (said, piece.token_ids) == ({"content": "<b"}, (5, 6))
