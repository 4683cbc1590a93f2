"""train.py and sample.py as a user runs them."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import check_mistake, wait_for_step

REPOSITORY = Path(__file__).parents[3]
TRAIN, SAMPLE = (shlex.quote(str(REPOSITORY / name)) for name in ("train.py", "sample.py"))
posix = pytest.mark.skipif(os.name != "posix", reason="no signals or broken pipes there")


@pytest.fixture
def trained(script, text_file, tiny):
    """What a short training printed; its run is runs/1."""
    done = script("train.py", "--data", text_file, "--max-iters", 4, "--eval-interval", 2, *tiny)
    assert done.returncode == 0, done.stderr
    return done


def test_train_then_sample(trained, script, tmp_path):
    assert trained.stderr == ""
    assert "step 4: train loss" in trained.stdout
    run = tmp_path / "runs" / "1"
    assert len(list(run.iterdir())) == 5
    assert all("step" in json.loads(line) for line in (run / "metrics.jsonl").open())

    done = script("sample.py", "--prompt", "the fox", "--max-new-tokens", 20)
    assert done.returncode == 0
    assert re.fullmatch(r"20 tokens in [\d.]+ s: [\d,]+ tokens/s\n", done.stderr)
    assert re.fullmatch(r"the fox(.|\n){20}\n", done.stdout)
    again = script("sample.py", "--prompt", "the fox", "--max-new-tokens", 20, "--checkpoint", run)
    assert again.stdout == done.stdout
    two = script("sample.py", "--prompt", "the fox", "--max-new-tokens", 20, "--num-samples", 2)
    first, second = two.stdout.split("---------------\n")
    assert first == done.stdout
    assert second != first
    other = script("sample.py", "--prompt", "the fox", "--max-new-tokens", 20, "--seed", 1338)
    assert other.stdout == second
    greedy = [
        script("sample.py", "--max-new-tokens", 30, "--temperature", 0, "--seed", seed).stdout
        for seed in (1, 2)
    ]
    assert greedy[0] == greedy[1]


@posix
def test_text_is_streamed_as_it_is_drawn(trained, script):
    process = script("sample.py", "--max-new-tokens", 1_000_000, start=True)
    assert len(process.stdout.read(50)) == 50  # long before the end
    process.stdout.close()  # as `head` does
    assert process.stderr.read() == ""
    process.wait(10)


@posix
def test_ctrl_c_while_sampling(trained, script):
    process = script("sample.py", "--max-new-tokens", 1_000_000, start=True)
    process.stdout.read(10)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10)[1] == ""
    assert process.returncode == 130


CTRL_C_AT = """
import os, signal, sys

class Finder:
    def find_spec(name, *_):
        if name == os.environ["CTRL_C_AT"]:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder)
"""


@posix
@pytest.mark.parametrize("name", ["train.py", "sample.py"])
# NumPy's own C makes an ImportError of the exception that Ctrl-C usually is
@pytest.mark.parametrize("module", ["gpt", "numpy.linalg._umath_linalg", "tyro", "gpt.commands"])
def test_ctrl_c_while_modules_are_imported(name, module, script, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(CTRL_C_AT)
    done = script(name, PYTHONPATH=f"{tmp_path}{os.pathsep}{REPOSITORY}", CTRL_C_AT=module)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


MISTAKE = """
from gpt.commands import cli
from gpt.config import UserError

def main():
    print("This waits in a buffer.")
    raise UserError("the prompt is empty")

cli.run(main)
"""


@pytest.fixture
def shell(tmp_path):
    """shell("-m lessons > log") runs Python with it, and text waits in buffers, as for users."""
    variables = {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "", "CUDA_VISIBLE_DEVICES": ""}
    options = {"shell": True, "cwd": tmp_path, "env": os.environ | variables, "encoding": "utf-8"}

    def run(arguments):
        command = f"{shlex.quote(sys.executable)} {arguments}"
        return subprocess.run(command, capture_output=True, timeout=60, check=False, **options)

    return run


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a file that takes nothing")
@pytest.mark.parametrize(
    "command",
    [
        *("-m lessons", "-m tensorlib.gradcheck --op relu", "-m tensorlib.gradcheck --help"),
        *(f"{TRAIN} --help", f"{SAMPLE} --help"),
    ],
)
def test_output_that_finds_no_room(command, shell):
    done = shell(f"{command} > /dev/full")
    assert done.stderr == "error: cannot write to standard output: No space left on device\n"
    assert done.returncode == 2


@posix
def test_output_that_nobody_reads(shell):
    done = shell("-m lessons | true")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a file that takes nothing")
@pytest.mark.parametrize("output", ["> /dev/full", "| true"], ids=["full", "unread"])
def test_a_mistake_is_told_where_output_fails_too(output, shell, tmp_path):
    (tmp_path / "mistake.py").write_text(MISTAKE)
    done = shell(f"mistake.py {output}")
    assert done.stderr == "error: the prompt is empty\n"
    assert done.returncode == (0 if "true" in output else 2)  # of a pipe it is the last one's


@posix
def test_closed_standard_streams(shell, text_file, tiny, tmp_path):
    flags = " ".join(["--max-iters 2 --out run", *tiny])
    assert shell(f"{TRAIN} --data {shlex.quote(str(text_file))} {flags} >&- 2>&-").returncode == 0
    assert (tmp_path / "run" / "best.safetensors").exists()


def test_sampling_mistakes(trained, script, tmp_path):
    check_mistake(script("sample.py", "--prompt", "the café"), "'é'")
    check_mistake(script("sample.py", "--checkpoint", "nothing"), "nothing", "No such file")
    check_mistake(script("sample.py", "--top-p", 2), "--top-p", "2.0")
    check_mistake(script("sample.py", "--promt", "a"), "--promt", "--prompt")
    best = tmp_path / "runs" / "1" / "best.safetensors"
    whole = best.read_bytes()
    best.write_bytes(whole[:-9])
    check_mistake(script("sample.py"), "truncated", "best.safetensors")
    best.write_bytes(whole[:-9] + b"\xff" + whole[-8:])
    check_mistake(script("sample.py"), "damaged", "best.safetensors")


def test_a_folder_of_runs_where_one_is_wanted(script, tmp_path):
    for age, name in enumerate(["2", "10", "old", "1", "x", "9"]):
        best = tmp_path / "runs" / name / "best.safetensors"
        best.parent.mkdir(parents=True)
        best.touch()
        os.utime(best, (1e9 - age, 1e9 - age))
    told = "runs is a folder of runs, take one of them: runs/2 (the newest), runs/10, runs/old, "
    told += "runs/1, runs/x, …\n"
    missing = "cannot read the checkpoint runs/best.safetensors: No such file or directory; "
    for why, name, *arguments in [
        ("", "sample.py", "--checkpoint", "runs"),
        ("", "train.py", "--init-from", "runs"),
        ("", "gpt.export", "runs"),
        (missing, "gpt.report", "runs"),
        (missing, "train.py", "--eval-only", "--out", "runs"),
    ]:
        done = script(name, *arguments)
        check_mistake(done)
        assert done.stderr == f"error: {why}{told}"


def test_sampling_without_a_model(script):
    check_mistake(script("sample.py"), "train.py")


@pytest.mark.slow
def test_training_mistakes(script, text_file, tmp_path):
    def train(*arguments):
        return script("train.py", *arguments)

    check_mistake(train("--data", "nothing.txt"), "nothing.txt", "No such file")
    (tmp_path / "empty").mkdir()
    check_mistake(train("--data", "empty"), "no file *.txt", "empty")
    for content, message in ((b"", "empty"), (b"\xff\xfe", "UTF-8"), (b"0123456789" * 6, "650")):
        (tmp_path / "bad.txt").write_bytes(content)
        check_mistake(train("--data", "bad.txt"), message, "bad.txt")
    check_mistake(train("--n-embd", 130), "--n-embd", "--n-head")
    check_mistake(train("--batch-size", 0), "--batch-size")
    check_mistake(train("--n-layr", 3), "--n-layr", "--n-layer")
    check_mistake(train("--preset", "big"), "big", "nanogpt-cpu")
    check_mistake(train("--device", "gpu"), "GPU")
    check_mistake(train("--data", text_file, "--out", text_file), "--out", "text.txt")
    check_mistake(train("--resume"), "last.safetensors")
    check_mistake(train("--data", text_file, "--n-embd", 10**9), "memory")


@pytest.mark.slow
def test_a_home_that_cannot_be_written_to_is_not_told(script, text_file, tiny, tmp_path):
    nowhere = {"HOME": "/dev/null", "MPLCONFIGDIR": "/dev/null", "XDG_CACHE_HOME": "/dev/null"}
    flags = ["--data", text_file, "--max-iters", 1, *tiny, "--device", "cpu"]  # CuPy would complain
    done = script("train.py", *flags, **nowhere)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "runs" / "1" / "loss.png").exists()


def test_without_a_network_the_main_job_runs(script, tiny):
    done = script("train.py", "--max-iters", 1, *tiny)
    assert done.returncode == 0
    assert "Python's language reference" in done.stdout
    assert "cannot download" in done.stderr


@posix
def test_ctrl_c_saves_and_leaves_with_130(script, text_file, tiny, tmp_path):
    flags = ["--data", text_file, "--max-iters", 100_000, "--eval-interval", 20, *tiny]
    process = script("train.py", *flags, start=True)
    run = tmp_path / "runs" / "1"
    wait_for_step(run, 20, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    step = int(re.fullmatch(r"stopped at step (\d+), saved in runs/1/last.safetensors.*\n", err)[1])
    assert step >= 40
    done = script("train.py", "--resume", "--max-iters", step + 1)  # its own flags are the defaults
    assert done.returncode == 0, done.stderr
    assert f"from step {step} to {step + 1:,}\n" in done.stdout


def test_help(script):
    done = script("train.py", "--help")
    assert done.returncode == 0
    assert "--n-layer INT" in done.stdout
