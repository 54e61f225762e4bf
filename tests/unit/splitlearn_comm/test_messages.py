import pytest
import torch

from splitlearn_comm._proto import compute_pb2 as pb2
from splitlearn_comm.core import PLAIN
from splitlearn_comm.messages import begin_tensor, serialize, serialize_with


@pytest.mark.parametrize("size", [0, 1, 100, 127, 128, 16_383, 16_384, 70_000, 2_100_000])
def test_appended_data_reads_as_if_it_had_been_set(size: int) -> None:
    tensor = torch.arange(size, dtype=torch.int64).to(torch.uint8)
    appended, whole = pb2.StreamReply(), pb2.StreamReply()
    for message in (appended, whole):
        message.frame.position = 7
        message.timing.compute_seconds = 0.5

    data = serialize_with(appended, (1, 2), begin_tensor(appended.frame.rows, tensor, PLAIN))
    whole.frame.rows.data = bytes(begin_tensor(whole.frame.rows, tensor, PLAIN).data)

    assert pb2.StreamReply.FromString(data) == whole
    assert len(data) <= len(serialize(whole)) + 20
