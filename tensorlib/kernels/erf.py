"""The error function, which NumPy lacks and the exact GELU needs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = Any


def erf(x: Array) -> Array:
    """The error function, to the last digits of float64: NumPy has none.

    W. J. Cody, Rational Chebyshev approximations for the error function (1969): three ranges, in
    each a quotient of polynomials.
    """
    z = np.abs(x)
    small = np.minimum(z, 0.5) ** 2
    near = z * _polynomial(small, _ERF_SMALL[0]) / _polynomial(small, _ERF_SMALL[1])
    middle = np.clip(z, 0.46875, 4)
    far = np.maximum(z, 4)
    inverse = 1 / (far * far)
    tail = inverse * _polynomial(inverse, _ERF_FAR[0]) / _polynomial(inverse, _ERF_FAR[1])
    complement = np.where(
        z <= 4,
        np.exp(-middle * middle)
        * _polynomial(middle, _ERF_MIDDLE[0])
        / _polynomial(middle, _ERF_MIDDLE[1]),
        np.exp(-far * far) / far * (1 / math.sqrt(math.pi) - tail),
    )
    return np.copysign(np.where(z <= 0.46875, near, 1 - complement), x)


def _polynomial(x: Array, coefficients: tuple[float, ...]) -> Array:
    """Horner's rule; the highest power comes first."""
    result = x * coefficients[0]
    for c in coefficients[1:-1]:
        result += c
        result *= x
    result += coefficients[-1]
    return result


# fmt: off
_ERF_SMALL = (
    (1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2,
     3.20937758913846947e3),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3,
     2.84423683343917062e3),
)
_ERF_MIDDLE = (
    (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1,
     2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
     1.23033935479799725e3),
    (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2,
     1.62138957456669019e3, 3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3,
     1.23033935480374942e3),
)
_ERF_FAR = (
    (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
     1.60837851487422766e-2, 6.58749161529837803e-4),
    (1.0, 2.56852019228982242e0, 1.87295284992346725e0, 5.27905102951428412e-1,
     6.05183413124413191e-2, 2.33520497626869185e-3),
)
# fmt: on
