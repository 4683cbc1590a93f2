"""`python -m tensorlib.gradcheck`: its table, its options, a user's mistakes."""

import importlib
import subprocess
import sys

import emulator
import fake_cupy
import numpy as np
import pytest
import torch

import tensorlib
from tensorlib.gradcheck import cases

command = importlib.import_module("tensorlib.gradcheck.__main__")
CASES = [case for section in cases.SECTIONS.values() for case in section]


@pytest.mark.slow
def test_the_whole_command_finds_nothing_wrong(capsys):
    assert command.main([]) == 0
    out = capsys.readouterr().out
    assert "0 failed" in out
    assert "GPT, the video's: 3 steps of AdamW" in out
    assert f"PyTorch {torch.__version__}" in out


def test_in_float32(capsys):
    names = [word for case in CASES for word in ("--op", case.name)]
    assert command.main([*names, "--dtype", "float32"]) == 0
    assert "Ours: float32" in capsys.readouterr().out


def test_on_a_gpu(capsys):
    with fake_cupy.installed():
        names = ["softmax", "Linear", "cat", "Tensor.half", "Tensor.cpu", "AdamW", "cross_entropy"]
        assert command.main([w for n in names for w in ("--op", n)] + ["--device", "gpu"]) == 0
    assert "on cuda" in capsys.readouterr().out


@pytest.mark.skipif(emulator.missing is not None, reason=str(emulator.missing))
def test_the_fused_kernels(capsys):
    names = ["layer_norm", "gelu", "embedding", "cross_entropy", "AdamW"]
    with fake_cupy.installed():
        fake_cupy.count.launches.clear()
        flags = ["--device", "gpu", "--dtype", "float32", "--kernels", "fused"]
        assert command.main([w for n in names for w in ("--op", n)] + flags) == 0
    assert "float32 on cuda, by fused kernels" in capsys.readouterr().out
    kernels = {"layer_norm", "layer_norm_backward", "gelu", "embedding", "cross_entropy", "adam"}
    assert kernels <= fake_cupy.count.launches.keys()


def test_without_a_gpu(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    tensorlib.devices._cupy.cache_clear()
    assert command.main(["--device", "gpu"]) == 2
    assert capsys.readouterr().err.startswith("error: --device gpu: no GPU support")


def test_a_name_is_also_that_of_its_layer_and_function(capsys):
    assert command.main(["--op", "softmax", "--op", "nn.Tanh"]) == 0
    out = capsys.readouterr().out
    assert "3 cases" in out
    assert "nn.Tanh" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--op", "sofmax"], "error: there is no 'sofmax' to check; did you mean softmax?"),
        (["softmax"], "error: unknown 'softmax'; did you mean --op softmax?"),
        (["--devise", "cpu"], "error: unknown '--devise'; did you mean --device?"),
        (["--dtype", "float8"], "invalid choice: 'float8'"),
        (["--kernels", "fused"], "error: --kernels fused needs --device gpu --dtype float32"),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, message):
    assert command.main(arguments) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert err.count("\n") == 1
    assert out == ""


def test_markdown(capsys):
    assert command.main(["--op", "mul", "--markdown"]) == 0
    header, rule, differences, pytorch = capsys.readouterr().out.splitlines()[:4]
    assert header.startswith("| case | against |")
    assert {line.count("|") for line in (header, rule, differences, pytorch)} == {10}
    assert differences.startswith("| mul(3×4, 4) | differences |")


def test_without_pytorch_its_recorded_values_take_its_place(monkeypatch, capsys):
    compared = [case for _, case in command.all_cases() if case.theirs is not None]
    live = {case.label: command.PyTorch().results(case) for case in compared}
    monkeypatch.setitem(sys.modules, "torch", None)
    recorded = command.PyTorch().recorded
    assert recorded.keys() == live.keys(), "run python -m tensorlib.gradcheck --record"
    for label, results in live.items():
        assert results.keys() == recorded[label].keys()
        for name, value in results.items():
            np.testing.assert_allclose(recorded[label][name], value, rtol=1e-11, atol=1e-12)
    assert command.main(["--op", "exp"]) == 0
    assert "values recorded from PyTorch 2.13.0, which is not" in capsys.readouterr().out


def test_recording(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "RECORDED", tmp_path / "pytorch.npz")
    monkeypatch.setattr(command, "all_cases", lambda: [("", cases.op("exp", (2,)))])
    assert command.main(["--record"]) == 0
    monkeypatch.setitem(sys.modules, "torch", None)
    assert command.main(["--op", "exp"]) == 0
    monkeypatch.setattr(command, "all_cases", lambda: [("", cases.op("exp", (5,)))])
    assert command.main(["--op", "exp"]) == 1
    assert "nothing recorded" in capsys.readouterr().out
    assert command.main(["--record"]) == 2


def test_without_the_gpt(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gpt.gradcheck", None)
    assert len(command.all_cases()) == len(CASES)
    assert "without the GPT" in capsys.readouterr().err


def test_importing_tensorlib_imports_neither_gpt_nor_pytorch_nor_the_cases():
    code = (
        "import sys, tensorlib; tensorlib.autograd.gradcheck; "
        "sys.exit(any(m in sys.modules for m in ('gpt', 'torch', 'tensorlib.gradcheck.cases')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
