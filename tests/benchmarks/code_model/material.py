"""`python -m tests.benchmarks.code_model.material`: writes what `train.toml` trains on, and its tokenizer."""

import json
from itertools import islice
from typing import Final

from tests.benchmarks.code_model.editing import conversations, functions, word_lists
from tests.benchmarks.contenders import ROOT

FOLDER: Final = ROOT / "build" / "code_model_material"
SEED: Final = "learned"
HELD_OUT: Final = 10
"""One function in so many is never learned from: benchmarks ask about those."""
_SIZES: Final = ((16_000, 200), (5_000, 600), (1_000, 2500))
"""How many conversations, and the characters of code in their questions at most: short ones teach more in less time."""
_N_LISTS, _WORDS = 20_000, 12
"""Lists of names to copy, and their words at most."""


def main() -> None:
    known = [each for number, each in enumerate(functions()) if number % HELD_OUT]
    FOLDER.mkdir(parents=True, exist_ok=True)
    found = [each for n, longest in _SIZES for each in islice(conversations(known, f"{SEED} {longest}", longest), n)]
    found += islice(word_lists(known, SEED, _WORDS), _N_LISTS)
    with (FOLDER / "conversations.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"messages": each.messages}) + "\n" for each in found)
    print(f"{FOLDER}: {len(found)} conversations about {len(known)} functions")


if __name__ == "__main__":
    main()
