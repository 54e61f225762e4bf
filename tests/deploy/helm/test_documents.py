"""The values in the chart's README can be installed, and the sizes in docs/operations.md are those of the engine."""

import re
from pathlib import Path

import pytest
import yaml

from splitlearn.build import build_engine
from splitlearn.checkpoints.load import load_part
from splitlearn.engine import DeviceThread
from support.helm_chart import CHART, ROOT, Helm, complaints, versions

pytestmark = pytest.mark.slow

EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", (CHART / "README.md").read_text(), re.MULTILINE | re.DOTALL)
PAGE = (ROOT / "docs" / "operations.md").read_text()


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_values_in_the_readme_can_be_installed(helm: Helm, number: int) -> None:
    values = yaml.safe_load(EXAMPLES[number])
    assert helm.lint(values) == []
    assert [each for each in helm.objects(values) if complaints(each, versions()[0])] == []


def test_the_readme_has_examples() -> None:
    assert len(EXAMPLES) >= 5


async def test_a_row_takes_what_the_page_says(tiny_weights: Path) -> None:
    assert "2 × key-value heads × head dimension × bytes per number" in PAGE
    with DeviceThread(1) as thread:
        engine, _ = await thread.run(lambda: build_engine(load_part(tiny_weights, "1-4"), thread))
    config, n_layers = engine.part.config, 3
    head = config.hidden_size // config.num_attention_heads
    assert engine.row_bytes == n_layers * 2 * config.num_key_value_heads * head * engine.part.dtype.itemsize


def test_the_example_is_calculated_as_the_page_says() -> None:
    hidden, inner, heads, kv_heads, width, vocabulary, number = 4096, 14336, 32, 8, 128, 128_256, 2
    mib, gib = 2**20, 2**30
    weights = 2 * hidden * width * (heads + kv_heads) + 3 * hidden * inner + 2 * hidden
    layer, row, sessions, rows = weights * number, 2 * kv_heads * width * number, 32, 2048
    trunk, client = 28, 4
    for said in (
        f"{weights / 1e6:.0f} million × 2 bytes | {layer / mib:.0f} MiB",
        f"{trunk * layer / gib:.1f} GiB",
        f"{row // 1024} KiB |",
        f"{trunk * row // 1024} KiB |",
        f"{rows * trunk * row // mib} MiB |",
        f"{sessions * rows * trunk * row // gib} GiB |",
        f"4 layers ({client * layer / gib:.1f} GiB)",
        f"embeddings and head ({2 * vocabulary * hidden * number / gib:.0f} GiB\nin all)",
        f"{client * row // 1024} KiB for each row, {sessions * rows * client * row // gib} GiB for the 32 sessions",
        f"{hidden * number // 1024} KiB here",
        f"ten users at 20 tokens/s {10 * 20 * hidden * number / mib:.1f} MiB/s",
    ):
        assert said in PAGE
