"""The difference of a run's outputs from the float64 reference of the same weights, on the root."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cached_property

import numpy as np

from repurpose_hpc.errors import Note, UserError
from repurpose_hpc.model.comm_dtype import EXACT, INT8, STEPS, received
from repurpose_hpc.model.forward import Compute, compute, forward_middle
from repurpose_hpc.model.network import Network
from repurpose_hpc.runtime.lowering.weights import row_scales
from repurpose_hpc.runtime.resources import EXACT_FORMATS, Formats

# Largest accepted difference from the float64 reference, relative to its largest output.
TOLERANCES = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}
# A network may amplify rounding errors.  A run sums in another order than NumPy does, and may be off by this
# many times as much.
AMPLIFIED = 4
# What a network amplifies beyond this, relative to its largest output, says nothing about the run.
MOST = 1e-2
# The same where weights are rounded to fewer bits.
MOST_ROUNDED = 0.1


def tolerance(dtype: np.dtype, formats: Formats = EXACT_FORMATS) -> float:
    """The tolerance of a run in ``dtype`` with these formats, of a network that does not amplify rounding.

    Run and reference differ in the last bits of a ghost before it is rounded.  A few ghosts lie so close to
    the middle between two values of the format that they are rounded to different sides: they are a step
    apart.  The outputs would be a step apart too if all ghosts were, and if the network passed their relative
    error on as it is.  The reference has the weights as they were before they were rounded: another step,
    likewise.
    """
    return TOLERANCES[dtype] + STEPS[formats.comm_dtype] + STEPS[formats.weights_dtype]


class Verification:
    """The largest difference from the float64 reference, and what rounding alone does to the network.

    Where the difference of a batch is above the tolerance, NumPy computes the batch in float32, too, with
    weights in the format of the run: its difference from the reference shows how much the network amplifies
    rounding errors.  Int8 then has a scale for every row, where a run has one for every row of a block.

    Args:
        network: what the ranks run.
        dtype, formats: of the run.
        compute: of every operation.

    ``difference`` and ``rounding`` are those of the run and of NumPy in float32, ``largest`` is the largest
    output of the reference.
    """

    def __init__(
        self,
        network: Network,
        dtype: np.dtype,
        formats: Formats = EXACT_FORMATS,
        compute: Compute = compute,
    ) -> None:
        self.network, self.dtype, self.formats, self.compute = network, dtype, formats, compute
        self.tolerance = tolerance(dtype, formats)
        self._rounds_weights = formats.weights_dtype != EXACT
        self.difference = self.rounding = self.largest = 0.0

    def add(self, outputs: np.ndarray, inputs: np.ndarray) -> None:
        """Take in the next batch: outputs of the run, and its inputs, (batch, inputs) float64."""
        expected = self.reference(inputs, np.float64)
        difference = np.abs(outputs - expected).max()
        # fmax would hide a NaN of the run.
        self.difference = np.maximum(self.difference, difference)
        self.largest = max(self.largest, float(np.abs(expected).max()))
        if not difference <= self.tolerance * self.largest:
            single = self.reference(inputs, np.float32)
            self.rounding = np.fmax(self.rounding, np.abs(single - expected).max())

    def reference(self, inputs: np.ndarray, dtype: type) -> np.ndarray:
        """What NumPy computes of inputs; in float32 with weights in the format of the run."""
        network = self.network if dtype == np.float64 else self._rounded
        return forward_middle(network, inputs, dtype, self.compute)

    @cached_property
    def _rounded(self) -> Network:
        """The network with weights in the format of the run."""
        weights_dtype = self.formats.weights_dtype
        rounded = {}
        for mixing in self.network.mixings if self._rounds_weights else ():
            if mixing.is_sparse:  # they stay as they are
                continue
            weights = mixing.W.astype(np.float32)
            scales = row_scales(weights) if weights_dtype == INT8 else None
            values = received(weights, weights_dtype, scales).astype(mixing.weights.dtype)
            rounded[mixing.name] = replace(mixing, weights=values)
        return self.network.with_mixings(rounded)

    def check(self) -> None:
        """Refuse outputs that are not those of the reference; a ``Note`` where rounding is amplified.

        Raises:
            UserError: the relative difference is above what is ``accepted``.
        """
        if self.relative_difference <= self.tolerance:
            return
        if not self.relative_difference <= self.accepted:
            raise UserError(
                f"expected outputs within {self.accepted:.3g} of the float64 reference of the same "
                f"weights, relative to its largest, found {self.relative_difference:.3g}, and "
                f"{self.relative_rounding:.3g} by {self._other}; the run is wrong, or the network "
                f"amplifies rounding errors too much to tell: try {self._remedy}"
            )
        warnings.warn(
            f"the network amplifies rounding errors: outputs differ by {self.relative_difference:.3g} from "
            f"the float64 reference of the same weights, relative to its largest, those of {self._other} "
            f"by {self.relative_rounding:.3g}; if this is too much, try {self._remedy}",
            Note,
            stacklevel=2,
        )

    @property
    def accepted(self) -> float:
        """The largest relative difference that is taken for rounding."""
        finer = 1.0 if self._rounds_weights else np.finfo(self.dtype).eps / np.finfo(np.float32).eps
        amplified = AMPLIFIED * finer * self.relative_rounding
        most = MOST_ROUNDED if self._rounds_weights else MOST
        return max(self.tolerance, min(amplified, most) if np.isfinite(amplified) else 0)

    @property
    def relative_difference(self) -> float:
        """Largest difference over largest output of the reference."""
        return self._relative(self.difference)

    @property
    def relative_rounding(self) -> float:
        """The same of NumPy in float32, on the batches where it was computed."""
        return self._relative(self.rounding)

    def results(self) -> dict[str, float]:
        """The numbers, under the names of the report."""
        found = {
            "max_abs_difference": float(self.difference),
            "relative_difference": self.relative_difference,
        }
        return found | {"relative_rounding": self.relative_rounding} if self.rounding else found

    @property
    def _other(self) -> str:
        """What the run is compared with beside the reference."""
        weights = f" with weights in {self.formats.weights_dtype}" if self._rounds_weights else ""
        return f"NumPy in float32{weights}"

    @property
    def _remedy(self) -> str:
        if self._rounds_weights:
            return "--weights-dtype with more bits"
        more = "restructuring with more samples or a larger budget"
        return more if self.dtype == np.float64 else f"--dtype float64, or {more}"

    def _relative(self, difference: float) -> float:
        return float(difference / self.largest) if self.largest else float(difference)
