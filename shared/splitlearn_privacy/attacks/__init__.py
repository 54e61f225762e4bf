"""The attacks, from the weakest to the strongest. Each is a module that names its paper."""

from typing import Final

from splitlearn_privacy.attacks.attack import GUESSES, Attack, Guesses, Knowledge, Target
from splitlearn_privacy.attacks.candidate_replay import CANDIDATE_REPLAY
from splitlearn_privacy.attacks.nearest_embedding import NEAREST_EMBEDDING
from splitlearn_privacy.attacks.probes import LINEAR_PROBE, MLP_PROBE
from splitlearn_privacy.attacks.public_top import PUBLIC_TOP
from splitlearn_privacy.attacks.sequence_inverter import SEQUENCE_INVERTER

ATTACKS: Final = (NEAREST_EMBEDDING, LINEAR_PROBE, MLP_PROBE, SEQUENCE_INVERTER, CANDIDATE_REPLAY, PUBLIC_TOP)

__all__ = ["ATTACKS", "GUESSES", "Attack", "Guesses", "Knowledge", "Target"]
