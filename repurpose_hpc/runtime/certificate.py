"""Samples whose class provably is that of the original network (``infer --certify``)."""

from __future__ import annotations

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.bound import OutputBound
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.reference import trace


class Certificate:
    """Certifies samples, batch by batch.

    With z the restructured network's outputs before the head and d the bound of how far they are from
    the original's, no output can have moved by more than d.  Where the largest of z leads the second
    largest by more than 2 d, it is the original's largest too.

    Args:
        original: before restructuring.
        restructured: what the ranks run.

    Raises:
        UserError: the network has a single output, hence no classes.
    """

    def __init__(self, original: Network, restructured: Network) -> None:
        if original.outputs < 2:
            raise UserError(
                f"--certify: expected a network of 2 outputs or more, found {original.outputs}: it has no "
                "classes to certify; leave the option out"
            )
        self.original, self.restructured = original, restructured
        self.bound = OutputBound(restructured)
        self.seen = self.certified = 0

    def add(self, inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """Take in the next batch.

        Args:
            inputs: (batch, inputs) float64.
            outputs: of the run, (batch, outputs), the head applied or not.

        Returns:
            bool, (batch,): the samples whose class in ``outputs`` is certified.
        """
        x = np.ascontiguousarray(inputs.T)
        bounds = self.bound(trace(self.original, x))
        z = trace(self.restructured, x)[self.restructured.output]
        second, largest = np.partition(z, -2, axis=0)[-2:]
        # The run computes z in its own precision: only classes that survive it count.
        same_class = outputs.argmax(axis=1) == z.argmax(axis=0)
        certified = same_class & (largest - second > 2 * bounds)
        self.seen += len(certified)
        self.certified += int(np.count_nonzero(certified))
        return certified

    @property
    def share(self) -> float:
        """Certified samples over all samples."""
        return self.certified / self.seen
