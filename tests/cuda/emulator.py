"""Runs CUDA kernels on the CPU: g++ compiles them against `cuda_on_cpu.h`, ctypes calls them.

    module = Module(code, ("-Dscalar=float",), Path("tensorlib/kernels/cuda"))
    y = guarded((8, 64), np.float32)
    module.get_function("layer_norm")((8,), (32,), (x, y, np.int32(64)))

A `Fault` is what would be undefined on a GPU. `shuffle(seed)` has the threads take turns in another
order, so that a missing barrier shows.
"""

from __future__ import annotations

import bisect
import ctypes
import hashlib
import math
import mmap
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

import numpy as np

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
CACHE = Path(tempfile.gettempdir()) / f"cuda-on-cpu-{os.getuid()}"
FLAGS = [
    *("-std=c++17", "-O1", "-g", "-w", "-fPIC", "-shared", "-ffp-contract=off"),
    *("-fno-exceptions", "-fno-rtti", "-fno-strict-aliasing", "-fno-threadsafe-statics"),
    *("-fsanitize=bounds,alignment", "-nodefaultlibs"),  # whose handlers are in the header
    "-U_FORTIFY_SOURCE",  # it takes the switch between fibres for an attack
    # so that the loader can say where thread-local memory is, as which shared memory is played
    *(["-mtls-dialect=trad"] if platform.machine() == "aarch64" else []),
]

missing = None  # why kernels cannot run here, for pytest.skip
if shutil.which("g++") is None:
    missing = "the emulator compiles kernels with g++, which is not installed"
elif sys.platform != "linux":
    missing = "the emulator needs Linux"

_seed = 0


class Fault(RuntimeError):  # noqa: N818
    """A kernel did what is undefined, or was launched with what it does not take."""


def shuffle(seed: int | None) -> None:
    """From now on threads, warps and blocks take turns in an order drawn from `seed`, or as they
    are numbered (None)."""
    global _seed
    _seed = 0 if seed is None else (seed + 1) * 0x9E3779B97F4A7C15 % 2**64


class Module:
    """Compiled CUDA code.

    options: as for NVRTC, of which -D and -I count here; and for a debugger -O0. The code of a file
    in the folder `include` is that file for a debugger, else it is a copy in the cache.
    """

    def __init__(self, code: str, options: tuple[str, ...], include: Path) -> None:
        self._library = ctypes.PyDLL(str(library(code, options, include)))

    def get_function(self, name: str) -> Function:
        return Function(self._library, name)


def by_gxx(code: str, options: tuple[str, ...], include: Path) -> Path:
    """The shared library that g++ makes of CUDA C++."""
    origin = [f.absolute() for f in Path(include).glob("*.cu") if f.read_text() == code]
    code = "".join(f'#line 1 "{path}"\n' for path in origin) + translated(code)
    return compiled(code, options, include)


library = by_gxx  # `ptx.library`, with pytest's --nvrtc


def translated(code: str) -> str:
    """CUDA C++ as C++, with functions that launch its kernels."""
    # `extern __shared__ float x[];` has no counterpart in C++: the launch knows where it is.
    code = re.sub(
        r"extern\s+__shared__\s+(?:__align__\(\d+\)\s+)?([\w\s]+?)\s*\b(\w+)\[\];",
        r"\1* \2 = (\1*)cuda_on_cpu::dynamic_shared;",
        code,
    )
    names = re.findall(r"__global__[\s\w]*?(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(", code)
    return "\n".join([code, *(f"CUDA_ON_CPU_KERNEL({name})" for name in names), ""])


def compiled(code: str, options: tuple[str, ...], include: Path, header: Path = HEADER) -> Path:
    """The shared library of `code`, from the cache if nothing that it is made of has changed."""
    flags = [o for o in options if o.startswith(("-D", "-I", "-O", "-g", "-fno-"))]
    digest = hashlib.sha256("\0".join([code, *flags, *FLAGS]).encode())
    for source in (header, *sorted(Path(include).glob("*.cuh"))):
        digest.update(source.read_bytes())
    target = CACHE / f"{digest.hexdigest()[:24]}.so"
    if not target.exists():
        headers = CACHE / "include"
        headers.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in ("cuda_fp16.h", "cuda_bf16.h"):  # which `cuda_on_cpu.h` stands for
            (headers / name).touch()
        source, unfinished = target.with_suffix(".cpp"), target.with_suffix(f".{os.getpid()}")
        unfinished.write_text(code)
        unfinished.rename(source)  # at once: another process may be compiling the same
        flags += [f"-I{headers}", f"-I{include}", "-include", str(header)]
        run_gxx(*FLAGS, *flags, "-o", unfinished, source, "-lc", "-lm", "-lgcc")
        unfinished.rename(target)
    return target


def precompiled(header: Path, options: tuple[str, ...]) -> Path:
    """A copy of `header`, with those beside it that it includes, which g++ has read already, for
    `compiled` with these options."""
    text = re.sub(
        r'#include "(\w+\.h)"',
        lambda include: header.with_name(include[1]).read_text(),
        header.read_text(),
    )
    digest = hashlib.sha256("\0".join([text, *options, *FLAGS]).encode()).hexdigest()[:24]
    copy = CACHE / f"{digest}.h"
    read = copy.with_name(f"{copy.name}.gch")
    if not read.exists():
        CACHE.mkdir(parents=True, exist_ok=True, mode=0o700)
        unfinished = copy.with_suffix(f".{os.getpid()}")
        unfinished.write_text(text)
        unfinished.rename(copy)  # at once: another process may be compiling with it
        flags = [flag for flag in FLAGS if flag != "-shared"]
        run_gxx(*flags, *options, "-x", "c++-header", "-o", unfinished, copy)
        unfinished.rename(read)
    return copy


def run_gxx(*arguments: str | Path) -> None:
    result = subprocess.run(["g++", *map(str, arguments)], capture_output=True, text=True)
    if result.returncode:
        raise Fault(f"g++ cannot compile the kernel:\n{result.stderr}")


class Function:
    """A kernel: f(grid, block, args, shared_mem=0), as CuPy has it."""

    def __init__(self, library: ctypes.PyDLL, name: str) -> None:
        self.name = name
        self.max_dynamic_shared_size_bytes = 48 * 1024
        try:
            self._launch = library[f"launch_{name}"]
        except AttributeError:
            raise Fault(f"no kernel is called {name}") from None
        self._launch.restype = ctypes.c_char_p
        signature = library[f"signature_{name}"]
        signature.restype = ctypes.c_char_p
        self._signature = signature().decode().split()

    def __call__(self, grid: tuple, block: tuple, args: tuple, *, shared_mem: int = 0) -> None:
        grid, block = ((*grid, 1, 1)[:3], (*block, 1, 1)[:3])
        threads = math.prod(block)
        if min(grid) < 1 or max(grid[1:]) > 65535 or grid[0] >= 2**31:
            raise Fault(f"{self.name}: grid {grid} is out of range")
        if min(block) < 1 or threads > 1024 or block[2] > 64:
            raise Fault(f"{self.name}: block {block} is out of range")
        if not shared_mem <= self.max_dynamic_shared_size_bytes <= 227 * 1024:
            raise Fault(
                f"{self.name}: {shared_mem} bytes of dynamic shared memory, where "
                f"max_dynamic_shared_size_bytes is {self.max_dynamic_shared_size_bytes}"
            )
        values = [_value(arg) for arg in args]
        given = [code for code, _, _ in values]
        sizes = [f"V{place.nbytes}" for _, place, _ in values]  # of which alone NVIDIA's code knows
        if self._signature not in (given, sizes):
            raise Fault(f"{self.name}: takes {self._signature}, was given {given}")
        pointers = (ctypes.c_void_p * len(values))(*(place.ctypes.data for _, place, _ in values))
        dims = (ctypes.c_uint * 6)(*map(int, (*grid, *block)))
        error = self._launch(dims, shared_mem, pointers, ctypes.c_uint64(_seed))
        if error:
            raise Fault(f"{self.name}: {error.decode()}")
        for i, (_, _, address) in enumerate(values):
            if address and (wrong := _damage(address)):
                raise Fault(f"{self.name}: argument {i}: wrote to {wrong}")


def _value(arg) -> tuple[str, np.ndarray, int | None]:
    """An argument: its type as C knows it, memory that holds it, and where it points."""
    if isinstance(arg, np.generic):
        return arg.dtype.str[1:], np.array(arg), None
    if isinstance(arg, np.ndarray) and arg.dtype.names:  # a struct, by value
        return f"V{arg.nbytes}", arg, None
    if isinstance(arg, np.ndarray):
        if not arg.flags.c_contiguous:
            raise Fault(f"an array of shape {arg.shape} with strides {arg.strides}: not contiguous")
        address = arg.ctypes.data
    elif hasattr(arg, "pointer"):
        address = arg.pointer
    else:
        raise Fault(f"a kernel takes arrays and NumPy's scalars, not {type(arg).__name__}: {arg!r}")
    return "P", np.array(address, np.uint64), address


# ----------------------------------------------------------------------------------- guarded memory

_protect = None if missing else ctypes.CDLL(None, use_errno=True).mprotect
_ZONE = 0x41  # around an array: 12.08 as float32, which arithmetic changes, as it does not NaN
_starts: list[int] = []  # of the guarded arrays that live, sorted
_ranges: dict[int, tuple[int, int, int, int]] = {}


class _Memory(mmap.mmap):
    """Memory from the system, which can be referred to weakly."""


def guarded(shape: tuple[int, ...] | int, dtype) -> np.ndarray:
    """An array of 0xff bytes (NaN) that kernels cannot leave unnoticed.

    A page that nobody may touch lies before and behind it; what is left between is looked at after
    each launch.
    """
    dtype = np.dtype(dtype)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    size, page = math.prod(shape) * dtype.itemsize, mmap.PAGESIZE
    room = max(-(-size // page), 1) * page
    memory = _Memory(-1, room + 2 * page)
    whole = np.frombuffer(memory, np.uint8)
    whole[page:-page] = _ZONE
    low = whole.ctypes.data + page
    start = low + (room - size) // 16 * 16
    for address in (low - page, low + room):
        _protect(ctypes.c_void_p(address), ctypes.c_size_t(page), 0)
    bisect.insort(_starts, low)
    _ranges[low] = (low, start, start + size, low + room)
    weakref.finalize(memory, _forget, low)
    offset = start - low + page
    whole[offset : offset + size] = 0xFF
    return whole[offset : offset + size].view(dtype).reshape(shape)


def _forget(low: int) -> None:
    del _ranges[low]
    _starts.remove(low)


def _damage(address: int) -> str | None:
    """What was written around the guarded array at `address`, if it is one, in words."""
    i = bisect.bisect(_starts, address) - 1
    low, start, stop, high = _ranges[_starts[i]] if i >= 0 else (0, 0, 0, 0)
    if address > high:
        return None
    for name, first, last in (("before its first", low, start), ("behind its last", stop, high)):
        zone = np.ctypeslib.as_array((ctypes.c_uint8 * (last - first)).from_address(first))
        if (zone != _ZONE).any():
            return f"memory {name} element"
    return None
