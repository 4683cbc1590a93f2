"""A strict stand-in for CuPy 14.2: its numbers are NumPy's, its rules are CuPy's.

`install()` makes it what `import cupy` finds, so that device "cuda" works on any machine, in the
host's memory; `installed()` does so for a while. It refuses what CuPy refuses: a device array where
NumPy wants a host array and a host array where CuPy wants its own, functions and keyword arguments
that CuPy does not have. What CuPy does in its own way it does, too: a reduction returns an array
without dimensions, an index out of range wraps, a broadcast view does not say that it is one,
memory that nobody wrote to holds no zeros.

    with no_synchronisation():    # whatever makes the host wait for the device raises
        step()

`count` has the number of times that the host waited for the device, of copies to the device, and of
launches by name. A function that makes an array, or writes to one, is one launch, though CuPy
takes several for some (sorting); joining n arrays is n.
"""

import functools
import sys
import types
from contextlib import contextmanager

import fake_cuda
import fake_graph
import ml_dtypes
import numpy as np
from fake_count import count
from fake_cuda import memory

no_synchronisation = count.no_synchronisation


# ---- the array -----------------------------------------------------------------------------------


class ndarray:  # noqa: N801
    """An array on the device. `_values`: where its numbers are; `base`: the array whose memory it
    looks at, None if it is its own."""

    __slots__ = ("__weakref__", "_values", "base")
    __module__ = "cupy"  # by which tensorlib knows it
    __hash__ = None
    __array_priority__ = 100

    def __init__(self, values, base=None):
        self._values, self.base = values, base

    shape = property(lambda self: self._values.shape)
    dtype = property(lambda self: self._values.dtype)
    ndim = property(lambda self: self._values.ndim)
    size = property(lambda self: self._values.size)
    nbytes = property(lambda self: self._values.nbytes)
    itemsize = property(lambda self: self._values.itemsize)
    strides = property(lambda self: self._values.strides)
    T = property(lambda self: _wrap(self._values.T, self))
    data = property(fake_cuda.MemoryPointer)

    @property
    def flags(self):
        names = ("c_contiguous", "f_contiguous", "fnc", "forc")  # CuPy has no `writeable`
        flags = {name: getattr(self._values.flags, name) for name in names}
        return types.SimpleNamespace(**flags, owndata=self.base is None)

    # -- what NumPy is told

    def __array__(self, dtype=None, copy=None):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **options):
        function = getattr(cupy, ufunc.__name__, None)
        taken = (ndarray, np.ndarray, np.generic, bool, int, float)  # no tuple, as of np.add.at
        if not all(isinstance(x, taken) for x in (*inputs, *out)):
            return NotImplemented
        if method != "__call__" or not isinstance(function, types.FunctionType):
            return NotImplemented
        if out:
            (options["out"],) = out
        return function(*inputs, **options)

    def __array_function__(self, function, types_, args, options):
        module = function.__module__.split(".")[1:]
        ours = None if module else getattr(cupy, function.__name__, None)
        return NotImplemented if ours is None else ours(*args, **options)

    # -- to the host: the host waits

    def get(self):
        fake_graph.wait("get()")
        return self._values.copy()

    def item(self):
        fake_graph.wait("item()")
        return self._values.item()

    def tolist(self):
        return self.get().tolist()

    def __bool__(self):
        return bool(self.get())

    def __int__(self):
        return int(self.get())

    def __float__(self):
        return float(self.get())

    def __repr__(self):
        return repr(self.get())

    # -- elements

    def __len__(self):
        return len(self._values)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index):
        def again():
            try:
                return self._values[self._index(index, "x[mask]")]
            except IndexError as error:
                if "broadcast" in str(error):
                    raise ValueError(str(error)) from None
                raise

        return _wrap(again(), self, *_arrays_in(index), by="x[…]", again=again)

    def __setitem__(self, index, value):
        if isinstance(value, np.ndarray) and value.ndim:
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        if isinstance(value, (list, tuple)) and not _arrays_in(index):
            raise TypeError("a list cannot be used for fill")  # nor a nested one
        value = value._values if type(value) is ndarray else value
        count.launches["x[…] = …"] += 1
        values = self._values

        fake_graph.load(("x[…] = …", self.dtype))

        def work():
            values[self._index(index, "x[mask] = …")] = value

        fake_graph.run(work, self, *_arrays_in(index))

    def _index(self, index, what):
        """The index as NumPy takes it, integers wrapped around, with ... so that a single element
        is a view as well."""
        parts = list(index) if isinstance(index, tuple) else [index]
        if not any(part is Ellipsis for part in parts):
            parts.append(Ellipsis)
        parts = [asarray(p) if isinstance(p, (list, np.ndarray)) else p for p in parts]
        arrays = [type(part) is ndarray for part in parts]
        sizes = [p.ndim if a and p.dtype == bool else p is not None for p, a in zip(parts, arrays)]
        axis = 0
        for i, (part, size) in enumerate(zip(parts, sizes)):
            if part is Ellipsis:
                axis = self.ndim - sum(sizes[i + 1 :])
                continue
            if arrays[i] and part.dtype == bool:
                fake_graph.wait(what)  # to learn how many there are
                parts[i] = part._values
            elif arrays[i]:
                parts[i] = np.asarray(part._values % max(self.shape[axis], 1))
            axis += size
        return tuple(parts)

    # -- methods

    def reshape(self, *shape, order="C"):
        again = functools.partial(self._values.reshape, *shape, order=order)
        return _wrap(again(), self, by="reshape", again=again)

    def astype(self, dtype, order="K", copy=True):
        again = functools.partial(self._values.astype, dtype, order, copy=copy)
        return _wrap(again(), self, by="astype", again=again)

    def view(self, dtype=None):
        return _wrap(self._values.view(dtype or self.dtype), self)

    def copy(self, order="C"):
        again = functools.partial(self._values.copy, order)
        return _wrap(again(), self, by="copy", again=again)

    def transpose(self, *axes):
        return _wrap(self._values.transpose(*axes), self)

    def fill(self, value):
        self[...] = value


def _arrays_in(index):
    return [x for x in (index if isinstance(index, tuple) else [index]) if type(x) is ndarray]


def _wrap(result, *sources, by=None, launches=1, again=None):
    """What NumPy computed from the arrays `sources`, as CuPy returns it. A new array, or a result
    that was written to its `out`, took `launches` of the function `by`; `again` computes it anew,
    for a graph that is being captured."""
    if isinstance(result, (tuple, list)):
        return type(result)(_wrap(r, *sources, by=by) for r in result)
    if isinstance(result, np.generic):
        result = np.asarray(result)
    if not isinstance(result, np.ndarray):
        return result
    if not result.size:
        result = np.empty(result.shape, result.dtype)
    if 0 not in result.strides:  # a broadcast view stays read-only: to write to it is a mistake
        result.flags.writeable = True
    for source in sources:
        if result is source._values:
            return source
        if result.size and np.may_share_memory(result, source._values):
            return ndarray(result, source if source.base is None else source.base)
    count.launches[by] += launches
    fake_graph.load((by, result.dtype, *(x.dtype for x in sources)))
    array = _allocate(result)
    if again:
        fake_graph.record(lambda: np.copyto(result, again()), array, *sources)
    return array


def _allocate(values):
    return fake_cuda.allocated(ndarray(values))


def _unwrap(x, found):
    """An argument as NumPy takes it; the device arrays in it are appended to `found`."""
    if type(x) is ndarray:
        found.append(x)
        return x._values
    if isinstance(x, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    return type(x)(_unwrap(i, found) for i in x) if isinstance(x, (list, tuple)) else x


def _add_at(x, index, value):
    fake_graph.refuse("add.at")
    if x.dtype.name not in SCATTERED:
        raise TypeError(f"scatter_add does not support {x.dtype}")
    np.add.at(x._values, x._index(index, "add.at"), getattr(value, "_values", value))


# ---- functions -----------------------------------------------------------------------------------

# What CuPy has and tensorlib may use: the arguments of its functions, …
SIGNATURES = {
    "all": "a axis out keepdims",
    "allclose": "a b rtol atol equal_nan",
    "any": "a axis out keepdims",
    "arange": "start stop step dtype",
    "argmax": "a axis dtype out keepdims",
    "argmin": "a axis dtype out keepdims",
    "argsort": "a axis kind",
    "array_equal": "a1 a2 equal_nan",
    "ascontiguousarray": "a dtype",
    "bincount": "x weights minlength",
    "broadcast_to": "array shape",
    "clip": "a a_min a_max out",
    "concatenate": "tup axis out dtype casting",
    "cumsum": "a axis dtype out",
    "einsum": "operands kwargs",
    "expand_dims": "a axis",
    "eye": "N M k dtype order",
    "flip": "a axis",
    "full": "shape fill_value dtype order",
    "full_like": "a fill_value dtype order subok shape",
    "max": "a axis out keepdims",
    "may_share_memory": "a b max_work",
    "min": "a axis out keepdims",
    "moveaxis": "a source destination",
    "nonzero": "a",
    "ones": "shape dtype order",
    "ones_like": "a dtype order subok shape",
    "reshape": "a newshape order copy",
    "searchsorted": "a v side sorter",
    "split": "ary indices_or_sections axis",
    "squeeze": "a axis",
    "stack": "tup axis out dtype casting",
    "sum": "a axis dtype out keepdims",
    "swapaxes": "a axis1 axis2",
    "tile": "A reps",
    "transpose": "a axes",
    "tril": "m k",
    "triu": "m k",
    "unique": "ar return_index return_inverse return_counts axis equal_nan",
    "vdot": "a b",
    "where": "condition x y",
    "zeros": "shape dtype order",
    "zeros_like": "a dtype order subok shape",
}
# … its functions of every element, and methods.
UFUNCS = """absolute add bitwise_and bitwise_or bitwise_xor copysign cos divide equal exp greater
    greater_equal invert isfinite isinf isnan less less_equal log log1p logical_and logical_not
    logical_or matmul maximum minimum multiply negative not_equal power remainder right_shift sin
    sqrt square subtract tanh true_divide"""
METHODS = "all any argmax argmin argsort cumsum max mean min ravel squeeze sum swapaxes"
OPERATORS = """add and:bitwise_and matmul mod:remainder mul:multiply or:bitwise_or pow:power
    rshift:right_shift sub:subtract truediv:true_divide xor:bitwise_xor"""
IN_PLACE = OPERATORS.replace(" matmul", "")  # no x @= y
COMPARISONS = "eq:equal ge:greater_equal gt:greater le:less_equal lt:less ne:not_equal"
DTYPES = "float16 float32 float64 int32 int64 uint8 uint16 uint32 uint64 bool_"
SCATTERED = ("int32", "int64", "uint32", "uint64", "float16", "float32", "float64")  # of add.at
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
JOINING = ("concatenate", "stack")
# In a capture: CuPy refuses its own cuBLAS; its sorting waits for the device inside.
SYNCHRONISING = ("matmul", "vdot", "argsort")
WAITING = ("nonzero", "unique", "bincount")  # for the shape of their result


def _function(name, parameters=None):
    numpy_function = getattr(np, name)

    def call(*args, **options):
        if parameters is not None and (unknown := set(options) - set(parameters.split())):
            raise TypeError(f"{name}() got an unexpected keyword argument {unknown.pop()!r}")
        if name in WAITING or (name == "where" and len(args) == 1):
            fake_graph.wait(name)
        sources: list = []
        _check(name, args, options.get("axis"))
        args, options = _unwrap(args, sources), {k: _unwrap(v, sources) for k, v in options.items()}
        if name in SYNCHRONISING:
            fake_graph.refuse(name)
        launches = len(args[0]) if name in JOINING else 1
        again = functools.partial(numpy_function, *args, **options)
        if name == "where":
            again = functools.partial(_where, *args)
        result = again()
        if any(result is array._values for array in sources) and name != "ascontiguousarray":
            count.launches[name] += launches  # it was written to `out`
            fake_graph.load((name, *(x.dtype for x in sources)))
            fake_graph.record(again, *sources)
        return _wrap(result, *sources, by=name, launches=launches, again=again)

    return call


def _where(*args):
    """CuPy 14.2 has no loop of bfloat16 here, and takes that of float32."""
    result = np.where(*args)
    return result.astype(np.float32) if getattr(result, "dtype", None) == BFLOAT16 else result


def _check(name, args, axis):
    """Refuse what NumPy takes and CuPy does not."""
    if isinstance(axis, int) and type(args[0]) is ndarray and args[0].ndim == 0:
        raise np.exceptions.AxisError(axis, 0)  # NumPy takes 0 and -1
    if name == "where" and not hasattr(args[0], "astype"):
        raise AttributeError(f"{type(args[0]).__name__!r} object has no attribute 'astype'")
    if name == "concatenate" and any(x.ndim == 0 for x in args[0]):
        raise TypeError("zero-dimensional arrays cannot be concatenated")
    if name == "matmul" and any(getattr(x, "itemsize", 0) == 2 and x.ndim > 2 for x in args):
        raise TypeError(
            "CuPy's products of batches: float16 is slow, bfloat16 fails; see cublas.py"
        )


def _method(name):
    def call(self, *args, **options):
        return (getattr(cupy, name, None) or _function(name))(self, *args, **options)

    return call


def _operator(ufunc, reflected=False):
    def call(self, other):
        if getattr(other, "__array_ufunc__", self) is None:
            return NotImplemented  # a Tensor: its own operators know what to do
        return ufunc(other, self) if reflected else ufunc(self, other)

    return call


def _in_place(ufunc):
    def call(self, other):
        return ufunc(self, other, out=self, casting="same_kind")

    return call


def empty(shape, dtype=float, order="C"):
    return _allocate(fake_graph.spoil(np.empty(shape, dtype, order)))


def empty_like(prototype, dtype=None, order="K", subok=None, shape=None):
    return _allocate(fake_graph.spoil(np.empty_like(prototype._values, dtype, order, shape=shape)))


def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    if type(a) is ndarray:
        return a.astype(dtype or a.dtype, copy=bool(copy))
    fake_graph.refuse("a copy from the host")
    count.uploads += 1
    return _allocate(np.array(a, dtype, order=order or "K"))


def array(obj, dtype=None, copy=True, order="K"):
    return asarray(obj, dtype, order, copy=copy)


def asnumpy(a):
    return a.get() if type(a) is ndarray else np.asarray(a)


def _as_strided(x, shape, strides):
    view = np.lib.stride_tricks.as_strided(x._values, shape, strides)
    return ndarray(view, x if x.base is None else x.base)


def fuse(*, kernel_name):
    """CuPy's decorator: one kernel of all that a function does with the elements of arrays, and
    with numbers beside them; it writes to arrays that it was given."""

    def decorate(function):
        def call(*args):
            sources: list = []
            work = functools.partial(function, *map(np.atleast_1d, _unwrap(args, sources)))
            count.launches[kernel_name] += 1
            fake_graph.load((kernel_name, *(x.dtype for x in args)))
            fake_graph.run(work, *sources)

        return call

    return decorate


def _namespace():
    """The module that `import cupy` finds."""
    module = types.ModuleType("cupy")
    for name in UFUNCS.split():
        setattr(module, name, _function(name, "out dtype casting"))
    module.add.at = _add_at
    for name, parameters in SIGNATURES.items():
        setattr(module, name, _function(name, parameters))
    for thing in (ndarray, empty, empty_like, asarray, array, asnumpy, fuse, fake_cuda.RawModule):
        setattr(module, thing.__name__, thing)
    for name in DTYPES.split():
        setattr(module, name, getattr(np, name))
    tricks = types.SimpleNamespace(as_strided=_as_strided)
    module.lib = types.SimpleNamespace(stride_tricks=tricks)
    module.__version__ = "14.2.0"
    pool = types.SimpleNamespace(used_bytes=lambda: memory.used, free_all_blocks=lambda: None)
    module.get_default_memory_pool = lambda: pool
    module.cuda = fake_cuda.namespace()
    return module


cupy = _namespace()
for _name in METHODS.split():
    setattr(ndarray, _name, _method(_name))
for _name, _, _ufunc in (t.partition(":") for t in (OPERATORS + " " + COMPARISONS).split()):
    _ufunc = getattr(cupy, _ufunc or _name)
    setattr(ndarray, f"__{_name}__", _operator(_ufunc))
    setattr(ndarray, f"__r{_name}__", _operator(_ufunc, reflected=True))
for _name, _, _ufunc in (t.partition(":") for t in IN_PLACE.split()):
    setattr(ndarray, f"__i{_name}__", _in_place(getattr(cupy, _ufunc or _name)))
ndarray.__neg__, ndarray.__invert__ = _method("negative"), _method("invert")
ndarray.__abs__ = _method("absolute")


def install():
    """Make it what `import cupy` finds, and let a stand-in play its cuBLAS."""
    from fake_cublas import Library

    from tensorlib.kernels import cublas

    sys.modules["cupy"] = cupy
    library = Library()
    cublas._cublas = lambda: library


@contextmanager
def installed():
    """Inside, it is what `import cupy` finds."""
    from tensorlib.kernels import cublas

    before, find_cublas = sys.modules.get("cupy"), cublas._cublas
    install()
    _forget(kernels=before is not None)
    try:
        yield
    finally:
        cublas._cublas = find_cublas
        sys.modules.pop("cupy", None)
        if before is not None:
            sys.modules["cupy"] = before
        _forget(kernels=before is not None)


def _forget(kernels):
    """Have tensorlib look for CuPy again, and keep no array of the one before; nor its kernels."""
    from tensorlib import bounds, devices
    from tensorlib.kernels import compiling, cpu_softmax, cublas, gpu, gpu_attention, philox

    for cached in (
        devices._cupy,
        devices.compute_capability,
        philox._in_one_launch,
        cpu_softmax.future,
        compiling._scalar,
        gpu._counters,
        cublas._handle,
    ):
        cached.cache_clear()
    if kernels:
        for module in (compiling, gpu_attention):
            module._module.cache_clear()
            module._kernel.cache_clear()
    bounds._places.clear()
    bounds._tables.clear()
