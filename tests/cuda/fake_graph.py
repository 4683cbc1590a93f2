"""Streams and CUDA graphs, for `fake_cupy`: what is captured is noted down, and run when launched.

A capture refuses what CuPy and CUDA refuse. What was captured has not run: at its end, all memory
holds again what it held before, and memory that was allocated meanwhile holds nothing. A graph
refers to memory, not to arrays: to launch one after an array has died that existed before the
capture is an error, since somebody else may have that memory by now.
"""

import weakref
from contextlib import contextmanager

import numpy as np
from fake_count import count

arrays = {}  # that own memory, by id: weak references
loaded = set()  # kernels
capture = None  # the one that is going on


class Capture:
    def __init__(self):
        self.work, self.refused, self.pool = [], None, allocator and allocator.__self__
        self.needed = {}  # arrays that were used and made before, by id
        self.born, self.memory = set(), []  # of those that were made meanwhile: ids, values
        before = [ref() for ref in arrays.values()]
        self.before = [(array, array._values.copy()) for array in before]


class Stream:
    null = None

    def __init__(self, null=False, non_blocking=False, ptr=None):
        self.ptr = id(self) if ptr is None else ptr

    def use(self):
        global stream
        stream = self
        return self

    def synchronize(self):
        wait("synchronize()")

    def begin_capture(self):
        global capture
        assert self is stream, "the work is given to another stream than the one that is captured"
        if self.ptr == 0:
            raise RuntimeError("cudaErrorStreamCaptureUnsupported: the null stream")
        assert capture is None
        capture = Capture()

    def end_capture(self):
        global capture
        done, capture = capture, None
        for array, values in done.before:
            array._values[...] = values
        for values in done.memory:
            spoil(values)
        done.before = None
        if done.refused:
            raise RuntimeError("cudaErrorStreamCaptureInvalidated: operation failed")
        return Graph(done)


class Graph:
    def __init__(self, done):
        self.work, self.needed, self.memory = done.work, done.needed, done.memory
        self.pool = weakref.ref(done.pool)

    def launch(self):
        assert self.pool() is not None, "its memory has gone with the pool"
        assert all(ref() is not None for ref in self.needed.values()), "it uses memory of the dead"
        count.launches["graph"] += 1
        for work in self.work:
            work()


def spoil(values):
    """Have memory hold what nobody wrote there."""
    values.fill(np.nan if values.dtype.kind == "f" else np.array(-1).astype(values.dtype))
    return values


def refuse(what):
    """What a capture does not bear: an error if one is going on."""
    if capture is not None:
        capture.refused = what
        raise RuntimeError(f"the current stream is capturing: {what} is not permitted")


def wait(what):
    """The host waits for the device."""
    refuse(what)
    count.synchronisation(what)


def load(kernel):
    """The first time, a kernel has to be compiled or at least loaded: that is no work for a
    capture."""
    if kernel not in loaded:
        refuse(f"loading {kernel}")
        loaded.add(kernel)


def record(work, *used):
    """Have a capture that is going on note down some work on some arrays, or addresses."""
    if capture is None:
        return
    capture.work.append(work)
    for array in used:
        owner = _at(array) if isinstance(array, int) else array
        owner = owner if owner.base is None else owner.base
        if id(owner) not in capture.born:
            capture.needed[id(owner)] = weakref.ref(owner)


def _at(address):
    """The array whose memory is there."""
    for array in (ref() for ref in arrays.values()):
        if array is not None and 0 <= address - array._values.ctypes.data < array.nbytes:
            return array
    raise AssertionError("there is no array at this address")


def run(work, *used):
    record(work, *used)
    work()


def allocated(array):
    """There is a new array that owns memory."""
    arrays[id(array)] = weakref.ref(array)
    weakref.finalize(array, arrays.pop, id(array), None)
    if capture is not None:
        assert allocator is not None, "in a capture, memory of the common pool would be shared"
        capture.born.add(id(array))
        capture.memory.append(array._values)


# ---- pools ---------------------------------------------------------------------------------------

allocator = None  # of `using_allocator`


class MemoryPool:
    def malloc(self, size):
        raise AssertionError("the stand-in allocates by itself")


@contextmanager
def using_allocator(malloc):
    global allocator
    before, allocator = allocator, malloc
    try:
        yield
    finally:
        allocator = before


Stream.null = stream = Stream(ptr=0)
