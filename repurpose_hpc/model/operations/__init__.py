"""The operations of a network, one file each, named here.

A ``Mixing`` is the only one that leads from one space to another; the others work neuron by neuron.  A file
holds all that the package knows of an operation: its data, what it computes in NumPy, its gradient, what it
is on some of its neurons, its gain for the bound, its cost for forecasts, and what makes it legal
(``operation``).  Compiled steps are made by ``runtime.lowering``, from a table by type.  May import
``model.activations``, nothing else of the package.
"""

from repurpose_hpc.model.operations.affine import Affine
from repurpose_hpc.model.operations.attention import UNLIMITED, Attention
from repurpose_hpc.model.operations.combine import COMBINATIONS, Combine
from repurpose_hpc.model.operations.depthwise import Depthwise
from repurpose_hpc.model.operations.elementwise import Elementwise
from repurpose_hpc.model.operations.membrane import PER_NEURON, RESETS, Membrane
from repurpose_hpc.model.operations.mixing import Mixing
from repurpose_hpc.model.operations.operation import (
    OPERATIONS,
    Cost,
    OneSource,
    Operation,
    Rows,
    Shape,
    needed,
)
from repurpose_hpc.model.operations.pool import POOLS, Pool
from repurpose_hpc.model.operations.positional import PositionTable, Rotary
from repurpose_hpc.model.operations.rearrange import Rearrange
from repurpose_hpc.model.operations.retention import Retention
from repurpose_hpc.model.operations.select import Select
from repurpose_hpc.model.operations.stitch import Stitch
from repurpose_hpc.model.operations.window import Window, pointwise, whole_map

__all__ = [
    "COMBINATIONS",
    "OPERATIONS",
    "PER_NEURON",
    "POOLS",
    "RESETS",
    "UNLIMITED",
    "Affine",
    "Attention",
    "Combine",
    "Cost",
    "Depthwise",
    "Elementwise",
    "Membrane",
    "Mixing",
    "OneSource",
    "Operation",
    "Pool",
    "PositionTable",
    "Rearrange",
    "Retention",
    "Rotary",
    "Rows",
    "Select",
    "Shape",
    "Stitch",
    "Window",
    "needed",
    "pointwise",
    "whole_map",
]
