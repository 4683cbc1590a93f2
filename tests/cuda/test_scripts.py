"""train.py and sample.py with `--device gpu`, run as a user does: with a GPU, or on a stand-in."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cupy_on_cpu
import pytest

pytestmark = pytest.mark.usefixtures("machine")

REPOSITORY = Path(__file__).parents[2]
TEXT = "".join(f"{i} times {i} is {i * i}\n" for i in range(100))
RUNNER = """
import os, runpy, sys
if sys.argv[1] == "stand-in":
    import fake_cupy
    fake_cupy.install()
    fake_cupy.memory.free = float(os.environ.get("GPU_MEMORY", "inf"))
else:
    import cupy_on_cpu
    cupy_on_cpu.install()
    cupy_on_cpu.set_free(int(os.environ.get("GPU_MEMORY", 2**36)))
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def script(machine, tmp_path):
    """script("train.py", …) runs it as a user does, with a GPU or on the stand-in."""
    (tmp_path / "text.txt").write_text(TEXT)
    emulated = machine == "stand-in" or cupy_on_cpu.installed()
    runner = ["-c", RUNNER, machine] if emulated else []
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests" / "cuda"), *sys.path])
    environment = os.environ | {"PYTHONPATH": path}

    def run(name, *arguments, **variables):
        command = [sys.executable, *runner, str(REPOSITORY / name), *map(str, arguments)]
        options = {"capture_output": True, "text": True, "timeout": 300, "check": False}
        return subprocess.run(command, cwd=tmp_path, env=environment | variables, **options)

    return run


SIZE = "--n-layer=1 --n-head=2 --n-embd=16 --block-size=8 --batch-size=2 --eval-iters=1"
TRAIN = [*SIZE.split(), "--data=text.txt", "--eval-interval=4", "--dropout=0.1"]


@pytest.mark.parametrize("kernels", ["plain", "fused"])
def test_train_and_sample(script, tmp_path, kernels, machine):
    if kernels == "fused":
        pytest.importorskip("tensorlib.kernels.gpu")
        emulator = pytest.importorskip("emulator")
        if machine == "stand-in" and emulator.missing:
            pytest.skip(emulator.missing)
    done = script("train.py", "--device=gpu", f"--kernels={kernels}", "--preset=nanogpt-cpu",
                  "--max-iters=8", "--out=run", *TRAIN)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "device      cuda" in done.stdout
    here = script("train.py", "--device=cpu", "--preset=nanogpt-cpu", "--max-iters=8",
                  "--processes=1", "--out=here", *TRAIN)  # fmt: skip
    assert here.returncode == 0, here.stderr
    there, here = (
        [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("run", "here")
    )
    assert [r["step"] for r in there] == [0, 4, 8, 8]
    for report, expected in zip(there, here, strict=True):
        for name in report.keys() & {"train_loss", "val_loss", "full_val_loss"}:
            assert report[name] == pytest.approx(expected[name], abs=1e-4)

    on = script(
        "train.py", "--resume", "--out=run", "--device=cpu", "--kernels=plain", "--max-iters=10"
    )
    assert on.returncode == 0, on.stderr
    texts = [
        script("sample.py", "--checkpoint=run", f"--device={device}", "--max-new-tokens=10")
        for device in ("gpu", "cpu")
    ]
    assert [text.returncode for text in texts] == [0, 0]
    assert texts[0].stdout == texts[1].stdout


@pytest.mark.slow
def test_train_with_a_graph(script, tmp_path, machine):
    emulator = pytest.importorskip("emulator")
    if machine == "stand-in" and emulator.missing:
        pytest.skip(emulator.missing)
    flags = "--device=gpu --kernels=fused --dtype=bfloat16 --preset=nanogpt-cpu --max-iters=12"
    reports = []
    for graph in ("--graph", "--no-graph"):
        done = script(
            "train.py", *flags.split(), graph, *TRAIN, "--n-embd=32", f"--out={graph[2:]}"
        )
        assert done.returncode == 0, done.stderr
        assert "without a CUDA graph" not in done.stderr
        lines = (tmp_path / graph[2:] / "metrics.jsonl").read_text().splitlines()
        times = "time", "ms_per_step", "tokens_per_second"
        reports.append([{k: v for k, v in json.loads(x).items() if k not in times} for x in lines])
    assert reports[0] == reports[1]


def test_out_of_gpu_memory_is_one_line(script, machine):
    if machine != "stand-in" and not cupy_on_cpu.installed():
        pytest.skip("would have to fill the GPU")
    done = script("train.py", "--device=gpu", "--max-iters=3", *TRAIN, GPU_MEMORY="8000")
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: out of GPU memory: 0.00 GB more asked for, 0.00 of 68.72 GB")
    assert line.endswith("take a smaller --batch-size, --block-size or --n-embd")
    assert "Traceback" not in done.stderr
