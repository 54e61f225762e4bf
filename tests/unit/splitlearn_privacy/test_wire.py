import pytest
import torch

from splitlearn_privacy.wire import Distortion

ROWS = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(0)).bfloat16()


def test_rows_without_codec_and_noise_arrive_as_they_were() -> None:
    assert torch.equal(Distortion().of(ROWS, 0), ROWS)
    assert Distortion().bytes_of_row(ROWS[0, 0]) == 128


def test_a_codec_rounds_rows_as_it_does_on_the_wire() -> None:
    found = Distortion("int8").of(ROWS, 0)

    assert found.dtype == ROWS.dtype
    assert not torch.equal(found, ROWS)
    # half a step of int8 over the largest of 64 values, and bfloat16's own rounding
    most = ROWS.float().abs().amax(-1, keepdim=True)
    assert ((found.float() - ROWS.float()).abs() <= most * (0.51 / 127 + 2**-8)).all()
    assert Distortion("int8").bytes_of_row(ROWS[0, 0]) == 68


@pytest.mark.parametrize("level", [0.1, 1.0])
def test_noise_is_relative_to_the_rows_own_size(level: float) -> None:
    rows = torch.cat([ROWS, 100 * ROWS])

    error = (Distortion(noise=level).of(rows, 0).float() - rows.float()).square().mean((1, 2)).sqrt()

    size = rows.float().square().mean((1, 2)).sqrt()
    assert error / size == pytest.approx(level, rel=0.2)


def test_noise_is_the_same_for_a_seed_and_other_for_another() -> None:
    noisy = Distortion(noise=0.3)

    assert torch.equal(noisy.of(ROWS, 1), noisy.of(ROWS, 1))
    assert not torch.equal(noisy.of(ROWS, 1), noisy.of(ROWS, 2))


def test_rows_that_come_back_have_no_noise() -> None:
    assert torch.equal(Distortion(noise=0.3).coded(ROWS), ROWS)
