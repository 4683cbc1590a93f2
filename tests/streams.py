"""What the tests of random numbers share: one call in both libraries, from the same seed."""

import platform

import numpy as np
import pytest
import torch

import tensorlib.random as ours

# How far apart float32 normals of standard deviation 1 may be. On other processors than x86, whose
# numbers the video shows, PyTorch's own logarithm, sine and cosine have other last digits.
NORMAL = 1e-6 if platform.machine() in ("x86_64", "AMD64") else 5e-6


def kind(dtype):
    return getattr(torch, np.dtype(dtype).name)


class Theirs:
    """PyTorch's functions under our signatures, returning arrays."""

    def manual_seed(seed):
        torch.manual_seed(seed)

    def rand(shape, dtype=np.float32, generator=None):
        return torch.rand(shape, dtype=kind(dtype), generator=generator).numpy()

    def randn(shape, dtype=np.float32, generator=None):
        return torch.randn(shape, dtype=kind(dtype), generator=generator).numpy()

    def uniform(low, high, shape, dtype=np.float32, generator=None):
        empty = torch.empty(shape, dtype=kind(dtype))
        return empty.uniform_(low, high, generator=generator).numpy()

    def normal(mean, std, shape, dtype=np.float32, generator=None):
        empty = torch.empty(shape, dtype=kind(dtype))
        return empty.normal_(mean, std, generator=generator).numpy()

    def randint(low, high, shape, dtype=np.int64, generator=None):
        shape = (shape,) if isinstance(shape, int) else shape
        return torch.randint(low, high, shape, dtype=kind(dtype), generator=generator).numpy()

    def randperm(n, generator=None):
        return torch.randperm(n, generator=generator).numpy()

    def multinomial(probs, num_samples, replacement=False, generator=None):
        probs = torch.from_numpy(probs)
        return torch.multinomial(probs, num_samples, replacement, generator=generator).numpy()


def compare(name, *args, **kwargs):
    """One call in both libraries: equal shapes, dtypes and numbers; normals up to rounding."""
    actual = getattr(ours, name)(*args, **kwargs)
    expected = getattr(Theirs, name)(*args, **kwargs)
    if name == "manual_seed":
        return
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    if name in ("randn", "normal"):
        mean, std = args[:2] if name == "normal" else (0, 1)
        unit = NORMAL if actual.dtype == np.float32 else 1e-14
        np.testing.assert_allclose(actual, expected, rtol=0, atol=unit * (abs(mean) + std))
    else:
        np.testing.assert_array_equal(actual, expected)


def compare_position():
    """Nothing but equal positions, and equal waiting normals, gives equal numbers here."""
    compare("randint", 0, 2**27, 3)
    compare("randn", 1, np.float64)
    compare("randint", 0, 2**27, 3)


@pytest.fixture(autouse=True)
def seeded():
    compare("manual_seed", 1337)
