"""Train a GPT on a text: `python train.py`, and `python train.py --help` for what can be set."""

import os
import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # Ctrl-C, until all is imported

from gpt.commands import cli, modes
from gpt.commands.job import train


def main() -> None:
    config = cli.train_config()
    job = modes.evaluate if config.eval_only else modes.overfit if config.overfit_batch else train
    job(config, cli.prepare_device(config))


if __name__ == "__main__":
    cli.run(main)
