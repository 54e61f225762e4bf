"""docs/architectures.md, made from what the walk found.

PYTHONPATH=tests python -m architectures.table
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

RESULT = Path(__file__).with_name("result.json")
TABLE = Path(__file__).parents[2] / "docs" / "architectures.md"

_HEAD = """# Architectures

Made by `make architectures` from a walk over all {total} causal language models of transformers {version}; do not
edit. Of these {equal} can be cut and {refused} are refused when a checkpoint is converted, with the reason.

For each, the walk makes a tiny random model of six layers, converts it, cuts it at two points, and compares with the
whole model, which it runs without a cache: logits within 1e-4 in fp32 and equal greedy tokens, for prompts in chunks
of several lengths, token by token, to the last row of the context, and after taking rows back; one row more than the
context is refused. Where sessions share a step, three of unlike lengths are compared in the same way.
`make test-architectures` repeats it (2 minutes on two cores).

## What can be cut

"Truncates" says whether a session can go back to an earlier position. Where it cannot, layers keep one recurrent state
for all rows; rows for an earlier position are then refused, and the text must be sent again from 0.

"Many sessions" says how the rows of several sessions run. **Batched** ({batches} types): one forward takes the rows of
all of them, next tokens and chunks of prompts alike, and only attention treats each session by itself. **Sequential**
({turns} types): each session has a forward of its own, one after the other, with the same tokens but less speed when
there are many. The reason is behind the colon; where it names a part of the model, the other parts run batched.

| model type | truncates | many sessions | traits |
|---|---|---|---|
"""

_TURNS = """
## How sessions share a forward

A model that transformers lets another attention into, and that takes the positions of its rows, has one attention
call for the rows of all sessions. Any other attends by its own code: what stands before its layers (embeddings,
positions, masks, biases) and its attention run session by session, with keys and values of that session alone; the
projections of attention, norms, feed-forward layers and experts run once for all rows.

A batch needs of the layers in a part that they keep keys and values and nothing else. Each part is judged by itself: a
part with none but the attention layers of a hybrid model runs batched.

"""

_NOTES = """
## What to know of some traits

- **Context**: it ends with the shortest table of positions, of which some families keep the first rows for padding, or
  where the rotary tables were made for. Rotary tables of the kinds "longrope" and "dynamic" change for all earlier
  positions of a text that grows past the original length, while a cache keeps the old ones: there the context ends at
  the original length, also where only one type of layers has such tables. A model with neither has no end.
- **Encoder beside the decoder**: it is left out, and its depth is none of the decoder's business.
- **Several streams**: layers hand on several hidden states a token, so a row is as many times as wide.
- **Sparse attention**: in `glm_moe_dsa` and `hy_v4` some layers attend to rows that an earlier layer chose. A part
  must begin at a layer that chooses itself; other cuts are refused with the list of those layers.
- **Compressed attention**: the first layers of `deepseek_v4` choose their experts by token id. They must stay with
  the embeddings; a cut before them is refused.
- **One row at a time**: transformers' own forward forgets the state when a session goes on with more than one row.
  Such rows are run one by one, which is slow for long prompts that come in chunks.
- **Text half of a larger model**: towers for images and sound are left out, and stored nowhere.
- **Gemma 4**: only sizes without per-layer embeddings of token ids and without shared keys and values.
- Layers that compute in fp32 in a half-precision model have their rows rounded at the cut.

## What is refused

"""


def render() -> str:
    """The page for what result.json holds now."""
    result = json.loads(RESULT.read_text())
    types: dict[str, dict[str, Any]] = result["types"]
    refused = {name: outcome for name, outcome in types.items() if outcome["verdict"] == "refused"}
    equal = {name: outcome for name, outcome in types.items() if outcome["verdict"] == "equal"}
    sequential = {name: outcome["batches"] for name, outcome in equal.items() if outcome["batches"]}
    head = _HEAD.format(
        total=len(types),
        version=result["transformers"],
        equal=len(equal),
        refused=len(refused),
        batches=len(equal) - len(sequential),
        turns=len(sequential),
    )
    rows = [_row(name, outcome) for name, outcome in equal.items()]
    why_refused = {name: outcome["reason"].removeprefix(f"{name} cannot be cut: ") for name, outcome in refused.items()}
    turns = _TURNS + "\n".join(_by_reason(sequential)) + "\n"
    return head + "\n".join(rows) + "\n" + turns + _NOTES + "\n".join(_by_reason(why_refused)) + "\n"


def _row(name: str, outcome: dict[str, Any]) -> str:
    goes_back = "yes" if outcome["can_truncate"] else "no"
    many = f"sequential: {outcome['batches']}" if outcome["batches"] else "batched"
    return f"| `{name}` | {goes_back} | {many} | {', '.join(outcome['traits'])} |"


def _by_reason(reasons: dict[str, str]) -> list[str]:
    """One line for each reason, with all the model types that it holds for."""
    types: dict[str, list[str]] = defaultdict(list)
    for name, reason in reasons.items():
        types[reason].append(f"`{name}`")
    return [f"- {', '.join(names)}: {reason}." for reason, names in types.items()]


if __name__ == "__main__":
    TABLE.write_text(render())
