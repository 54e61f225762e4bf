import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cleangpt.data.batches import Batch
from cleangpt.trainers.processes import Processes, own_device

_PROGRAM = """
import json, sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, GPT2Config
from cleangpt.data.batches import Batch, LazyBatches
from cleangpt.trainers import Checkpoints, EarlyStop, Training, TrainingSettings, WarmupCosine, train

class Rows:
    # three rows for two processes, in the last batch of an epoch one row: one process has nothing to do
    def __init__(self, seed):
        self.seed = seed
    def batches(self, epoch):
        def make(index):
            generator = torch.Generator().manual_seed(1000 * self.seed + 100 * epoch + index)
            ids_BT = torch.randint(30, (1 if index == 2 else 3, 8), generator=generator)
            learned_BT = torch.rand(ids_BT.shape, generator=generator) < 0.6
            return Batch(ids_BT, learned_BT)
        return LazyBatches(range(3), make)

torch.set_num_threads(1)
torch.manual_seed(1)
config = GPT2Config(vocab_size=30, n_positions=8, n_embd=8, n_layer=1, n_head=1, bos_token_id=None, eos_token_id=None,
                    attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)
model = AutoModelForCausalLM.from_config(config)
settings = TrainingSettings(epochs=4, schedule=WarmupCosine(peak=0.3, warmup=1), accumulate=2, evaluate_every=3)
folder = Path(sys.argv[1])
# not Adam, which makes rounding large where a gradient is nearly zero
optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
checkpoints = Checkpoints(folder)
history = train(Training(model, Rows(0), settings, Rows(1), checkpoints, [EarlyStop(100)], optimizer))
(folder / f"history{sys.argv[2]}.json").write_text(history.to_json())
"""


def _by_two(program: str, folder: Path) -> list[tuple[int, str]]:
    """Two processes of one group run it; how each ended, and what it wrote to stderr."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    pair = []
    for rank in ("0", "1"):
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank}
        command = [sys.executable, "-c", program, str(folder), rank]
        pair.append(subprocess.Popen(command, env={**os.environ, **place}, stderr=subprocess.PIPE, text=True))
    said = [each.communicate(timeout=100)[1] for each in pair]
    return [(each.returncode, text) for each, text in zip(pair, said, strict=True)]


def test_two_processes_compute_what_one_computes_with_the_joint_batch(tmp_path: Path) -> None:
    alone = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path / "one"), ""], capture_output=True, text=True, check=False
    )
    assert alone.returncode == 0, alone.stderr
    for code, said in _by_two(_PROGRAM, tmp_path / "two"):
        assert code == 0, said
    one = json.loads((tmp_path / "one" / "history.json").read_text())
    for rank in ("0", "1"):
        two = json.loads((tmp_path / "two" / f"history{rank}.json").read_text())
        assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
        found = [each["loss"] for each in two["evaluations"]]
        assert found == pytest.approx([each["loss"] for each in one["evaluations"]], rel=1e-5)
    saved = [torch.load(tmp_path / each / "checkpoint.pt")["model"] for each in ("one", "two")]
    for name, tensor in saved[0].items():
        assert torch.allclose(tensor, saved[1][name], atol=1e-6), name


def test_the_shares_of_all_processes_are_the_whole_batch() -> None:
    batch = Batch(torch.arange(10).reshape(5, 2), torch.arange(10).reshape(5, 2) % 2 == 0)
    shares = [Processes(rank, 3).share(batch) for rank in range(3)]
    assert sorted(row for share in shares for row in share.ids_BT.tolist()) == batch.ids_BT.tolist()
    assert [share.ids_BT.shape[0] for share in shares] == [2, 2, 1]
    assert all(share.learned_BT is not None for share in shares)
    assert Processes(2, 3).share(Batch(batch.ids_BT[:2])).ids_BT.shape == (0, 2)


def test_a_share_has_its_part_of_whatever_the_batch_carries() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Heavy(Batch):
        sent_BTD: Tensor  # noqa: N815 - a shape

    share = Processes(1, 2).share(Heavy(torch.arange(3)[:, None], sent_BTD=torch.arange(3.0)[:, None, None]))
    assert isinstance(share, Heavy)
    assert share.sent_BTD.flatten().tolist() == [1.0]


def test_a_process_takes_the_gpu_of_its_number_unless_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_device(torch.device("cuda")) == torch.device("cuda:3")
    assert own_device(torch.device("cuda:1")) == torch.device("cuda:1")
    assert own_device(torch.device("cpu")) == torch.device("cpu")
    monkeypatch.delenv("LOCAL_RANK")
    assert own_device(torch.device("cuda")) == torch.device("cuda")
