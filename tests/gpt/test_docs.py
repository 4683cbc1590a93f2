"""The commands that README and docs show have the flags that they show."""

import re
import shlex
from pathlib import Path

import pytest

from gpt.commands import cli
from gpt.config import SampleConfig, TrainConfig

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "docs" / "your-own-text.md"]
COMMANDS = {
    match
    for page in PAGES
    for match in re.findall(
        r"python (?:train|sample)\.py[^`\n|&]*?(?=`|\n| {2,}| *#|$)", page.read_text("utf-8")
    )
}


@pytest.mark.parametrize("command", sorted(COMMANDS - {"python train.py --help"}))
def test_a_command(command):
    _, script, *flags = shlex.split(command)
    cli.parse(TrainConfig if script == "train.py" else SampleConfig, flags)


def test_there_are_many():
    assert len(COMMANDS) > 20
