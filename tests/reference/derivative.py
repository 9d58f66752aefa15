"""Gradients without automatic differentiation: the complex step. NumPy, float64.

    f(x + ih) = f(x) + ih f'(x) + O(h^2)

With h = 1e-30 the imaginary part of the result, divided by h, is f'(x) up to rounding: a finite difference without its
subtraction of nearly equal numbers. So every formula of this folder takes complex numbers too, decides (>, max, argmax)
by their real parts, and a stop-gradient is one line: forget the imaginary part.
"""

import numpy as np

STEP = 1e-30


def sg(x):
    """Stop-gradient: the value, held at what it is."""
    return np.real(x)


def at_least(x, floor):
    """max(x, floor); below the floor it is constant, so its gradient is zero."""
    return np.where(np.real(x) > floor, x, floor)


def straight_through(value, gradient):
    """The first one's value, the second one's gradient (paper Algorithm 1)."""
    return sg(value) + (gradient - sg(gradient))


def gradient(function, x):
    """d function(x) / d x for one array; function(x) must be a single number."""
    x = np.asarray(x, np.float64)
    slope = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        moved = x.astype(np.complex128)
        moved[place] += 1j * STEP
        slope[place] = np.imag(function(moved)) / STEP
    return slope


def gradients(function, arrays, only=None):
    """The same for a dict of arrays, or for those named: {name: d function(arrays) / d arrays[name]}."""
    return {name: gradient(lambda x, name=name: function({**arrays, name: x}), arrays[name]) for name in only or arrays}
