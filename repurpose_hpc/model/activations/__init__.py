"""Element-wise functions: ``functions`` and ``elementary`` declare every kind once.

``activation`` is what they have in common.

May import nothing of the package; ``kernels.activations`` has compiled twins under the same names.
"""

from repurpose_hpc.model.activations.activation import (
    DECLARED,
    Activation,
    ActivationKind,
    Parameter,
    Piece,
    activate,
    derivative,
    image,
    is_homogeneous,
    is_truth,
    lipschitz,
    parse,
    pieces,
    value_range,
)
from repurpose_hpc.model.activations.elementary import KINDS

IDENTITY = Activation("identity")
RELU = Activation("relu")

__all__ = [
    "DECLARED",
    "IDENTITY",
    "KINDS",
    "RELU",
    "Activation",
    "ActivationKind",
    "Parameter",
    "Piece",
    "activate",
    "derivative",
    "image",
    "is_homogeneous",
    "is_truth",
    "lipschitz",
    "parse",
    "pieces",
    "value_range",
]
