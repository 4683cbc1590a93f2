"""One thread for each process (the same sums in the same order, and no more threads than cores),
and the profiles of hypothesis.

`HYPOTHESIS_PROFILE=explore python -m pytest tests/test_properties.py` looks for new
counterexamples; the default draws the same programs every time.

`python -m pytest --device cuda` has the tests of tensorlib, and of the model, compute on a GPU,
with `--kernels fused` by the fused kernels. Without a GPU, `--device cuda-emulated` does so on a
stand-in for CuPy (`cuda/fake_cupy.py`), and `--device cuda-on-cpu` by CuPy itself, on a driver that
plays a GPU (`cuda/cupy_on_cpu.py`). A test that has made no array there counts as skipped, and what
`mark.cpu` says is about the CPU is skipped with its reason: what passes has passed on that device.

`python -m pytest --nvrtc tests/cuda/test_kernels.py tests/cuda/test_flash.py` has the emulator run
what NVIDIA's compiler makes of our kernels (`cuda/ptx.py`), instead of what g++ does.
"""

import contextlib
import gc
import os
from pathlib import Path

import cupy_on_cpu
import emulator
import fake_cupy
import harness
import ptx
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
    devices = ("cpu", "cuda", "cuda-emulated", "cuda-on-cpu")
    parser.addoption("--device", choices=devices, default="cpu", help="where tensorlib computes")
    parser.addoption("--kernels", choices=("plain", "fused"), default="plain", help="on a GPU")
    parser.addoption("--nvrtc", action="store_true", help="run what NVIDIA makes of our kernels")
    parser.addoption("--fuzz", type=int, default=800, help="damaged inputs for each reader")


def pytest_configure(config):
    name = config.getoption("--device")
    if config.getoption("--nvrtc"):
        if reason := ptx.missing():
            raise pytest.UsageError(f"--nvrtc: {reason}")
        emulator.library = ptx.library
    if name == "cuda-emulated":
        fake_cupy.install()
    if name == "cuda-on-cpu":
        if reason := cupy_on_cpu.missing():
            raise pytest.UsageError(f"--device cuda-on-cpu: {reason}")
        cupy_on_cpu.install()
    harness.device = name.partition("-")[0]


def pytest_collection_finish():
    gc.freeze()  # modules and tests stay: no need to look through them again and again


@pytest.fixture(autouse=True)
def _unprepared():
    """What `gpt.fast.machine.prepare` does to a process that trains ends with the test."""
    yield
    if not gc.isenabled():
        gc.enable()
        threadpool_limits(1, "blas")


@pytest.fixture
def there():
    """With --device, `tensorlib.zeros` and its like make their tensors there, as do all modules."""
    with contextlib.nullcontext() if harness.device == "cpu" else harness.tensors_made_there():
        yield


@pytest.fixture(autouse=True)
def _device(request):
    """With --device, the tests of tensorlib are `there`; others ask for it, or say where."""
    use_fused(request.config.getoption("--kernels") == "fused")  # whatever a test before has said
    if harness.device == "cpu":
        yield
        return
    with allocations() as request.node.allocated:
        if folder(request.node) not in ("cuda", "gpt", "lessons"):
            request.getfixturevalue("there")
        yield
        harness.tensorlib.cuda.synchronize()  # which tells of an index that was out of range


def folder(item):
    """The folder of tests/ in which a test is, or its file."""
    return item.path.relative_to(Path(__file__).parent).parts[0]


def allocations():
    """A context in which the sizes of all arrays that are made on the device go into a list."""
    import cupy

    class Hook(cupy.cuda.MemoryHook):
        name = "allocations"

        def __enter__(self):
            super().__enter__()
            self.sizes = []
            return self.sizes

        def malloc_postprocess(self, **malloc):
            self.sizes.append(malloc["size"])

    return Hook()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A test that has made no array on the device has shown nothing of it: it counts as skipped."""
    report = yield
    tells = harness.device != "cpu" and folder(item) != "cuda"
    if tells and call.when == "call" and report.passed and not item.allocated:
        report.outcome = "skipped"
        report.longrepr = (str(item.path), item.location[1], "Skipped: made no array on the device")
    return report


def pytest_collection_modifyitems(config, items):
    if harness.device != "cpu":
        for item in items:
            if mark := item.get_closest_marker("cpu"):
                item.add_marker(pytest.mark.skip(reason=f"about the CPU: {mark.args[0]}"))
