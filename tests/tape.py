"""What the tests of the tape share: small leaves, and one function run in both libraries."""

import numpy as np
import pytest
import torch
from harness import tensorlib, to_array

only_ours = pytest.mark.skipif(tensorlib is torch, reason="a contract of tensorlib, not of PyTorch")
tensor, no_grad, grad = tensorlib.tensor, tensorlib.no_grad, tensorlib.autograd.grad


def leaf(*values, **options):
    return tensor(values, requires_grad=True, **options)


def same(our, their):
    np.testing.assert_allclose(to_array(our), to_array(their), rtol=1e-6)


def both(fn):
    """`fn(t)` in both libraries: equal tensors (or None) come out."""
    for our, their in zip(fn(tensorlib), fn(torch), strict=True):
        assert (our is None) == (their is None)
        if our is not None:
            same(our, their)
