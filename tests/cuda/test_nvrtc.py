"""Every kernel compiles with NVIDIA's own compiler, for every GPU that it is meant for.

NVRTC needs neither a GPU nor a driver: pip install cupy-cuda13x nvidia-cuda-nvrtc
nvidia-cuda-runtime ml_dtypes. CI runs this file in a virtual environment that has nothing else.
"""

from pathlib import Path

import pytest

pytest.importorskip("cupy", reason="CuPy is not installed")
compiler = pytest.importorskip("cupy.cuda.compiler", reason="this CuPy is a stand-in")
core = pytest.importorskip("cupy._core.core")
try:
    OPTIONS = core.assemble_cupy_compiler_options(("--std=c++17",))
    compiler.nvrtc.getVersion()
except (RuntimeError, ImportError, OSError) as error:
    pytest.skip(f"no NVRTC, or no headers for it: {error}", allow_module_level=True)

SOURCES = Path(__file__).parents[2] / "tensorlib" / "kernels" / "cuda"
SCALARS = ("float", "__half", "__nv_bfloat16")
TURING, AMPERE, HOPPER = "sm_75", "sm_80", "sm_90"
ARCHITECTURES = (TURING, AMPERE, HOPPER, "sm_90a")


def _variants():
    """Each file with the types that it is compiled for, and head sizes where they matter."""
    for source in sorted(SOURCES.glob("*.cu")):
        if source.name == "attention.cu":  # on tensor cores, which know 16 bits
            for size in (64, 128):
                yield from ((source, s, (f"-DHS={size}",)) for s in SCALARS[1:])
        else:
            yield from ((source, s, ()) for s in SCALARS)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("source", "scalar", "options"),
    [pytest.param(*v, id="-".join([v[0].stem, v[1], *v[2]])) for v in _variants()],
)
def test_it_compiles(source, scalar, options, architecture):
    code = source.read_text()
    if "mma.cuh" in code and architecture == TURING:
        pytest.skip("its tensor cores lack these instructions: the plain form of attention runs")
    for header in SOURCES.glob("*.cuh"):
        code = code.replace(f'#include "{header.name}"', header.read_text())
    program = compiler._NVRTCProgram(code, source.name, method="cubin")
    options = (*OPTIONS, *options, f"-Dscalar={scalar}", f"-arch={architecture}")
    machine_code, _ = program.compile(options)
    assert machine_code
