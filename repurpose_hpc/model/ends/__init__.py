"""What stands before and behind the network: subgraphs of a model that are computed as they are.

``subgraph`` holds one and computes it: by NumPy with the functions of ``elementwise``, ``layout`` and
``reduction``, one for each operator, registered with ``call``; else by onnxruntime (``foreign``).
``ends`` says what they do to samples and outputs.  May import io and errors; nothing else of the package.
"""

from repurpose_hpc.model.ends.ends import Ends, class_column, has_scores, packed_dtype, sample_shape
from repurpose_hpc.model.ends.subgraph import Port, Step, Subgraph

__all__ = [
    "Ends",
    "Port",
    "Step",
    "Subgraph",
    "class_column",
    "has_scores",
    "packed_dtype",
    "sample_shape",
]
