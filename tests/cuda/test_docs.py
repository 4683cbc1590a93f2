"""The kernels that docs/cuda.md shows are run: they compute what it says."""

import re
from pathlib import Path

import emulator
import numpy as np
import pytest
from emulator import guarded

from tensorlib.kernels import cpu

pytestmark = pytest.mark.skipif(emulator.missing is not None, reason=str(emulator.missing))

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "tensorlib" / "kernels" / "cuda"
CODE = re.findall(r"```c\+\+\n(.*?)```", (ROOT / "docs" / "cuda.md").read_text(), re.DOTALL)


@pytest.mark.parametrize(("version", "block"), [(1, (256,)), (2, (32, 8))])
def test_both_first_versions_of_layer_norm(version, block):
    kernel = emulator.Module(CODE[version], (), SOURCES).get_function("layer_norm")
    rng = np.random.default_rng(0)
    x, weight, bias, y = (guarded(shape, np.float32) for shape in [(11, 70), 70, 70, (11, 70)])
    for array in (x, weight, bias):
        array[...] = rng.normal(size=array.shape)
    numbers = np.float32(1e-5), np.int32(11), np.int32(70)
    kernel((2,), block, (x, weight, bias, y, *numbers))
    np.testing.assert_allclose(y, cpu.layer_norm(x, weight, bias, 1e-5)[0], atol=1e-6)


def test_the_first_kernel():
    code = "typedef long long int64;\n" + CODE[0]
    x, y = guarded(1000, np.float32), guarded(1000, np.float32)
    x[:] = np.arange(1000)
    kernel = emulator.Module(code, (), SOURCES).get_function("double_it")
    kernel((4,), (256,), (x, y, np.int64(1000)))
    np.testing.assert_array_equal(y, 2 * x)


def test_the_third_version_is_the_one_that_runs():
    assert CODE[3] in (SOURCES / "common.cuh").read_text()
