"""The comm dtype of the ghosts of one tensor, with the scales that int8 needs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from repurpose_hpc.model.comm_dtype import EXACT, INT8, code_dtype
from repurpose_hpc.plan.shard import Block


class CommDtype:
    """A format of messages, and the scales of the neurons that the hosted workers exchange.

    Attributes:
        is_exact: whether values travel as they are.
    """

    def __init__(self, name: str, blocks: Sequence[Block]) -> None:
        self.name, self.is_exact = name, name == EXACT
        neurons, scales = [], []
        for block in blocks if name == INT8 else ():
            neurons += [block.ghosts.sent, block.ghosts.received]
            scales += [block.sent_scales, block.received_scales]
        size = max((array.max(initial=-1) for array in neurons), default=-1) + 1
        self._scale = np.zeros(size, np.float32)
        for index, values in zip(neurons, scales, strict=True):
            self._scale[index] = values

    def codes(self, dtype: np.dtype) -> np.dtype:
        """The type of what is sent for values of ``dtype``."""
        return code_dtype(self.name, dtype)

    def scales(self, neurons: np.ndarray) -> np.ndarray:
        """Scales of ``neurons``, float32; what they are only matters for int8."""
        return self._scale[neurons] if self.name == INT8 else np.zeros(neurons.size, np.float32)


EXACT_DTYPE = CommDtype(EXACT, ())
