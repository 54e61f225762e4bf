"""The model's own top, run on the rows that go back to the client: it says the next token.

Shapes: N texts, T tokens of each, D hidden size.
"""

import torch
from torch import Tensor

from splitlearn_privacy.attacks.attack import GUESSES, Attack, Guesses, Knowledge, Target
from splitlearn_privacy.cut_model import Seen


@torch.no_grad()
def read(knowledge: Knowledge, seen_NTD: Tensor) -> Guesses:
    """Needs the top's weights, and no training."""
    model = knowledge.model
    found = [model.logits(seen_TD[None].to(model.dtype))[0].topk(GUESSES).indices for seen_TD in seen_NTD]
    return Guesses(torch.stack(found))


PUBLIC_TOP = Attack("public top", "arXiv 2606.14210", read, kinds=frozenset({Seen.RETURNED}), target=Target.SAID)
