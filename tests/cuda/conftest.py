"""What "cuda" is in the tests of a GPU: the stand-in for CuPy, and a GPU where there is one, or one
that `cupy_on_cpu.py` plays (`--device cuda-on-cpu`)."""

import sys

import fake_cupy
import harness
import pytest

import tensorlib


@pytest.fixture(params=["stand-in", "GPU"])
def machine(request):
    """What "cuda" is during a test; `harness.check` computes there."""
    with pytest.MonkeyPatch.context() as patch:  # its own: what a test patches is undone before
        patch.setattr(harness, "device", "cuda")
        if request.param == "stand-in":
            with fake_cupy.installed():
                yield request.param
        elif not tensorlib.cuda.is_available() or sys.modules["cupy"] is fake_cupy.cupy:
            pytest.skip("there is no GPU")
        else:
            yield request.param
