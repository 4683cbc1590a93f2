"""One thread for each process (the same sums in the same order, and no more threads than cores),
and the profiles of hypothesis.

`HYPOTHESIS_PROFILE=explore python -m pytest tests/test_properties.py` looks for new
counterexamples; the default draws the same programs every time.

`python -m pytest --device cuda` computes on a GPU what `harness.check` checks, with `--kernels
fused` by the fused kernels; `--device cuda-emulated` does so on `cuda/fake_cupy.py`, without a GPU.
"""

import gc
import os
from pathlib import Path

import fake_cupy
import harness
import pytest
import torch
from hypothesis import HealthCheck, settings
from threadpoolctl import threadpool_limits

from tensorlib.kernels import use_fused

torch.set_num_threads(1)
threadpool_limits(1, "blas")
os.environ["OMP_NUM_THREADS"] = "1"  # the same for the commands that tests start,
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # which start sooner from compiled files

quiet = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("default", derandomize=True, max_examples=150, **quiet)
settings.register_profile("explore", max_examples=2000, **quiet)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_addoption(parser):
    devices = ("cpu", "cuda", "cuda-emulated")
    parser.addoption("--device", choices=devices, default="cpu", help="where tensorlib computes")
    parser.addoption("--kernels", choices=("plain", "fused"), default="plain", help="on a GPU")
    parser.addoption("--fuzz", type=int, default=800, help="damaged inputs for each reader")


def pytest_configure(config):
    name = config.getoption("--device")
    if name == "cuda-emulated":
        fake_cupy.install()
    harness.device = name.removesuffix("-emulated")
    if config.getoption("--kernels") == "fused":
        use_fused()


def pytest_collection_finish():
    gc.freeze()  # modules and tests stay: no need to look through them again and again


@pytest.fixture(autouse=True)
def _unprepared():
    """What `gpt.fast.machine.prepare` does to a process that trains ends with the test."""
    yield
    if not gc.isenabled():
        gc.enable()
        threadpool_limits(1, "blas")


@pytest.fixture(autouse=True)
def _there(request):
    """With --device, tests of tensorlib make their tensors there; others say where they compute."""
    folder = request.path.relative_to(Path(__file__).parent).parts[0]
    if harness.device == "cpu" or folder in ("cuda", "gpt", "lessons"):
        yield
    else:
        with harness.tensors_made_there():
            yield


def pytest_collection_modifyitems(config, items):
    if harness.device != "cpu":
        skip = pytest.mark.skip(reason="this is about the CPU, and the tests run on a GPU")
        for item in items:
            if item.get_closest_marker("cpu"):
                item.add_marker(skip)
