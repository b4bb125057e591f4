"""Samples whose class provably is that of the original network (``infer --certify``)."""

from __future__ import annotations

import numpy as np

from repurpose_hpc.fields import FieldError
from repurpose_hpc.model.bound import OutputBound
from repurpose_hpc.model.forward import outputs, trace
from repurpose_hpc.model.network import Network


class Certificate:
    """Certifies samples, batch by batch.

    Let z be the restructured network's outputs before the head, and d a bound of their distance from the
    original's.  Then no output has moved by more than d.  Where the largest of z leads the second largest by
    more than 2 d, it is the original's largest too.

    Args:
        original: before restructuring.
        restructured: what the ranks run.

    Raises:
        FieldError: the network has no classes: a single value, maps, or several outputs; or its outputs are
            not those of the model.
    """

    def __init__(self, original: Network, restructured: Network) -> None:
        if original.ends.back is not None:
            raise FieldError(
                "certify",
                "expected a model whose outputs are those of the network, found "
                f"{', '.join(original.ends.back.operators)} behind it, of which the bound says nothing; "
                "leave it out",
            )
        if original.outputs < 2 or not original.has_classes:
            raise FieldError(
                "certify",
                "expected a network with one output, a vector of 2 values or more, found "
                f"{len(original.output_tensors)} outputs of {original.outputs} values: it has no classes to "
                "certify; leave it out",
            )
        self.original, self.restructured = original, restructured
        self.bound = OutputBound(restructured)
        self.samples = self.certified = 0

    def add(self, inputs: np.ndarray, run_outputs: np.ndarray) -> np.ndarray:
        """Take in the next batch.

        Args:
            inputs: (batch, inputs) float64.
            run_outputs: of the run, (batch, outputs), the head applied or not.

        Returns:
            bool, (batch,): the samples whose class in ``run_outputs`` is certified.
        """
        x = np.ascontiguousarray(inputs.T)
        bounds = self.bound(trace(self.original, x))
        z = outputs(self.restructured, trace(self.restructured, x))
        second, largest = np.partition(z, -2, axis=0)[-2:]
        # The run computes z in its own precision: only classes that survive it count.
        same_class = run_outputs.argmax(axis=1) == z.argmax(axis=0)
        certified = same_class & (largest - second > 2 * bounds)
        self.samples += len(certified)
        self.certified += int(np.count_nonzero(certified))
        return certified

    @property
    def share(self) -> float:
        """Certified samples over all samples."""
        return self.certified / self.samples
