"""Checks of a run's outputs by the root, batch by batch."""

from __future__ import annotations

from typing import Any, TypedDict, cast

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.comm_dtype import EXACT, STEPS
from repurpose_hpc.model.forward import Compute, compute, forward_middle
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.quality import LabelRows, quality_of
from repurpose_hpc.runtime.certificate import Certificate
from repurpose_hpc.runtime.resources import EXACT_FORMATS, Formats
from repurpose_hpc.runtime.streams.inputs import finite_batches

# Largest accepted difference from the float64 reference, relative to its largest output.
TOLERANCES = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}


def tolerance(dtype: np.dtype, formats: Formats = EXACT_FORMATS) -> float:
    """The tolerance of a run in ``dtype`` with these formats.

    Run and reference differ in the last bits of a ghost before it is rounded.  A few ghosts lie so close to
    the middle between two values of the format that they are rounded to different sides: they are a step
    apart.  The outputs would be a step apart too if all ghosts were, and if the network passed their relative
    error on as it is.  The reference has the weights as they were before they were rounded: another step.
    """
    return TOLERANCES[dtype] + STEPS[formats.comm_dtype] + STEPS[formats.weights_dtype]


class CheckResults(TypedDict, total=False):
    """What ``y`` means, and how well both networks agree with it; the certified share of samples, of 1; the
    largest difference from the reference."""

    labels: str
    labels_note: str
    accuracy: float
    reference_accuracy: float
    rmse: float
    reference_rmse: float
    r2: float | None
    reference_r2: float | None
    max_abs_difference: float
    relative_difference: float
    certified: float


class Checks:
    """Agreement with ``y``, the difference from the reference forward, and certified samples.

    Args:
        graph: of the network that the ranks run, with its ends.
        file: the input of the network, ``understood``; read a second time, whole, if there is a network to
            compare with.
        batch_size: of the run.
        restructured: what the ranks run, for the difference in float64; None: not compared.
        original: before it was restructured, for its agreement with ``y``; None: not known.
        certificate: None: nothing is certified.
        compute: of every operation of ``restructured``.
    """

    def __init__(
        self,
        graph: Network,
        file: Samples,
        batch_size: int,
        restructured: Network | None,
        original: Network | None,
        certificate: Certificate | None = None,
        compute: Compute = compute,
    ) -> None:
        self.compute, self.ends = compute, graph.ends
        self.file, self.restructured, self.certificate = file, restructured, certificate
        self.quality = quality_of(graph, file)
        self.labels = None if self.quality is None or file.y is None else LabelRows(file.y)
        self.original = None if self.quality is None else original
        self.original_quality = None if self.original is None else quality_of(graph, file)
        compares = self.restructured or self.original or self.certificate
        float64 = np.dtype(np.float64)
        self.inputs = finite_batches(file, batch_size, None, float64) if compares else None
        self.difference = self.largest = 0.0

    def add(self, packed: np.ndarray, outputs: np.ndarray | None = None) -> None:
        """Take in the next batch.

        Args:
            packed: outputs of the model, see ``Ends.packed``.
            outputs: of the network, (batch, outputs), the head applied; None: the same.

        Raises:
            UserError: the input cannot be read, or holds NaN or infinity.
        """
        y = None
        if self.quality is not None and self.labels is not None:
            y = self.labels.take(len(packed))
            self.quality.add(packed, y)
        if self.inputs is not None:
            self._compare(packed if outputs is None else outputs, next(self.inputs), y)

    def _compare(self, outputs: np.ndarray, inputs: np.ndarray, y: np.ndarray | None) -> None:
        """Run the other networks on the batch, (batch, inputs) float64."""
        if self.original is not None and self.original_quality is not None and y is not None:
            packed = self.ends.packed(forward_middle(self.original, inputs, np.float32))
            self.original_quality.add(packed, y)
        if self.restructured is not None:
            expected = forward_middle(self.restructured, inputs, np.float64, self.compute)
            # fmax would hide a NaN of the run.
            self.difference = np.maximum(self.difference, np.abs(outputs - expected).max())
            self.largest = max(self.largest, float(np.abs(expected).max()))
        if self.certificate is not None:
            self.certificate.add(inputs, outputs)

    def verify(self, dtype: np.dtype, formats: Formats = EXACT_FORMATS) -> None:
        """Refuse outputs, computed in ``dtype`` with these formats, that are not those of the reference.

        Raises:
            UserError: the relative difference is above ``tolerance``.
        """
        accepted = tolerance(dtype, formats)
        if self.restructured is not None and not self.relative_difference <= accepted:
            remedy = "--dtype float64" if formats.weights_dtype == EXACT else "--weights-dtype with more bits"
            raise UserError(
                f"expected outputs within {accepted:.3g} of the float64 reference of the same "
                f"weights, relative to its largest, found {self.relative_difference:.3g}; the run is wrong "
                f"or the network amplifies rounding errors: try {remedy}"
            )

    @property
    def relative_difference(self) -> float:
        """Largest difference over largest output of the reference."""
        return float(self.difference / self.largest) if self.largest else float(self.difference)

    def results(self) -> CheckResults:
        """The numbers that are known, under the names of the report."""
        found: dict[str, Any] = {} if self.file.meaning is None else dict(self.file.meaning.findings())
        if self.quality is not None:
            found |= self.quality.findings()
        if self.original_quality is not None:
            reference = self.original_quality.findings().items()
            found |= {f"reference_{name}": value for name, value in reference}
        results = cast(CheckResults, found)
        if self.restructured is not None:
            results["max_abs_difference"] = float(self.difference)
            results["relative_difference"] = self.relative_difference
        if self.certificate is not None:
            results["certified"] = self.certificate.share
        return results
