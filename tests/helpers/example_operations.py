"""One operation of every kind that there is, in a small network; and small networks of all kinds."""

from __future__ import annotations

import numpy as np

from helpers.small_graphs import (
    TANH,
    Draw,
    branching_network,
    convolutional_network,
    normalised_network,
    residual_network,
    spiking_network,
    square_window,
    transformer,
)
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Operation, Stitch, pointwise

SIZE = (4, 3)

# By the name of the operation: adds one to a builder, behind a tensor of 3 neurons with maps of SIZE.
EXAMPLES = {
    "Mixing": lambda d, x: d.mixing("op", x, 2, square_window(SIZE)),
    "Elementwise": lambda d, x: d.builder.elementwise("op", x, TANH),
    "Affine": lambda d, x: d.builder.affine("op", x, *d.rng.standard_normal((2, 3, 12))),
    "Pool": lambda d, x: d.builder.pool("op", x, "average", square_window(SIZE), True, (5, 4)),
    "Depthwise": lambda d, x: d.depthwise("op", x, square_window(SIZE)),
    "Rearrange": lambda d, x: d.builder.rearrange("op", x, np.array([3, -1, 0, 3]), (4,), 2.0),
    "Combine": lambda d, x: d.builder.combine("op", x, d.mixing("other", x, 3, square_window(SIZE)), "add"),
    "Select": lambda d, x: d.builder.select("op", (x, x), np.array([5, 0, 1, 0])),
    "Stitch": lambda d, x: d.builder.add(
        Stitch(
            "op", (x, d.builder.rearrange("part", x, np.arange(3), (3,))), "op.y", np.array([14, 0, 1, 12])
        ),
        (4,),
    ),
    "Membrane": lambda d, x: d.membrane("op", x, 4, positions=3, fires=False, reset="none"),
    "PositionTable": lambda d, x: d.builder.position_table("op", x, d.rng.standard_normal((3, 14))),
    "Rotary": lambda d, x: d.builder.rotary("op", x, 1, np.array([0.7]), factor=1.5),
    "Attention": lambda d, x: d.attention("op", x, heads=4, groups=2, after=2, softcap=3.0),
    "Retention": lambda d, x: d.retention("op", x, heads=3),
}


def example(name: str) -> tuple[Network, Operation]:
    """A network with an operation of the class of this name, and the operation."""
    draw = Draw(1)
    first = draw.mixing("first", draw.builder.input("input", 2, SIZE), 3, square_window(SIZE))
    network = draw.builder.build((EXAMPLES[name](draw, first),), ("identity",))
    return network, next(op for op in network.operations if op.name == "op")


def two_heads() -> Network:
    """Rotations, and selections of an input and of each other."""
    draw = Draw(2)
    builder = draw.builder
    x = builder.input("input", 4, (3,))
    tensor = draw.mixing("first", x, 10, pointwise((3,)))
    turned = builder.rotary("turned", tensor, 2, np.array([1.0, 0.1]), interleaved=True)
    chosen = builder.select("chosen", (x, turned), np.array([9, 1, 3, 1, 13, 0]))
    again = builder.select("again", (chosen, x), np.array([6, 5, 1, 2, 2, 9]))
    last = builder.position_table("last", again, draw.rng.standard_normal((6, 3)))
    return builder.build((last,), ("identity",))


# By name, functions that make them.
NETWORKS = {
    "residual": residual_network,
    "convolutional": convolutional_network,
    "branching": branching_network,
    "normalised": normalised_network,
    "transformer": transformer,
    "two heads": two_heads,
    "spiking": spiking_network,
    **{name: lambda name=name: example(name)[0] for name in EXAMPLES},
}
