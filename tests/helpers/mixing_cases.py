"""Mixings with windows of all kinds, their sources, and gradients by their targets."""

import numpy as np
from hypothesis import strategies as st

from repurpose_hpc.model.operations import Mixing, Window, pointwise, whole_map


@st.composite
def windows(draw):
    """No window, one of a single position, of a whole map, or any with an output for every axis."""
    axes = draw(st.integers(1, 3))

    def sizes(low, high):
        return tuple(draw(st.lists(st.integers(low, high), min_size=axes, max_size=axes)))

    positions = sizes(1, 4)
    kind = draw(st.sampled_from(["vector", "pointwise", "whole", "same", "any", "any"]))
    if kind in ("vector", "pointwise", "whole"):
        return {"vector": None, "pointwise": pointwise(positions), "whole": whole_map(positions)}[kind]
    kernel, dilations = sizes(1, 3), sizes(1, 2)
    if kind == "same":
        pads = tuple(draw(st.integers(0, (k - 1) * d + 1)) for k, d in zip(kernel, dilations, strict=True))
        return Window(positions, kernel, (1,) * axes, dilations, pads, positions)
    return Window(positions, kernel, sizes(1, 3), dilations, sizes(0, 2), sizes(1, 4))


@st.composite
def cases(draw, dtype=np.float64):
    """A mixing, a gradient by its target, and its source; perhaps without neurons."""
    window, rng = draw(windows()), np.random.default_rng(draw(st.integers(0, 99)))
    m, n, batch = draw(st.integers(0, 3)), draw(st.integers(0, 3)), draw(st.integers(1, 4))
    taps, positions = (window.taps, (np.prod(window.positions),)) if window else (1, ())
    x = rng.standard_normal((n, batch, *positions)).astype(dtype)
    x = x[..., 0] if x.ndim == 3 and x.shape[2] == 1 else x
    weights, bias = rng.standard_normal((m, n * taps)).astype(dtype), rng.standard_normal(m).astype(dtype)
    op = Mixing("op", "x", "y", weights, bias, window)
    return op, rng.standard_normal(op.compute(x).shape).astype(dtype), x
