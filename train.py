"""Train a GPT on a text: `python train.py`, and `python train.py --help` for what can be set."""

from gpt import cli
from gpt.job import train


def main() -> None:
    config = cli.train_config()
    train(config, cli.prepare_device(config))


if __name__ == "__main__":
    cli.run(main)
