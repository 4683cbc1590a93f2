"""docs/how-pytorch-works.md is true of both: its examples run, with PyTorch and with tensorlib."""

from pathlib import Path

from examples import run_examples


def test_the_examples_run():
    result = run_examples(Path(__file__).parents[1] / "docs" / "how-pytorch-works.md")
    assert result.attempted > 60
    assert result.failed == 0
