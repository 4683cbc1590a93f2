"""Letting a model speak, as sample.py does: where the prompt comes from, where the text goes.

The text goes to standard output as it is drawn; what is said about it, to standard error.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import threading
import time
from pathlib import Path

from gpt.config import SampleConfig, UserError
from gpt.fast import machine
from gpt.generate import encode_prompt, generate_texts
from gpt.runs import memory
from gpt.runs.run import Run
from gpt.runs.saving import answer, say
from gpt.weights import pretrained
from gpt.weights.pretrained import Pretrained

SEPARATOR = "-" * 15  # between samples, as nanoGPT has it


def sample(config: SampleConfig, device: str = "cpu") -> None:
    """All that sample.py does. UserError for a prompt or a checkpoint that cannot be read."""
    path = config.checkpoint or Run.newest("best.safetensors").best
    trained = pretrained.load(path)
    if device == "cpu":
        machine.prepare(threads=machine.cores())
    speaker = Speaker(trained, config, device)
    if config.interactive:
        converse(speaker)
    else:
        speaker.speak(read_prompt(config), config.seed)


class Speaker:
    """A model, and how to let it speak."""

    def __init__(self, trained: Pretrained, config: SampleConfig, device: str = "cpu") -> None:
        self.config = config
        memory.check_samples(trained.config, config.num_samples, device)
        self.model, self.tokenizer = trained.model(), trained.tokenizer
        self.model.to(device)

    def speak(self, prompt: str, seed: int) -> None:
        """Print the prompt with its continuations: the first as it is drawn, the others, which are
        drawn at the same time, after it. Then, on standard error, how fast that was."""
        config = self.config
        length, longest = len(encode_prompt(self.tokenizer, prompt)), self.model.config.block_size
        if length > longest:
            say(
                f"the prompt has {length:,} tokens, of which this model sees the last {longest:,}",
                sys.stderr,
            )
        seeds = [(seed + i) % 2**64 for i in range(config.num_samples)]
        stop = config.stop and config.stop.replace("\\n", "\n")
        others: list[list[str]] = [[] for _ in seeds[1:]]
        count, begun = 0, time.perf_counter()
        answer(prompt, end="")
        for first, *rest in generate_texts(
            self.model, self.tokenizer, prompt, config.max_new_tokens, config.sampling, seeds, stop
        ):
            count += sum(piece is not None for piece in (first, *rest))
            answer(first or "", end="")
            for pieces, piece in zip(others, rest):
                pieces.append(piece or "")
        seconds = time.perf_counter() - begun
        answer()
        for pieces in others:
            answer(f"{SEPARATOR}\n{prompt}{''.join(pieces)}")
        rate = f"{count / seconds:,.0f} tokens/s"
        say(f"{count:,} tokens in {seconds:.2f} s: {rate}", sys.stderr)


def converse(speaker: Speaker) -> None:
    """Ask for a prompt and let the model continue it, again and again, each time with the next
    seed. Ctrl-C stops the text, or forgets the line; Ctrl-D leaves."""
    with contextlib.suppress(ImportError):  # Windows has its own
        import readline  # noqa: F401  (gives input() editing and a history)
    say("Ctrl-C stops a text, Ctrl-D leaves", sys.stderr)
    seed = speaker.config.seed
    while True:
        try:
            speaker.speak(input("> "), seed)
            seed += speaker.config.num_samples
        except UserError as error:
            say(f"error: {error}", sys.stderr)
        except KeyboardInterrupt:
            answer()
        except EOFError:
            answer()
            return


def read_prompt(config: SampleConfig) -> str:
    """The prompt of --prompt, of --prompt-file, or of what is piped into this program, without the
    line's end that closes a file. UserError if it cannot be read, or is no UTF-8 text."""
    if config.prompt is not None:
        return config.prompt
    path = config.prompt_file
    if path is None and not _is_piped():
        return ""
    try:
        content = _read_input() if path in (None, Path("-")) else path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read --prompt-file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path or 'the prompt'} is not UTF-8 text") from None
    return text.replace("\r\n", "\n").removesuffix("\n")


def _is_piped() -> bool:
    """Whether standard input is a pipe or a file: something to read, with an end."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):  # there is none, or a notebook's
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _read_input() -> bytes:
    waiting = threading.Timer(1, say, ["reading the prompt from standard input ...", sys.stderr])
    waiting.daemon = True
    waiting.start()
    try:
        return sys.stdin.buffer.read()
    finally:
        waiting.cancel()
