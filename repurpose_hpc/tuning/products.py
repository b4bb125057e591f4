"""Products of a local mixing with a batch: those of BLAS, and convolutions by the kernel of inference.

The kernel wants weights in panels.  They are packed anew each time, as they change with every step; those of
convolutions are few.
"""

from __future__ import annotations

import math

import numpy as np

from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.runtime.buffers import Scratch
from repurpose_hpc.runtime.lowering.blocks import NO_ACTIVATION
from repurpose_hpc.runtime.lowering.convolution import Direct


def product(mixing: Mixing, x: np.ndarray) -> np.ndarray:
    """W x + b, as ``Mixing.compute`` returns it, but for rounding."""
    window = mixing.window
    if window is None or not window.is_convolution or not mixing.weights.size or len(window.positions) > 2:
        return mixing.compute(x)
    m, batch, values = len(mixing.weights), x.shape[1], math.prod(window.out)
    maps = np.ascontiguousarray(x).reshape(len(x), batch, math.prod(window.positions))
    out, start = np.empty((m, batch * values), x.dtype), mixing.bias.reshape(-1, 1)
    direct, scratch = Direct(window, mixing.weights), Scratch(x.dtype)
    for _, function, arguments in direct.calls(maps, start, out, scratch, NO_ACTIVATION):
        function(*arguments)
    return out.reshape(m, batch, values) if values > 1 else out


def product_by_source(mixing: Mixing, g: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The derivatives by the source, as ``Mixing.vjp`` returns them.

    Args:
        mixing: of the product.
        g: derivatives by the target.
        x: the source.
    """
    transposed = mixing.transposed()
    if transposed is None:
        (by_source,) = mixing.vjp(g, g, x)
        return by_source
    return product(transposed, g).reshape(x.shape)
