"""Let a trained GPT continue a text: `python sample.py --prompt "ROMEO:"`."""

from gpt import cli, machine, pretrained
from gpt.config import SampleConfig
from gpt.generate import generate_text
from gpt.run import Run


def main() -> None:
    config = cli.parse(SampleConfig)
    device = cli.prepare_device(config)
    path = config.checkpoint or Run.newest("best.safetensors").best
    trained = pretrained.load(path)
    if device == "cpu":
        machine.prepare(threads=machine.cores())
    model, tokenizer = trained.model(), trained.tokenizer
    model.to(device)
    tokenizer.encode(config.prompt)  # an unknown character is an error before any output
    for seed in range(config.seed, config.seed + config.num_samples):
        if seed > config.seed:
            print("-" * 15)
        print(config.prompt, end="", flush=True)
        for piece in generate_text(
            model, tokenizer, config.prompt, config.max_new_tokens, config.sampling, seed
        ):
            print(piece, end="", flush=True)
        print()


if __name__ == "__main__":
    cli.run(main)
