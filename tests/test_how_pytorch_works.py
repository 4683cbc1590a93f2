"""docs/how-pytorch-works.md is true of both: its examples run, with PyTorch and with tensorlib."""

from pathlib import Path

import pytest
from examples import run_examples


@pytest.mark.cpu("the page shows what it prints")
def test_the_examples_run():
    result = run_examples(Path(__file__).parents[1] / "docs" / "how-pytorch-works.md")
    assert result.attempted > 60
    assert result.failed == 0
