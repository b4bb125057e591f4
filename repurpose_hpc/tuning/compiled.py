"""What a batch makes of operations and their derivatives, by kernels where NumPy would copy patches of maps.

What there is no kernel for is left to the operations, which are also what kernels are tested against.  The
kernel of convolutions wants weights in panels.  They are packed anew each time, as they change with every
step; those of convolutions are few.
"""

from __future__ import annotations

import math

import numpy as np

from repurpose_hpc.kernels import convolution_gradient, max_pool, max_pool_gradient, relu_gradient
from repurpose_hpc.model.operations import Elementwise, Mixing, Operation, Pool, Window
from repurpose_hpc.model.operations.patches import as_columns, as_map, from_map
from repurpose_hpc.runtime.buffers import Scratch
from repurpose_hpc.runtime.lowering.blocks import NO_ACTIVATION
from repurpose_hpc.runtime.lowering.convolution import Direct
from repurpose_hpc.runtime.lowering.local import as_maps, on_two_axes, two


def product(mixing: Mixing, x: np.ndarray) -> np.ndarray:
    """W x + b, as ``Mixing.compute`` returns it, but for rounding."""
    window = _convolved(mixing)
    if window is None or not mixing.W.size:
        return mixing.compute(x)
    m, batch, values = len(mixing.W), x.shape[1], math.prod(window.out)
    maps = np.ascontiguousarray(as_map(x))
    out, start = np.empty((m, batch * values), x.dtype), mixing.bias.reshape(-1, 1)
    direct, scratch = Direct(window, mixing.W), Scratch(x.dtype)
    for _, function, arguments in direct.calls(maps, start, out, scratch, NO_ACTIVATION):
        function(*arguments)
    return from_map(out.reshape(m, batch, values))


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


def product_by_weights(mixing: Mixing, g: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The derivatives by weights and bias, as ``Mixing.gradient`` returns them; arguments as above."""
    window = _convolved(mixing)
    if window is None:
        return mixing.gradient(g, x)
    by_weights = np.empty((len(g), len(x) * mixing.taps), g.dtype)
    maps = _maps(g, window.out), _maps(x, window.positions)
    convolution_gradient(*maps, on_two_axes(window), by_weights)
    return by_weights, as_columns(g).sum(axis=1)


def computed(op: Operation, *sources: np.ndarray) -> np.ndarray:
    """The target, as ``op.compute`` returns it."""
    window = _pooled(op)
    if window is None:
        return op.compute(*sources)
    (x,) = sources
    target = np.empty((*x.shape[:2], *two(window.out)), x.dtype)
    max_pool(_maps(x, window.positions), on_two_axes(window), target)
    return from_map(target)


def vjp(op: Operation, g: np.ndarray, target: np.ndarray, *sources: np.ndarray) -> list[np.ndarray]:
    """The derivatives by the sources, as ``op.vjp`` returns them."""
    window, is_relu = _pooled(op), isinstance(op, Elementwise) and op.activation.kind == "relu"
    if window is None and not is_relu:
        return op.vjp(g, target, *sources)
    (x,) = sources
    out = np.empty(x.shape, x.dtype)  # in C order, whatever that of x is: kernels write into views
    if window is None:
        relu_gradient(_flat(g), _flat(x), out.reshape(-1))
    else:
        maps = _maps(g, window.out), _maps(x, window.positions), _maps(target, window.out)
        max_pool_gradient(*maps, on_two_axes(window), _maps(out, window.positions))
    return [out]


def _convolved(mixing: Mixing) -> Window | None:
    """The window of a convolution that the kernels know, else None."""
    window = mixing.window
    return window if window is not None and window.is_convolution and _is_flat(window) else None


def _pooled(op: Operation) -> Window | None:
    """The window of a max pool that the kernels know, else None."""
    return op.window if isinstance(op, Pool) and op.kind == "max" and _is_flat(op.window) else None


def _is_flat(window: Window) -> bool:
    """Whether its maps have one axis or two."""
    return len(window.positions) <= 2


def _maps(x: np.ndarray, positions: tuple[int, ...]) -> np.ndarray:
    """A tensor as kernels take it."""
    return as_maps(np.ascontiguousarray(as_map(x)), positions)


def _flat(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).reshape(-1)
