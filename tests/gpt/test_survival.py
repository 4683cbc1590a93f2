"""Runs that survive: killed, stopped, out of disk space, damaged, diverging; the real commands."""

import contextlib
import errno
import json
import os
import pty
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from commands import check_mistake, wait_for_step

resource = pytest.importorskip("resource")  # POSIX: signals, limits, terminals
CORPUS = ["--data", "text.txt"]
TIMES = ("time", "ms_per_step", "tokens_per_second")


def tensors(run):
    return safetensors.numpy.load_file(run / "last.safetensors")


def check_same(run, other):
    """The same tensors, to the last bit, and the same reports but for the time they took."""
    one, two = tensors(run), tensors(other)
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], name)
    assert reports(run) == reports(other)


def reports(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def gone(pids):
    """Whether none of these processes is there any more, after at most ten seconds."""
    for _ in range(1000):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.01)
    return False


def workers(process):
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children]


# -------------------------------------------------------------------------------------- kill -9


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "kills", "steps"), [(1, 43, 500), (2, 7, 150)])
def test_killed_again_and_again_it_ends_as_if_nothing_had_happened(
    script, text_file, tiny, tmp_path, processes, kills, steps
):
    flags = [*CORPUS, *tiny, "--eval-interval", 2, "--max-iters", steps, "--dropout", 0.1]
    flags += ["--eval-iters", 1, "--processes", processes, "--sample-interval", 0]
    whole = script("train.py", *flags, "--out", "whole")
    assert whole.returncode == 0, whole.stderr
    run, dice = tmp_path / "killed", random.Random(1)
    begun, orphans = [], []
    for i in range(kills):
        resume = ["--resume"] if (run / "last.safetensors").exists() else ["--overwrite"]
        process = script("train.py", *flags, "--out", run.name, *resume, start=True)
        if i % 8 == 0:  # anywhere while it starts
            time.sleep(dice.uniform(0, 1))
        else:
            for line in process.stdout:
                if line.startswith("run "):
                    begun.append(int(line.split("from step ")[1].split()[0]))
                if line.startswith("step "):
                    break
            for _ in range(dice.randrange(5)):
                process.stdout.readline()
            time.sleep(dice.uniform(0, 0.02))  # in a step, an evaluation, or a save
        orphans += workers(process)
        assert process.poll() is None, process.stderr.read()  # it was not done yet
        process.kill()
        process.communicate()
    assert begun == sorted(begun)
    assert begun[-1] > kills  # something was done in most of its lives
    assert gone(orphans)
    assert len(list(run.glob(".*"))) <= 2  # what it was writing
    done = script("train.py", *flags, "--out", run.name, "--resume")
    assert done.returncode == 0, done.stderr
    check_same(run, tmp_path / "whole")
    assert {path.name for path in run.iterdir()} == {
        "best.safetensors", "last.safetensors", "config.json", "metrics.jsonl", "loss.png"
    }  # fmt: skip


# -------------------------------------------------------------------------------------- signals


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_saves_and_leaves_with_its_status(script, text_file, tiny, tmp_path, name):
    flags = [*CORPUS, *tiny, "--eval-interval", 20, "--max-iters", 100_000, "--processes", 2]
    process = script("train.py", *flags, "--out", "run", start=True)
    wait_for_step(tmp_path / "run", 20, process)
    team = workers(process)
    for pid in (*team, process.pid):  # as a shutdown does: all of them
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, getattr(signal, name))
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + getattr(signal, name)
    assert err.startswith("stopped at step ")
    assert err.count("\n") == 1
    assert len(team) == 2  # a worker, and multiprocessing's own
    assert gone(team)
    assert int(err.split()[3].strip(",")) >= 40


def test_a_second_ctrl_c_destroys_nothing(script, text_file, tiny, tmp_path):
    flags = [*CORPUS, *tiny, "--eval-interval", 20, "--max-iters", 100_000]
    process = script("train.py", *flags, "--out", "run", start=True)
    wait_for_step(tmp_path / "run", 20, process)
    for _ in range(20):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        time.sleep(0.003)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    step = int(err.split("stopped at step ")[1].split(",")[0]) if err else 0
    done = script("train.py", "--resume", "--out", "run", "--max-iters", max(step, 41))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_ctrl_c_at_any_moment_of_the_start(script, text_file, tiny, tmp_path):
    flags = [*CORPUS, *tiny, "--max-iters", 100_000, "--processes", 2]
    for i in range(5):
        process = script("train.py", *flags, "--out", f"run{i}", start=True)
        while not (tmp_path / f"run{i}").exists() and process.poll() is None:
            time.sleep(0.001)
        time.sleep(0.08 * i)
        for pid in (*workers(process), process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", ["", "1"])  # what could not be written may wait in a buffer
@pytest.mark.parametrize(("steps", "status"), [(100_000, 129), (1000, 0)])
def test_a_terminal_that_is_closed(text_file, tiny, tmp_path, steps, status, unbuffered):
    flags = [*CORPUS, *tiny, "--eval-interval", 20, "--max-iters", steps]
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": unbuffered
    }  # fmt: skip
    command = [sys.executable, str(Path(__file__).parents[2] / "train.py"), "--out", "run"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*command, *map(str, flags)], cwd=tmp_path, env=environment, start_new_session=True,
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    process.poll()
    wait_for_step(tmp_path / "run", 20, process)
    os.close(ours)  # from here on writing to the terminal is an error
    time.sleep(0.1)
    assert process.poll() is None
    if status:
        process.send_signal(signal.SIGHUP)  # what a controlling terminal would send
    assert process.wait(30) == status
    metadata = safetensors.safe_open(tmp_path / "run" / "last.safetensors", "numpy").metadata()
    step = json.loads(metadata["gpt"])["step"]
    assert step > 40 if status else step == steps


# --------------------------------------------------------------------------- a disk that is full


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where the commands, whose fixture comes after this one, find the temporary directory."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    return path


def limit(process, size):
    """Files of this process may not become larger: the next write says EFBIG."""
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def read_until(stream, text):
    """Lines up to the one with `text`."""
    lines = []
    for line in stream:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(lines)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux")
def test_a_full_disk_does_not_end_the_run(script, text_file, tiny, tmp_path):
    run = tmp_path / "run"
    flags = [*CORPUS, *tiny, "--eval-interval", 50, "--max-iters", 100_000, "--out", "run"]
    process = script("train.py", *flags, start=True)
    wait_for_step(run, 50, process)
    limit(process, 3000)  # neither checkpoint fits, nor soon metrics.jsonl
    told = read_until(process.stderr, "last.safetensors")[-1]
    kept = (run / "last.safetensors").read_bytes()
    assert os.strerror(errno.EFBIG) in told
    assert "the older one stays" in told
    read_until(process.stderr, "metrics.jsonl")
    assert (run / "last.safetensors").read_bytes() == kept
    assert not (run / ".last.safetensors.unfinished").exists()
    limit(process, resource.RLIM_INFINITY)
    read_until(process.stdout, "step 100:")
    deadline = time.monotonic() + 30
    while (run / "last.safetensors").read_bytes() == kept and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    steps = [report["step"] for report in reports(run)]
    assert steps == list(range(0, 50 * len(steps), 50))  # none lost, none torn
    done = script("train.py", "--resume", "--out", "run", "--max-iters", steps[-1] + 200)
    assert done.returncode == 0, done.stderr
    assert [r["step"] for r in reports(run)][: len(steps)] == steps


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux")
@pytest.mark.parametrize("ending", ["max_iters", "SIGTERM"])
def test_a_disk_that_is_full_in_the_end(temporary, script, text_file, tiny, tmp_path, ending):
    run = tmp_path / "run"
    flags = [*CORPUS, *tiny, "--eval-interval", 500, "--max-iters", 500, "--out", "run"]
    if ending == "SIGTERM":
        flags[-3] = 100_000
    process = script("train.py", *flags, start=True)
    read_until(process.stdout, "step 0:")
    limit(process, 10)
    if ending == "SIGTERM":
        process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    last = err.splitlines()[-1]
    assert last.startswith("error: step ")
    assert "is lost: cannot write run/last.safetensors: File too large; cannot write " in last
    assert last.endswith("an older checkpoint is there")
    assert "Traceback" not in err
    assert tensors(run)
    assert not list(temporary.glob("train-*"))


@pytest.mark.slow
def test_saved_elsewhere_where_the_run_takes_no_more(temporary, script, text_file, tiny, tmp_path):
    run = tmp_path / "run"
    flags = [*CORPUS, *tiny, "--max-iters", 300, "--eval-interval", 300, "--out", "run"]
    process = script("train.py", *flags, start=True)
    read_until(process.stdout, "step 0:")
    for name in ("last", "best"):  # where the next save begins to write, there is a directory
        (run / f".{name}.safetensors.unfinished").mkdir(exist_ok=True)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    (saved,) = temporary.glob("train-*-last.safetensors")
    assert err.splitlines()[-1] == f"error: run takes no more; step 300 is in {saved}"
    assert json.loads(safetensors.safe_open(saved, "numpy").metadata()["gpt"])["step"] == 300


@pytest.mark.slow
def test_a_log_on_a_full_disk_is_no_reason_to_stop(script, text_file, tiny, tmp_path):
    program = Path(__file__).parents[2] / "train.py"
    command = [sys.executable, program, *CORPUS, *tiny, "--max-iters", 4, "--out", "run"]
    environment = os.environ | {"PYTHONPATH": str(program.parent)}
    with open("/dev/full", "w") as full:
        subprocess.run(
            [*map(str, command)], cwd=tmp_path, env=environment, check=False, timeout=60,
            stdout=full, stderr=full,
        )  # fmt: skip
    assert [report["step"] for report in reports(tmp_path / "run")] == [0, 4, 4]
    assert tensors(tmp_path / "run")


# ------------------------------------------------------------------------------ damage, and --out


@pytest.fixture
def trained(script, text_file, tiny, tmp_path):
    """train(…) with the flags of a run in runs/1, which is trained already."""

    def train(*arguments):
        return script("train.py", *CORPUS, *tiny, "--max-iters", 4, *arguments)

    done = train()
    assert done.returncode == 0, done.stderr
    return train


def damage(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_the_other_offered(trained, script, tmp_path):
    last, best = (tmp_path / "runs" / "1" / f"{name}.safetensors" for name in ("last", "best"))
    whole = last.read_bytes()
    damage(last)
    init = "runs/1/best.safetensors of step 4 is whole: train.py --init-from runs/1/best.safe"
    check_mistake(trained("--resume"), "last.safetensors is damaged", init)
    check_mistake(script("sample.py", "--checkpoint", "runs/1/last.safetensors"), "damaged", init)
    last.write_bytes(whole[:-7])
    check_mistake(trained("--resume"), "last.safetensors is truncated", init)

    last.write_bytes(whole)
    damage(best)
    other = "runs/1/last.safetensors of step 4 is whole: sample.py --checkpoint runs/1/last.safe"
    check_mistake(script("sample.py"), "best.safetensors is damaged", other)
    assert script("sample.py", "--checkpoint", "runs/1/last.safetensors").returncode == 0
    on = trained("--resume", "--max-iters", 6)
    assert on.returncode == 0, on.stderr
    assert "best.safetensors cannot be read; the next evaluation writes it anew" in on.stderr
    assert script("sample.py").returncode == 0

    damage(last)
    damage(best)
    check_mistake(script("sample.py"), "best.safetensors is damaged", "train anew")


@pytest.mark.slow
def test_a_run_is_overwritten_only_when_told(trained, script, tmp_path):
    run = tmp_path / "runs" / "1"
    (run / "notes.txt").write_text("mine")
    (run / "report.html").write_text("of the old run")
    before = {path: path.read_bytes() for path in run.iterdir()}
    check_mistake(trained("--out", run), "holds a run already", "--resume", "--overwrite")
    check_mistake(trained("--out", run, "--overwrite", "--resume"), "choose one")
    elsewhere = script("train.py", "--out", run, "--overwrite", "--data", "nothing")
    check_mistake(elsewhere, "nothing")
    check_mistake(trained("--out", run, "--overwrite", "--n-embd", 10**9), "memory")
    assert {path: path.read_bytes() for path in run.iterdir()} == before
    done = trained("--out", run, "--overwrite", "--seed", 2, "--max-iters", 5)
    assert done.returncode == 0, done.stderr
    assert (run / "notes.txt").read_text() == "mine"
    assert not (run / "report.html").exists()
    assert [report["step"] for report in reports(run)] == [0, 5, 5]
    assert json.loads((run / "config.json").read_text())["overwrite"] is False
    assert trained("--out", run, "--resume", "--max-iters", 6).returncode == 0


@pytest.mark.slow
def test_what_may_change_when_a_run_goes_on(trained):
    check_mistake(
        trained("--resume", "--n-layer", 2, "--no-bias"),
        "--n-layer was 1, is 2 now, --bias was True, is False now", "--out",
    )  # fmt: skip
    free = {"max_iters": 6, "learning_rate": 0.002, "eval_interval": 2, "batch_size": 3,
            "dropout": 0.1, "grad_clip": 0.5, "seed": 5}  # fmt: skip
    flags = [part for name, value in free.items() for part in (f"--{name}", value)]
    done = trained("--resume", "--device", "cpu", "--processes", 2, *flags)
    assert done.returncode == 0, done.stderr
    assert "from here on: " in done.stderr
    assert "--learning-rate was 0.001, is 0.002 now" in done.stderr
    assert trained("--resume", *flags, "--max-iters", 7).stderr.count("was") == 1


@pytest.mark.slow
def test_two_runs_at_once_in_one_place(script, text_file, tiny, tmp_path):
    flags = [*CORPUS, *tiny, "--max-iters", 100_000, "--eval-interval", 20, "--out", "run"]
    process = script("train.py", *flags, start=True)
    wait_for_step(tmp_path / "run", 0, process)
    for flag in ("--resume", "--overwrite"):
        check_mistake(script("train.py", *flags, flag), "another process is training in run")
    process.kill()
    process.communicate()
    done = script("train.py", *flags, "--resume", "--max-iters", 1)  # it may try, at least
    check_mistake(done, "at step")


# ------------------------------------------------------------------------------------ divergence


@pytest.mark.slow
def test_a_run_that_diverges_stops_with_its_last_checkpoint(script, text_file, tiny, tmp_path):
    flags = [*CORPUS, *tiny, "--learning-rate", 1e12, "--warmup-iters", 0, "--grad-clip", 0]
    done = script("train.py", *flags, "--max-iters", 300, "--out", "run")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "10 steps in a row were skipped" in done.stderr
    assert "--resume --out run --learning-rate 1e+11 --grad-clip 1 goes on" in done.stderr
    on = script("train.py", *CORPUS, "--max-iters", 5, "--resume", "--out", "run",
                "--learning-rate", 1e-3, "--grad-clip", 1)  # fmt: skip
    assert on.returncode == 0, on.stderr
