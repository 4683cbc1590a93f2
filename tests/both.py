"""The same thing built in both libraries, and compared."""

import numpy as np
import torch
from harness import tensorlib, to_array

BOTH = (torch, tensorlib)


def same(fn):
    """Both libraries give equal plain results."""
    theirs, ours = (fn(t) for t in BOTH)
    assert ours == theirs
    return ours


def arrays(state):
    return {name: to_array(value) for name, value in state.items()}


def assert_close(ours, theirs, rtol=1e-5, atol=1e-6):
    """Two dicts of arrays: the same names in the same order, the same values, shapes, dtypes."""
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        assert (value.dtype, value.shape) == (theirs[name].dtype, theirs[name].shape), name
        np.testing.assert_allclose(value, theirs[name], rtol, atol, err_msg=name)
