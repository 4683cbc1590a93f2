"""sample.py as a user runs it: prompts from anywhere, several samples, a conversation."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tensorlib
from gpt import GPT, GPTConfig, TrainConfig
from gpt.checkpoint import Checkpoint
from gpt.tokenizer import CharTokenizer

posix = pytest.mark.skipif(os.name != "posix", reason="pipes and terminals are others there")
REPOSITORY = Path(__file__).parents[3]
RATE = r"[\d,]+ tokens in [\d.]+ s: [\d,]+ tokens/s\n"


@pytest.fixture
def model_file(tmp_path):
    """A checkpoint of an untrained model, which babbles, in letters of one to four bytes."""
    tensorlib.manual_seed(1)
    tokenizer = CharTokenizer("".join(sorted("\n abcdefgxyzé√👁")))
    shape = GPTConfig(tokenizer.vocab_size, 16, n_layer=1, n_head=2, n_embd=8)
    path = tmp_path / "model.safetensors"
    Checkpoint(
        TrainConfig(model=shape), tokenizer, 0, None, "0" * 64, GPT(shape).state_dict()
    ).save(path)
    return path


@pytest.fixture
def sample(script, model_file):
    """sample("--seed", 3): what sample.py printed; it succeeded."""

    def run(*arguments, error=RATE, **options):
        done = script("sample.py", "--checkpoint", model_file, *arguments, **options)
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(error, done.stderr)
        return done.stdout

    return run


def test_a_prompt_from_anywhere(sample, tmp_path):
    expected = sample("--prompt", "abé\n👁", "--max-new-tokens", 20)
    assert re.fullmatch(r"abé\n👁(.|\n){20}\n", expected)
    (tmp_path / "p.txt").write_bytes("\ufeffabé\r\n👁\r\n".encode())
    flags = ["--max-new-tokens", 20]
    assert sample("--prompt-file", "p.txt", *flags) == expected
    assert sample(*flags, input="abé\n👁\n") == expected  # echo … | python sample.py
    assert sample("--prompt-file", "-", *flags, input="abé\n👁") == expected
    assert sample("--prompt", "abé\n👁", *flags, input="what is not read") == expected


def test_no_prompt(sample):
    expected = sample("--max-new-tokens", 20)
    assert expected == sample("--prompt", "", "--max-new-tokens", 20)
    assert expected == sample("--max-new-tokens", 20, input="")
    assert "\n" + expected == sample("--prompt", "\n", "--max-new-tokens", 20)


@posix
def test_waiting_for_a_prompt_is_told(model_file, tmp_path):
    command = [sys.executable, str(REPOSITORY / "sample.py"), "--checkpoint", str(model_file)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, **pipes)
    assert process.stderr.readline() == b"reading the prompt from standard input ...\n"
    assert process.communicate(b"ab", timeout=60)[0].startswith(b"ab")


def test_mistakes(script, model_file, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"a\xff")

    def mistake(*arguments, **options):
        done = script("sample.py", "--checkpoint", model_file, *arguments, **options)
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch("error: .*\n", done.stderr)
        return done.stderr

    assert "cannot read --prompt-file nothing: No such file" in mistake("--prompt-file", "nothing")
    assert "cannot read --prompt-file .: Is a directory" in mistake("--prompt-file", ".")
    assert "bad.txt is not UTF-8 text" in mistake("--prompt-file", "bad.txt")
    assert "these characters: 'ß'" in mistake(input="ß")
    assert "only one of them" in mistake("--prompt", "a", "--interactive")
    assert "stop is empty" in mistake("--stop", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a file that takes nothing")
def test_a_text_that_cannot_be_written_is_told(model_file, tmp_path):
    command = [sys.executable, str(REPOSITORY / "sample.py"), "--checkpoint", str(model_file)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=full,
            stderr=subprocess.PIPE, check=False, timeout=60,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == b"error: cannot write to standard output: No space left on device\n"


def test_a_prompt_longer_than_the_context(sample):
    told = "the prompt has 18 tokens, of which this model sees the last 16\n"
    text = sample("--prompt", "ab" + "cdefgxyz" * 2, "--max-new-tokens", 9, error=told + RATE)
    assert text.startswith("abcdefgxyzcdefgxyz")
    other = sample("--prompt", "zz" + "cdefgxyz" * 2, "--max-new-tokens", 9, error=told + RATE)
    assert other[18:] == text[18:]  # only what it saw counts


def test_samples_of_one_batch_are_those_of_their_seeds(sample):
    flags = ["--prompt", "ab", "--max-new-tokens", 60, "--top-p", 0.9]
    alone = [sample(*flags, "--seed", seed) for seed in (7, 8, 9)]
    assert len(set(alone)) == 3
    error = RATE.replace(r"[\d,]+", "180", 1)
    together = sample(*flags, "--seed", 7, "--num-samples", 3, error=error)
    assert together == "---------------\n".join(alone)
    stopped = sample(*flags, "--seed", 7, "--num-samples", 3, "--stop", "c")
    assert stopped == "---------------\n".join(text[:-1].split("c")[0] + "\n" for text in alone)


def test_stop(sample):
    flags = ["--prompt", "ab", "--max-new-tokens", 60, "--seed", 3]
    whole = sample(*flags)[2:-1]
    for stop in (whole[20:23], whole[30], whole[-2:], "never this"):
        assert sample(*flags, "--stop", stop) == "ab" + whole.split(stop)[0] + "\n"
    assert sample(*flags, "--stop", r"\n") == "ab" + whole.split("\n")[0] + "\n"


def test_output_is_utf8_whatever_the_locale(sample):
    expected = sample("--prompt", "é", "--max-new-tokens", 40)
    assert "👁" in expected
    variables = {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    assert sample("--prompt", "é", "--max-new-tokens", 40, **variables) == expected


# -------------------------------------------------------------------------------------- a terminal


class Terminal:
    """A program at a terminal, with somebody who types."""

    def __init__(self, program, *arguments, cwd):
        import pty

        self.screen, there = pty.openpty()
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        environment |= {"TERM": "dumb", "COLUMNS": "200"}
        self.process = subprocess.Popen(
            [sys.executable, str(REPOSITORY / program), *map(str, arguments)],
            stdin=there, stdout=there, stderr=there, cwd=cwd, env=environment,
            start_new_session=True, preexec_fn=_own_terminal,
        )  # fmt: skip
        os.close(there)

    def type(self, text):
        os.write(self.screen, text.encode())

    def read_until(self, pattern):
        """What appears on the screen, up to the pattern."""
        seen, deadline = b"", time.monotonic() + 60
        while not re.search(pattern, seen.decode("utf-8", "replace").replace("\r", "")):
            if not select.select([self.screen], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise AssertionError(f"no {pattern!r} in {seen!r}")
            try:
                seen += os.read(self.screen, 4096)
            except OSError:  # it has gone
                raise AssertionError(f"no {pattern!r} in {seen!r}") from None
        return seen.decode().replace("\r", "")


def _own_terminal():
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@posix
def test_a_conversation(model_file, tmp_path, sample):
    flags = ["--checkpoint", model_file, "--max-new-tokens", 30, "--temperature", 1]
    expected = [
        sample(*flags[2:], "--prompt", prompt, "--seed", seed)
        for prompt, seed in (("ab", 1337), ("cd", 1338))
    ]
    talk = Terminal("sample.py", *flags, "--interactive", cwd=tmp_path)
    assert "Ctrl-C stops a text, Ctrl-D leaves\n> " in talk.read_until("> $")
    talk.type("ab\n")
    assert talk.read_until("tokens/s\\s+> $").startswith("ab\n" + expected[0])
    talk.type("aßb\n")  # not one of its letters
    answer = talk.read_until("\n> $")
    assert answer == "aßb\nerror: the model never saw these characters: 'ß'; leave them out\n> "
    talk.type("forget this")
    talk.read_until("this$")
    time.sleep(0.2)  # until readline listens again
    talk.type("\x03")  # Ctrl-C at the prompt
    talk.read_until("\n> $")
    talk.type("cd\n")
    assert talk.read_until("tokens/s\\s+> $").startswith("cd\n" + expected[1])
    talk.type("\x1b[A\n")  # up: the history
    assert re.search(r"cd\s+cd", talk.read_until("tokens/s\\s+> $"))
    talk.type("\x04")  # Ctrl-D
    assert talk.process.wait(20) == 0
    os.close(talk.screen)


@posix
def test_ctrl_c_stops_the_text_and_not_the_program(model_file, tmp_path):
    flags = ["--checkpoint", model_file, "--max-new-tokens", 10**9]
    talk = Terminal("sample.py", *flags, "--interactive", cwd=tmp_path)
    for _ in range(2):
        talk.read_until("> $")
        talk.type("ab\n")
        talk.read_until("ab\\s+ab(.|\n){40}")
        talk.process.send_signal(signal.SIGINT)
    talk.read_until("\n> $")
    talk.type("\x04")
    assert talk.process.wait(20) == 0
    os.close(talk.screen)


@posix
def test_at_a_terminal_without_a_prompt_nobody_waits(model_file, tmp_path):
    one = Terminal("sample.py", "--checkpoint", model_file, "--max-new-tokens", 9, cwd=tmp_path)
    assert "9 tokens in" in one.read_until("tokens/s")
    assert one.process.wait(20) == 0
    os.close(one.screen)
