"""What `cupy.cuda` is in `fake_cupy`: the device, its memory, and kernels that are launched there.

Streams and graphs are in `fake_graph`. An array is known by its `_values`, where its numbers are.
"""

import functools
import types
import weakref
from pathlib import Path

import fake_graph
import numpy as np
from fake_count import count

KERNELS = Path(__file__).parents[2] / "tensorlib" / "kernels" / "cuda"
GIGABYTE = 2**30


# ---- memory --------------------------------------------------------------------------------------

memory = types.SimpleNamespace(free=64 * GIGABYTE, total=64 * GIGABYTE, used=0, hooks=[])


class OutOfMemoryError(MemoryError):
    __module__ = "cupy.cuda.memory"

    def __init__(self, size, total):
        text = f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes)."
        super().__init__(text)


class MemoryHook:
    """Inside `with`, it is told of allocations."""

    def __enter__(self):
        memory.hooks.append(self)
        return self

    def __exit__(self, *_error):
        memory.hooks.remove(self)


def allocated(array):
    """A new array, which has its memory as long as it lives."""
    size = array.nbytes
    if size > memory.free:
        raise OutOfMemoryError(size, memory.total - memory.free)
    memory.used += size
    fake_graph.allocated(array)
    weakref.finalize(array, _free, size)
    for hook in memory.hooks:
        hook.malloc_postprocess(device_id=0, size=size, mem_size=size, mem_ptr=0, pmem_id=0)
    return array


def _free(size):
    memory.used -= size


class MemoryPointer:
    """Where an array begins: for a kernel that is told the strides."""

    def __init__(self, array):
        self.ptr, self.array = array._values.ctypes.data, array


# ---- kernels -------------------------------------------------------------------------------------


class RawModule:
    """CUDA C++, compiled for the CPU by `emulator` and run there."""

    def __init__(self, *, code, options=()):
        import emulator

        fake_graph.refuse("loading a module")
        self._module = emulator.Module(code, tuple(options), KERNELS)

    def get_function(self, name):
        return _Kernel(self._module.get_function(name))


class _Kernel:
    max_dynamic_shared_size_bytes = 48 * 1024

    def __init__(self, function):
        self._function = function

    def __call__(self, grid, block, args, *, shared_mem=0):
        count.launches[self._function.name] += 1
        self._function.max_dynamic_shared_size_bytes = self.max_dynamic_shared_size_bytes
        fake_graph.load(self)
        args = tuple(map(_argument, args))
        launch = functools.partial(self._function, grid, block, args, shared_mem=shared_mem)
        fake_graph.run(launch, *[x.array for x in args if hasattr(x, "array")])


def _argument(x):
    """What a kernel gets: the address of a device array; a NumPy scalar in its own type."""
    if hasattr(x, "_values"):
        assert x.flags.c_contiguous, "a kernel does not see strides: pass a contiguous array"
        x = x.data
    if type(x) is MemoryPointer:
        return types.SimpleNamespace(pointer=x.ptr, array=x.array)
    if isinstance(x, np.ndarray) and x.size == 1:
        return x  # by value, as it is
    assert isinstance(x, np.generic), f"{x!r} would be passed as 64 bits: say np.float32, np.int32"
    return x


# ---- the device ----------------------------------------------------------------------------------


class Device:
    """The one device."""

    id = 0
    compute_capability = "90"

    @property
    def mem_info(self):
        return memory.free, memory.total

    def synchronize(self):
        fake_graph.wait("synchronize()")


def namespace():
    return types.SimpleNamespace(
        is_available=lambda: True,
        Device=Device,
        get_current_stream=lambda: fake_graph.stream,
        Stream=fake_graph.Stream,
        MemoryPool=fake_graph.MemoryPool,
        using_allocator=fake_graph.using_allocator,
        MemoryHook=MemoryHook,
        runtime=types.SimpleNamespace(
            getDeviceProperties=lambda device: {"name": b"a stand-in for a GPU"},
            runtimeGetVersion=lambda: 13000,
        ),
        memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    )
