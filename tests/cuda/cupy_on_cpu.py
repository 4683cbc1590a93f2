"""CuPy itself, without a GPU: `install()`, before anything has imported it.

What CuPy calls of CUDA and cuBLAS is played by `driver_on_cpu.cpp`. Kernels, CuPy's as well as
ours, are compiled to PTX by NVIDIA's compiler, and that by `ptx.py` and g++ to what a CPU
understands. Everything between, all that CuPy does and refuses to do, is CuPy's.

This takes Linux, g++, PyTorch's build for CPUs, CuPy, and NVIDIA's compiler with the headers of its
runtime:

    pip install cupy-cuda13x nvidia-cuda-nvrtc nvidia-cuda-runtime              # CUDA 13, or 12:
    pip install cupy-cuda12x nvidia-cuda-nvrtc-cu12 nvidia-cuda-runtime-cu12

`launches()` has the number of launches by name, as `fake_cupy.count.launches`.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import os
import re
import subprocess
import traceback
import types
from collections import Counter
from pathlib import Path
from typing import Any

import emulator
import numpy as np
import ptx
import torch

_HERE = Path(__file__).parent
_driver: Any = None


def missing() -> str | None:
    """Why it cannot be had here, if so."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed"
    if torch.version.cuda:  # its own cuBLAS would be found in place of ours
        return f"PyTorch {torch.__version__} brings CUDA; this takes its build for CPUs"
    return ptx.missing()


def installed() -> bool:
    return _driver is not None


def install() -> None:
    """From now on CuPy finds a GPU."""
    os.environ["CUPY_CACHE_DIR"] = str(emulator.CACHE / "cupy")
    os.environ["CUPY_COMPILE_WITH_PTX"] = "1"
    os.environ["CUPY_ACCELERATORS"] = ""  # no CUB: it comes compiled for GPUs
    spec = importlib.util.find_spec("cupy")
    site = Path(spec.origin).resolve().parents[1]
    _put_driver_under(site / "cupy_backends" / "cuda")

    import cupy

    cupy.cuda.thrust = cupy._core._routines_sorting.thrust = types.SimpleNamespace(
        available=True, sort=_sort, argsort=_argsort
    )


def launches() -> Counter:
    """How often each kernel was launched since `forget()`; a copy on the device is one, too."""
    lines = _driver.on_cpu_launches().decode().splitlines()
    return Counter({name: int(n) for name, n in (line.split("\t") for line in lines)})


def waits() -> int:
    """How often the host waited for the device since `forget()`."""
    return ctypes.c_longlong.in_dll(_driver, "on_cpu_waits").value


def uploads() -> int:
    """How often the host copied to the device since `forget()`."""
    return ctypes.c_longlong.in_dll(_driver, "on_cpu_uploads").value


def forget() -> None:
    """Count from 0."""
    _driver.on_cpu_forget()


def set_free(size: int) -> None:
    """How many bytes of the device's memory can be had."""
    ctypes.c_ulonglong.in_dll(_driver, "on_cpu_free").value = size


# --------------------------------------------------------------------------------- the driver


def _put_driver_under(backends: Path) -> None:
    """Load the driver where CuPy looks for NVIDIA's libraries.

    CUDA's runtime is a part of CuPy's own: a jump to the driver's function of the same name is
    written over the beginning of each.
    """
    global _driver
    (runtime,), (cublas,) = backends.glob("api/runtime.*.so"), backends.glob("libs/cublas.*.so")
    functions = re.findall(r"^(\w+) [tT] (cuda[A-Z]\w+)$", _symbols(runtime), re.MULTILINE)
    wanted = re.findall(r" U (cublas\w+)", _symbols("-D", cublas))
    version = re.search(rb"libcublas\.so\.(\d+)", cublas.read_bytes())[1].decode()
    _driver = _built([*(name for _, name in functions), *wanted], version)
    _driver.on_cpu_launches.restype = ctypes.c_char_p
    assemble = ctypes.cast(_assemble, ctypes.c_void_p)
    ctypes.c_void_p.in_dll(_driver, "on_cpu_assemble").value = assemble.value

    ctypes.CDLL(str(runtime))
    maps = Path("/proc/self/maps").read_text().splitlines()
    base = next(int(line.split("-")[0], 16) for line in maps if line.endswith(str(runtime)))
    protect = ctypes.CDLL(None).mprotect
    for offset, name in functions:
        start, target = base + int(offset, 16), ctypes.cast(_driver[name], ctypes.c_void_p).value
        protect(ctypes.c_void_p(start & -4096), ctypes.c_size_t(8192), 7)  # read, write, execute
        jump = b"\x48\xb8" + target.to_bytes(8, "little") + b"\xff\xe0"  # mov rax, target; jmp rax
        ctypes.memmove(start, jump, len(jump))


def _symbols(*arguments: Any) -> str:
    return subprocess.run(["nm", *arguments], capture_output=True, text=True, check=True).stdout


def _built(names: list[str], version: str) -> ctypes.CDLL:
    """The driver, in which functions of these names that it does not play say so. One library plays
    all of a version of CUDA: each has to be loaded under its own name to be found."""
    libraries = [
        "libcuda.so.1",
        *(f"lib{x}.so.{version}" for x in ("cudart", "cublas", "cublasLt")),
    ]
    driver = _HERE / "driver_on_cpu.cpp"
    weak = (f'__attribute__((weak)) int {n}() {{ return on_cpu_has_no("{n}"); }}' for n in names)
    others = "\n".join(['extern "C" {', "int on_cpu_has_no(const char*);", *weak, "}", ""])
    code = driver.read_bytes() + "".join([others, *libraries]).encode()
    digest = hashlib.sha256(code).hexdigest()[:16]
    folder = emulator.CACHE / f"driver-{digest}"
    if not folder.exists():
        unfinished = folder.with_suffix(f".{os.getpid()}")
        unfinished.mkdir(parents=True)
        made_of = [driver, unfinished / "others.cpp"]
        made_of[1].write_text(others)
        for name in libraries:  # the others hold nothing, and lead to the first
            flags = "-std=c++17", "-O2", "-fPIC", "-shared", f"-Wl,-soname,{name},--no-as-needed"
            emulator.run_gxx(*flags, "-o", unfinished / name, *made_of)
            made_of = [unfinished / libraries[0]]
        with contextlib.suppress(OSError):  # another process was quicker
            unfinished.rename(folder)
    loaded = [ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL) for name in libraries]
    return loaded[0]


_paths: list[Any] = []  # that the driver was told: it does not keep them itself


@ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)
def _assemble(code: bytes) -> int | None:
    """The path of the library that is made of a module of PTX."""
    try:
        path = os.fsencode(ptx.compiled(code.decode()))
    except Exception:
        traceback.print_exc()
        return None
    _paths.append(ctypes.create_string_buffer(path))
    return ctypes.addressof(_paths[-1])


# --------------------------------------------------------------------------------- sorting


def _rows(dtype: Any, address: int, shape: Any) -> np.ndarray:
    dtype = np.dtype(dtype)
    memory = (ctypes.c_char * (int(np.prod(shape)) * dtype.itemsize)).from_address(address)
    return np.frombuffer(memory, dtype).reshape(shape)


def _sort(dtype, data, keys, shape) -> None:
    _driver.on_cpu_count(b"sort")
    _rows(dtype, data, shape).sort(axis=-1, kind="stable")


def _argsort(dtype, index, data, keys, shape) -> None:
    _driver.on_cpu_count(b"argsort")
    _rows(np.uintp, index, shape)[...] = _rows(dtype, data, shape).argsort(axis=-1, kind="stable")
