"""Checks of a run's outputs by the root, batch by batch."""

from __future__ import annotations

from typing import Any, TypedDict, cast

import numpy as np

from repurpose_hpc.io.blocks import in_blocks
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.forward import forward_middle
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.quality import LabelRows, quality_of
from repurpose_hpc.runtime.certificate import Certificate
from repurpose_hpc.runtime.streams.inputs import finite
from repurpose_hpc.runtime.verification import Verification


class CheckResults(TypedDict, total=False):
    """What ``y`` means, and how well both networks agree with it; the certified share of samples, of 1; the
    largest difference from the reference, and that of NumPy in float32."""

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
    relative_rounding: float
    certified: float


class Checks:
    """Agreement with ``y``, the difference from the reference forward, and certified samples.

    Args:
        graph: of the network that the ranks run, with its ends.
        file: the input of the network, ``understood``; read a second time, whole, if there is a network to
            compare with.
        batch_size: of the run.
        original: before it was restructured, for its agreement with ``y``; None: not known.
        certificate: None: nothing is certified.
        verification: of the outputs; None: they are not compared with the reference.
    """

    def __init__(
        self,
        graph: Network,
        file: Samples,
        batch_size: int,
        original: Network | None,
        certificate: Certificate | None = None,
        verification: Verification | None = None,
    ) -> None:
        self.file, self.ends = file, graph.ends
        self.certificate, self.verification = certificate, verification
        self.quality = quality_of(graph, file)
        self.labels = None if self.quality is None or file.y is None else LabelRows(file.y)
        self.original = None if self.quality is None else original
        self.original_quality = None if self.original is None else quality_of(graph, file)
        compares = verification or self.original or certificate
        stretches, float64 = in_blocks(file.samples, batch_size), np.dtype(np.float64)
        self.inputs = finite(file, stretches, None, float64) if compares else None

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
        if self.verification is not None:
            self.verification.add(outputs, inputs)
        if self.certificate is not None:
            self.certificate.add(inputs, outputs)

    def verify(self) -> None:
        """Refuse outputs that are not those of the reference, see ``Verification.check``."""
        if self.verification is not None:
            self.verification.check()

    def results(self) -> CheckResults:
        """The numbers that are known, under the names of the report."""
        found: dict[str, Any] = {} if self.file.meaning is None else dict(self.file.meaning.findings())
        if self.quality is not None:
            found |= self.quality.findings()
        if self.original_quality is not None:
            reference = self.original_quality.findings().items()
            found |= {f"reference_{name}": value for name, value in reference}
        if self.verification is not None:
            found |= self.verification.results()
        results = cast(CheckResults, found)
        if self.certificate is not None:
            results["certified"] = self.certificate.share
        return results
