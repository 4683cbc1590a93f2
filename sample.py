"""Let a trained GPT continue a text: `python sample.py --prompt "ROMEO:"`."""

import os
import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # Ctrl-C, until all is imported

from gpt.commands import cli
from gpt.commands.sampling import sample
from gpt.config import SampleConfig


def main() -> None:
    config = cli.parse(SampleConfig)
    sample(config, cli.prepare_device(config))


if __name__ == "__main__":
    cli.run(main, smaller="take fewer --num-samples or a shorter --prompt")
