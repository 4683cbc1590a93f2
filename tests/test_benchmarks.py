"""The benchmark measures what it says: the same model, real processes, ratios of what they took.

No test asserts a time.
"""

import dataclasses
import os
import re
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import emulator
import fake_cupy
import numpy as np
import pytest
import torch
from harness import to_array

import tensorlib
from benchmarks import __main__ as benchmarks
from benchmarks import contest, gpu_tables, limit, pytorch_gpt, report, roofline, worker
from benchmarks import gpu as gpu_worker
from gpt.commands.job import train
from gpt.config import GPTConfig, TrainConfig, UserError
from gpt.model import GPT

TINY = TrainConfig(
    batch_size=2, model=GPTConfig(block_size=8, n_layer=2, n_head=2, n_embd=8, dropout=0.1)
)
emulated = pytest.mark.skipif(emulator.missing is not None, reason=str(emulator.missing))
linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """measured(what) runs the benchmark at a tiny size: its Markdown, and the times behind it."""
    for size in benchmarks.SIZES:
        monkeypatch.setitem(benchmarks.SIZES, size, TINY)
    record = []

    def recording(jobs, blocks, seconds):
        record.append(contest.alternate(jobs, blocks, seconds))
        return record[-1]

    monkeypatch.setattr(benchmarks, "alternate", recording)

    def measured(what, **options):
        out = tmp_path / "RESULTS.md"
        settings = {"size": ("notebook",), "threads": (1,), "blocks": 2, "seconds": 0.0}
        benchmarks.run(benchmarks.Benchmark(what=what, out=out, **settings | options))
        return out.read_text(encoding="utf-8"), record

    return measured


class InThisProcess:
    """What `contest.Worker` is, where PyTorch has been imported already."""

    def __init__(self, job):
        self.job = contest.Job.from_json(job.to_json())

    def prepare(self):
        self.measure = worker.TASKS[self.job.task](self.job)

    def stop(self):
        pass


def rows(text):
    """The cells of a Markdown text's tables, by row."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def test_a_training_step_beside_pytorch(measured, monkeypatch, capsys):
    monkeypatch.setattr(contest, "Worker", InThisProcess)
    monkeypatch.delitem(benchmarks.BASELINES, "compile")  # it takes a while
    text, record = measured("step")
    assert text.startswith("# Ours beside PyTorch\n")
    assert f"PyTorch {torch.__version__.partition('+')[0]}" in text  # as pip lists it
    assert text.partition("## ")[2].strip() in capsys.readouterr().out

    (times,) = record
    assert {who: len(t.blocks) for who, t in times.items()} == dict.fromkeys(times, 2)
    assert set(times) == {"ours", "heads", "sdpa", "numpy"}
    table = {row[2]: row[3:] for row in rows(text) if row[:2] == ["notebook", "1"]}
    for who, name in benchmarks.BASELINES.items():
        ours, theirs = times["ours"].blocks, times[who].blocks
        expected = [statistics.median(a) / statistics.median(b) for a, b in zip(ours, theirs)]
        ratio, least, most = map(float, re.findall(r"[\d.]+", table[name][1]))
        assert ratio == pytest.approx(statistics.median(expected), rel=0.01)
        assert (least, most) == pytest.approx((min(expected), max(expected)), rel=0.01)
        middle = statistics.median([step for block in theirs for step in block])
        assert float(table[name][0]) == pytest.approx(1e3 * middle, rel=0.01)

    step, alone, _, share, causal = (float(cell.strip("%")) for cell in rows(text)[-1][2:])
    best = sum(map(min, zip(*times["numpy"].blocks)))
    assert step == pytest.approx(1e3 * times["ours"].median, rel=0.01)
    assert alone == pytest.approx(1e3 * best, rel=0.01)
    assert share == pytest.approx(100 * alone / step, abs=1)
    assert causal <= share


def test_the_fastest_and_the_median_are_of_all_turns():
    times = contest.Times([[5.0, 1.0], [2.0, 9.0, 3.0]])
    assert (times.fastest, times.median) == (1.0, 3.0)


@pytest.mark.parametrize("what", ["step", "ops", "sampling", "tape", "growth"])
def test_every_size_operation_and_baseline(measured, monkeypatch, what):
    monkeypatch.setattr(contest, "Worker", InThisProcess)
    trace = partial(torch.compile, backend="eager")  # as a graph, without the C++ made from it
    monkeypatch.setattr(torch, "compile", lambda model, mode: trace(model))
    text, record = measured(what, size=("notebook", "video"))
    table = [row[0] for row in rows(text)]
    expected = {
        "step": dict.fromkeys(("notebook", "video"), 4 + 1),  # the limit in a table of its own
        "ops": dict.fromkeys(benchmarks.get_args(benchmarks.Op), 2),
        "growth": dict.fromkeys(benchmarks.GROWTH, 2),
    }
    for name, n in expected.get(what, {}).items():
        assert table.count(name) == n
    assert {len(times.blocks) for found in record for times in found.values()} == {2}


@pytest.mark.slow
@linux
def test_the_whole_command(measured, monkeypatch):
    """Each section, with processes of its own."""
    monkeypatch.delitem(benchmarks.BASELINES, "compile")  # it takes a minute
    monkeypatch.setattr(benchmarks, "GROWTH", ("layers",))
    text, record = measured("all", size=("video",), op=("layer_norm",))
    titles = re.findall("^## (.*)", text, re.MULTILINE)
    assert titles == [title for title, _ in benchmarks.SECTIONS.values()]
    assert [row[0] for row in rows(text)].count("video, batch 8") == 3
    assert {t.failure for times in record for t in times.values()} == {""}
    peaks = [t.blocks[0] for times in record if len(times) == 1 for t in times.values()]
    assert len(peaks) == 2 * 3
    assert all(0 < peak < 2**32 for (peak,) in peaks)


CUPY = """
import sys
import fake_cupy

class Launches(type(fake_cupy.count.launches)):
    def __setitem__(self, name, n):
        if torch := sys.modules.get("torch"):  # whose profiler may be listening
            for _ in range(n - self[name]):
                with torch.profiler.record_function("cuLaunchKernel"):
                    pass
        super().__setitem__(name, n)

fake_cupy.count.launches = Launches()
fake_cupy.install()
"""


@pytest.fixture
def gpu(measured, monkeypatch, tmp_path):
    """gpu(what) runs the benchmark on the stand-in for CuPy, PyTorch beside it on the CPU: its
    Markdown, and the times behind it."""
    (tmp_path / "cupy.py").write_text(CUPY)
    path = [str(tmp_path), str(Path(__file__).parent / "cuda"), *sys.path]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.setattr(gpu_tables, "THEIR_DEVICE", "cpu")
    names = (*gpu_tables.OURS, *gpu_tables.EAGER)  # what is compiled takes a while
    monkeypatch.setattr(gpu_tables.contenders, "__defaults__", (names,))
    with fake_cupy.installed():
        yield lambda what, **options: measured(what, device="gpu", threads=(), **options)


@pytest.mark.slow
@emulated
def test_a_training_step_on_a_gpu(gpu):
    text, (times,) = gpu("step")
    assert "## On a GPU: a training step" in text
    assert "a stand-in for a GPU, CUDA 13.0, CuPy 14.2.0; " in text
    assert {who: t.failure for who, t in times.items()} == dict.fromkeys(times, "")
    assert {"ours, plain", "ours, fused", *gpu_tables.EAGER} <= times.keys()
    header, _, *table = rows(text)
    (theirs,) = (row for row in table if row[1] == "PyTorch, bfloat16")
    for name in ("ours, plain", "ours, fused"):
        pairs = zip(times[name].blocks, times["PyTorch, bfloat16"].blocks)
        expected = statistics.median(statistics.median(a) / statistics.median(b) for a, b in pairs)
        ratio = float(theirs[header.index(f"{name} / this")].split()[0])
        assert ratio == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
@emulated
def test_launches_on_a_gpu(gpu, monkeypatch):
    names = ("ours, plain", "ours, fused", "PyTorch, bfloat16")
    monkeypatch.setattr(gpu_tables.contenders, "__defaults__", (names,))
    text, record = gpu("launches")
    counted = {who: t.blocks for times in record for who, t in times.items()}
    for kernels in ("plain", "fused"):
        config = dataclasses.replace(TINY, kernels=kernels)
        step = worker.training_step(contest.Job("step", "ours", config, 1, device="cuda"))
        for _ in range(5):
            step()
        before = fake_cupy.count.launches.total()
        step()
        assert counted[f"ours, {kernels}"] == [[fake_cupy.count.launches.total() - before]]
    assert [row[1] for row in rows(text)[2:]] == list(names)


@emulated
def test_kernels_beside_their_limit(gpu):
    text, record = gpu("kernels")
    times = record[0]["ours"]
    assert not times.failure
    table = {row[0]: row[1:] for row in rows(text)[2:]}
    assert list(table) == list(roofline.NAMES)
    N, C = 2 * 8, 8
    sizes = dict(zip(roofline.NAMES, times.blocks[0][::3]))
    assert sizes["gelu"] == 2 * N * 4 * C * 2  # read and written
    assert sizes["layer_norm"] == 3 * N * C * 2 + 2 * C * 2 + N * 4
    assert sizes["adam"] == 7 * 4 * (24 * C * C + 65 * C)
    for name, (_, took, least, share) in table.items():
        i = roofline.NAMES.index(name)
        best = [min(turn[3 * i + j] for turn in times.blocks) for j in (1, 2)]
        assert float(took) == pytest.approx(1e6 * best[0], rel=0.01, abs=0.1)
        assert float(least) == pytest.approx(1e6 * best[1], rel=0.01, abs=0.1)
        assert float(share.strip("%")) == pytest.approx(100 * best[1] / best[0], abs=1)


@pytest.mark.slow
@emulated
def test_the_recipe_on_a_gpu(gpu, monkeypatch, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    model = dataclasses.replace(TINY.model, n_layer=1)
    short = dataclasses.replace(TINY, model=model, max_iters=6, eval_interval=3, eval_iters=1)
    monkeypatch.setitem(gpu_tables.PRESETS, "video", short)
    markdown, record = gpu("recipe", data=text)
    here = dataclasses.replace(short, data=text, out=tmp_path / "here")
    expected = train(here).reports()[-1]
    losses = {}
    for ((who, times),) in (r.items() for r in record):
        seconds, step, losses[who] = times.blocks[0]
        assert step == expected["best_step"]
        assert seconds > 0
    exact = [loss for who, loss in losses.items() if "bfloat16" not in who]
    rounded = [loss for who, loss in losses.items() if "bfloat16" in who]
    assert exact == pytest.approx([expected["full_val_loss"]] * 2)
    assert rounded[0] == rounded[1]  # eager, and by a graph
    assert rounded == pytest.approx(exact, rel=1e-5)  # bfloat16 has 8 bits
    assert f"{expected['full_val_loss']:.4f}" in markdown


@pytest.mark.slow
@emulated
def test_sampling_on_a_gpu(gpu):
    text, (times,) = gpu("sampling")
    assert not any(t.failure for t in times.values())
    assert [row[0] for row in rows(text)[2:]] == list(times)


def test_memory_is_what_was_in_use_at_once():
    """Two arrays of which one is given back are never more than both."""
    with fake_cupy.installed():
        before = fake_cupy.memory.used

        def work():
            for _ in range(3):
                fake_cupy.cupy.zeros(1000, np.uint8) + fake_cupy.cupy.zeros(1000, np.uint8)

        job = contest.Job("memory", "ours", TINY, 1, device="cuda")
        assert gpu_worker.peak(job, work)(0.0) == [before + 3000]


def test_without_a_gpu_there_is_one_line(tmp_path):
    if tensorlib.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, "-m", "benchmarks", "--device", "gpu"]
    repository = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch("error: --device gpu: no GPU .*\n", done.stderr)
    with pytest.raises(UserError, match="what is growth, which is not for --device gpu"):
        benchmarks.Benchmark(what="growth", device="gpu")


def test_a_failure_is_told_and_the_others_go_on():
    jobs = {
        "ours": contest.Job("tape", "ours", TINY, 1),
        "theirs": contest.Job("op", "ours", TINY, 1, "no such operation"),
    }
    times = contest.alternate(jobs, blocks=1, seconds=0)
    assert times["theirs"].failure == "KeyError: 'no such operation'"
    assert (len(times["ours"].blocks), times["theirs"].blocks) == (1, [])
    ours, theirs = report.comparison([], times, {"theirs": "PyTorch"}, str)
    assert ours[0] == "ours"
    assert theirs == ["PyTorch", "—", "KeyError: 'no such operation'"]


def seconds_at_work(pid):
    """Of a process that is still there."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@linux
def test_no_worker_outlives_the_command(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--what", "tape", "--seconds", "100"]
    repository = Path(__file__).parents[1]
    process = subprocess.Popen([*command, "--out", tmp_path / "out.md"], cwd=repository)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(workers := children.read_text().split()) < 1:
        assert process.poll() is None
        time.sleep(0.01)
    while seconds_at_work(workers[0]) < 2:  # in the middle of its measurement
        time.sleep(0.01)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while left := [pid for pid in workers if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


def test_every_operation_is_there_in_both_libraries():
    assert {*worker.operations(TINY), "adamw"} == {*benchmarks.get_args(benchmarks.Op)}


GPT2 = {"activation": "gelu_tanh", "qkv_bias": True, "tied_head": True}


@pytest.mark.parametrize(
    ("attention", "switches"),
    [("CausalSelfAttention", {}), ("MultiHeadAttention", {}), ("CausalSelfAttention", GPT2)],
)
def test_pytorchs_model_is_ours(attention, switches):
    config = dataclasses.replace(TINY.model, dropout=0.0, **switches)
    ours = GPT(config)
    theirs = pytorch_gpt.GPT(config, getattr(pytorch_gpt, attention))
    state = {name: torch.tensor(to_array(p)) for name, p in ours.state_dict().items()}
    if attention == "MultiHeadAttention":
        for i in range(config.n_layer):
            qkv = state.pop(f"h.{i}.attn.c_attn.weight").chunk(3)
            for name, weight in zip(("query", "key", "value"), qkv):
                for head, part in enumerate(weight.chunk(config.n_head)):
                    state[f"h.{i}.attn.heads.{head}.{name}.weight"] = part
                    state[f"h.{i}.attn.heads.{head}.tril"] = torch.ones(8, 8).tril()
    theirs.load_state_dict(state)
    idx = torch.randint(65, (2, 9), generator=torch.Generator().manual_seed(0))
    x, y = idx[:, :-1], idx[:, 1:]
    logits, loss = ours(*(tensorlib.tensor(i.numpy()) for i in (x, y)))
    loss.backward()
    their_loss = theirs(x, y)
    their_loss.backward()
    assert loss.item() == pytest.approx(their_loss.item(), rel=1e-6)
    gradient = torch.tensor(to_array(ours.wte.weight.grad))
    torch.testing.assert_close(gradient, theirs.wte.weight.grad)
    torch.testing.assert_close(torch.tensor(to_array(logits))[:, -1], theirs.eval()(x))
    assert sum(p.numel() for p in theirs.parameters()) == ours.num_parameters()
    assert theirs.generate(x[:, :1], 9).shape == (2, 10)


def test_the_matrix_products_are_those_of_the_step():
    config = dataclasses.replace(benchmarks.SIZES["nanogpt-cpu"], batch_size=3)
    products = limit.linear_products(config) + limit.attention_products(config)
    per_token = GPT(config.model).flops_per_token()
    assert sum(p.flops for p in products) == 3 * config.model.block_size * per_token
    for slices in (False, True):
        times = limit.matmul(TINY, 2, slices)(0.0)
        assert len(times) == len(products)
        assert min(times) > 0


def test_a_section_takes_the_place_of_the_one_it_had(tmp_path):
    path, titles = tmp_path / "RESULTS.md", ["one", "two", "three"]
    for title, text in [("three", "c"), ("one", "a"), ("three", "d\n\n| x |")]:
        report.write(path, titles, title, text)
    assert path.read_text() == f"{report.HEAD}\n## one\n\na\n\n## three\n\nd\n\n| x |\n"


@pytest.mark.parametrize("options", [{"blocks": 0}, {"seconds": -1.0}, {"threads": (10**6,)}])
def test_values_that_cannot_be_measured(options):
    with pytest.raises(UserError, match=rf"^{next(iter(options))} is .*, but must be"):
        benchmarks.Benchmark(**options)


def test_a_mistake_ends_in_one_line():
    command = [sys.executable, "-m", "benchmarks", "--what", "spam"]
    repository = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch("error: invalid choice 'spam'.*--what.*\n", done.stderr)


@pytest.mark.parametrize("out", [".", "nowhere/RESULTS.md"])
def test_a_place_for_results_that_is_none_is_told_before_anything_is_measured(out, tmp_path):
    with pytest.raises(UserError, match=r"^cannot write --out .*: "):
        benchmarks.run(benchmarks.Benchmark(out=tmp_path / out))
