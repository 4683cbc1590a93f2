"""Memory before it is used: the closed form beside what was measured, and what is said of it."""

import dataclasses
import re
import sys
import tracemalloc

import numpy as np
import pytest

from gpt.config import PRESETS, GPTConfig, TrainConfig, UserError
from gpt.data import Corpus
from gpt.fast.parallel import Team
from gpt.model import GPT
from gpt.runs import memory
from gpt.tokenizer import CharTokenizer

SHAPES = [
    GPTConfig(),
    GPTConfig(33, 16, 2, 2, 24, bias=False),
    GPTConfig(100, 8, 3, 1, 16, qkv_bias=True, tied_head=True, activation="gelu"),
    GPTConfig(100, 8, 1, 1, 16, bias=False, tied_head=True),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_parameters_are_counted_without_making_them(shape):
    assert memory.num_parameters(shape) == GPT(shape).num_parameters()


def test_gpt2s_published_size():
    gpt2 = GPTConfig(50257, 1024, 12, 12, 768, qkv_bias=True, tied_head=True)
    assert memory.num_parameters(gpt2) == 124_439_808  # Radford et al. 2019, as Hugging Face has it


WIDE = GPTConfig(65, 64, 4, 4, 64)
STEPS = {
    "relu": TrainConfig(batch_size=16, model=WIDE),
    "gelu": TrainConfig(batch_size=16, model=dataclasses.replace(WIDE, activation="gelu")),
    "tanh": TrainConfig(batch_size=16, model=dataclasses.replace(WIDE, activation="gelu_tanh")),
    "dropout": TrainConfig(batch_size=16, model=dataclasses.replace(WIDE, dropout=0.2)),
    "long context": TrainConfig(
        batch_size=2, model=dataclasses.replace(WIDE, block_size=512, n_layer=2)
    ),
    "large vocabulary": TrainConfig(
        batch_size=16, model=dataclasses.replace(WIDE, vocab_size=4000, n_layer=2)
    ),
    "recomputed": TrainConfig(batch_size=16, model=WIDE, checkpoint_activations=True),
    "accumulated": TrainConfig(batch_size=16, model=WIDE, grad_accum=4),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_allocates_what_the_closed_form_says(name):
    config = STEPS[name]
    tokens = np.zeros(3000, np.uint8)
    team = Team(config, Corpus("", "", CharTokenizer(""), tokens, tokens), GPT(config.model), 1)
    team.gradient(0)
    tracemalloc.start()
    try:
        team.gradient(1)
        measured = tracemalloc.get_traced_memory()[1] / 4
    finally:
        tracemalloc.stop()
    expected = memory.num_parameters(config.model)
    expected += memory._of_step(config, "cpu", config.batch_size)
    assert measured == pytest.approx(expected, rel=0.12)


HIGH_WATER = """
import multiprocessing, os, re
from gpt.commands import cli
from gpt.commands.job import train
from gpt.training import Trainer

def most(process):
    status = open(f"/proc/{process}/status").read()
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status)[1])

if __name__ == "__main__":
    os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])  # no threads that wait for others
    Trainer.finish = lambda self: self.run.plot()  # 500 tokens more would only take time
    train(cli.train_config())
    print("HIGH", sum(map(most, ["self", *(p.pid for p in multiprocessing.active_children())])))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="high-water marks are in /proc")
@pytest.mark.parametrize(
    "flags",
    [
        "--batch-size 64 --block-size 128 --n-layer 4 --processes 1",
        "--batch-size 64 --block-size 128 --n-layer 4 --processes 2",
        "--batch-size 2 --block-size 32 --n-embd 512 --n-layer 4 --processes 1",  # saving counts
    ],
)
def test_a_whole_run_peaks_near_the_estimate(script, text_file, tmp_path, flags):
    (tmp_path / "high.py").write_text(HIGH_WATER)
    text_file.write_text(text_file.read_text() * 10)
    more = ["--data", text_file, "--max-iters", 2, "--eval-interval", 2, "--eval-iters", 1]
    more += ["--device", "cpu"]  # else CuPy, where it is, counts
    done = script(str(tmp_path / "high.py"), *flags.split(), *more)
    assert done.returncode == 0, done.stderr
    measured = int(re.search(r"HIGH (\d+)", done.stdout)[1])
    told = re.search(r"^memory +about ([\d.]+) (MB|GB) of [\d.]+ GB$", done.stdout, re.M)
    expected = float(told[1]) * {"MB": 1e6, "GB": 1e9}[told[2]]
    assert expected == pytest.approx(measured, rel=0.2)


# ------------------------------------------------------------------------------------ what is said


@pytest.fixture
def there(monkeypatch):
    """there(free, all) in GB, whatever this machine has."""

    def have(free, total):
        monkeypatch.setattr(memory, "available", lambda device: (int(free * 1e9), int(total * 1e9)))

    return have


VIDEO = dataclasses.replace(PRESETS["video"], processes=1)


def test_what_fits_is_not_mentioned(there, capsys):
    there(99, 99)
    memory.check(VIDEO, "cpu")
    assert capsys.readouterr() == ("", "")
    needed = memory.estimate(VIDEO) / 1e9
    assert memory.describe(VIDEO, "cpu") == f"about {needed:.1f} GB of 99.0 GB"


def test_what_may_not_fit_is_a_warning(there, capsys):
    there(2, 8)
    memory.check(VIDEO, "cpu")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "2.0 GB are free" in err
    assert "--batch-size 32 (with --grad-accum 2, the same step)" in err


def test_what_cannot_fit_is_refused_with_the_size_that_would(there):
    there(0.9, 1)
    with pytest.raises(UserError, match="--batch-size") as error:
        memory.check(VIDEO, "cpu")
    size = int(re.search(r"--batch-size (\d+)", str(error.value))[1])
    fits = [memory.estimate(dataclasses.replace(VIDEO, batch_size=b)) for b in (size, 2 * size)]
    assert fits[0] <= 0.9e9 < fits[1]
    long = dataclasses.replace(VIDEO.model, block_size=2**16)
    with pytest.raises(UserError, match=r"--batch-size 1 --block-size (\d+)$") as error:
        memory.check(dataclasses.replace(VIDEO, model=long), "cpu")
    with pytest.raises(UserError, match="a smaller --n-embd"):
        memory.check(dataclasses.replace(VIDEO, model=GPTConfig(n_embd=10**9, n_head=1)), "cpu")


def test_a_context_that_fits_if_activations_are_computed_again(there):
    long = dataclasses.replace(VIDEO.model, block_size=4096)
    config = dataclasses.replace(VIDEO, batch_size=1, model=long)
    again = dataclasses.replace(config, checkpoint_activations=True)
    there(memory.estimate(again) / 1e9 + 0.01, memory.estimate(again) / 1e9 + 0.01)
    with pytest.raises(UserError, match=r"take --batch-size 1 --checkpoint-activations$"):
        memory.check(config, "cpu")
    memory.check(again, "cpu")
    memory.check(dataclasses.replace(config, eval_only=True), "cpu")


def test_where_a_system_does_not_say_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: None)
    memory.check(dataclasses.replace(VIDEO, batch_size=10**9), "cpu")
    assert " of " not in memory.describe(VIDEO, "cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_a_container(monkeypatch, tmp_path, version):
    names = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    line = "4:memory:/docker/123\n" if version == 1 else "0::/docker/123\n"
    monkeypatch.setattr(
        memory, "_GROUPS", {"memory" if version == 1 else "": (str(tmp_path), *names)}
    )
    (tmp_path / "cgroup").write_text(line)
    original = memory.Path
    monkeypatch.setattr(
        memory,
        "Path",
        lambda *x: original(tmp_path / "cgroup") if x == ("/proc/self/cgroup",) else original(*x),
    )
    assert memory.available("cpu")[1] > 1e8
    (tmp_path / names[0]).write_text("100000000\n")
    (tmp_path / names[1]).write_text("60000000\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\n{names[2]} 10000000\nfile 7\n")
    assert memory.available("cpu") == (50_000_000, 100_000_000)
    (tmp_path / names[0]).write_text("max\n")
    assert memory.available("cpu")[1] > 1e8


def test_a_run_that_cannot_fit_says_so_at_once(script, text_file, tmp_path):
    done = script("train.py", "--data", text_file, "--batch-size", 10**7)
    assert done.returncode == 2
    assert done.stdout == ""
    needs = r"error: this run needs about [\d,]+ GB of memory, .*: take --batch-size .*\n"
    assert re.fullmatch(needs, done.stderr)
    assert not (tmp_path / "runs").exists()


def test_samples_that_cannot_fit(there):
    model = GPTConfig(50257, block_size=1024, n_layer=12, n_head=12, n_embd=768)
    there(3, 4)  # keys and values of one: 12 * 1024 * 768 * 2 float32, 75 MB
    memory.check_samples(model, 40, "cpu")
    with pytest.raises(UserError, match=r"--num-samples 3\d$"):
        memory.check_samples(model, 60, "cpu")


def test_a_system_without_control_groups(monkeypatch, tmp_path):
    original = memory.Path
    monkeypatch.setattr(
        memory, "Path", lambda x, *y: original(tmp_path if "cgroup" in x else x, *y)
    )
    assert memory.available("cpu")[1] > 1e8
