"""A client distils a stand-in for a trunk whose weights it does not have: hidden states come over the wire."""

from pathlib import Path

import pytest
import torch

from cleangpt.data.batches import Batch
from cleangpt.distillation.agreement import top1_agreement
from cleangpt.distillation.ends import Ends
from cleangpt.distillation.shadow_trainer import ShadowTrainer
from cleangpt.distillation.teacher import LocalTrunk
from cleangpt.model.shadow import Shadow, ShadowConfig
from splitlearn.checkpoints.load import load_part
from splitlearn_cli.remote_teacher import RemoteTrunk
from splitlearn_comm import CommError, Unreachable
from splitlearn_comm.loop_thread import loop_thread
from support.running_split import RunningTrunk, free_port

TEXTS = [Batch(torch.randint(384, (4, 8), generator=torch.Generator().manual_seed(n))) for n in range(2)]


def test_a_shadow_is_fitted_to_what_comes_over_the_wire(thread_trunk: RunningTrunk, client_weights: Path) -> None:
    torch.manual_seed(0)
    shadow = Shadow(ShadowConfig(64, width=32, intermediate_size=32))
    ends = Ends.load(client_weights)
    with RemoteTrunk(thread_trunk.address) as teacher:
        trainer = ShadowTrainer(ends, teacher, shadow, TEXTS)
        before = top1_agreement(ends, teacher, shadow, TEXTS)
        trainer.train(hidden_epochs=10, logit_epochs=60, lr=1e-2)
        after = top1_agreement(ends, teacher, shadow, TEXTS)
    assert before < 0.5 < 0.7 < after


def test_the_answers_are_those_of_the_same_layers_here_without_padding(
    thread_trunk: RunningTrunk, client_weights: Path, tiny_weights: Path
) -> None:
    hidden_BTD = Ends.load(client_weights).hidden(torch.randint(384, (12, 9)))
    lengths = [9, 4, 1, 0, *[7] * 8]
    with RemoteTrunk(thread_trunk.address) as teacher:
        found_BTD = teacher.hidden(hidden_BTD, lengths)
    expected_BTD = LocalTrunk(load_part(tiny_weights, "1-4")).hidden(hidden_BTD, lengths)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(found_BTD[row, :length], expected_BTD[row, :length], rtol=1e-4, atol=1e-4)
        assert not found_BTD[row, length:].any()
    assert thread_trunk.open_sessions == 0


def test_a_trunk_that_dies_is_said_so_and_nothing_is_changed(thread_trunk: RunningTrunk, client_weights: Path) -> None:
    ends = Ends.load(client_weights)
    with RemoteTrunk(thread_trunk.address) as teacher:
        loop_thread().run(thread_trunk.server.stop(0))
        with pytest.raises(CommError):
            teacher.hidden(ends.hidden(TEXTS[0].ids_BT), [8] * 4)


def test_an_unreachable_address_is_an_error() -> None:
    with pytest.raises(Unreachable):
        RemoteTrunk(f"127.0.0.1:{free_port()}", timeout=2.0, wait=0.0)
