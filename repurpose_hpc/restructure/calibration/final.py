"""Distance of the outputs of two models behind their common back."""

from __future__ import annotations

import numpy as np

from repurpose_hpc.model.forward import apply_heads
from repurpose_hpc.model.network import Network


class FinalErrors:
    """What the model makes of the outputs of two networks, added up batch by batch.

    Args:
        network: one of the two, with heads and ends.
    """

    def __init__(self, network: Network) -> None:
        self._network, self._back = network, network.ends.back
        self._squares, self._same, self._integers = np.zeros(2), 0, 0

    def add(self, z: np.ndarray, z_hat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add a batch of outputs before the head, (outputs, batch).

        Returns:
            for both what ``model.quality`` judges, (batch, values): the packed outputs of the model, or
            without a back those given.
        """
        if self._back is None:
            return z.T, z_hat.T
        packed, new_packed = self._packed(z), self._packed(z_hat)
        first = 0
        for port in self._back.outputs:
            columns = slice(first, first + port.size)
            first += port.size
            self._add(port.kind, packed[:, columns], new_packed[:, columns])
        return packed, new_packed

    def with_heads(self, given: np.ndarray) -> np.ndarray:
        """What ``add`` returned, heads applied."""
        return apply_heads(self._network, given) if self._back is None else given

    def findings(self) -> dict[str, float]:
        """Errors of the model's outputs; empty without a back.

        ``final_output_error``: |y − ŷ| / |y| of the real numbers; ``final_agreement``: share of the integers
        that are the same.
        """
        findings = {}
        if self._back is not None and any(port.kind == "f" for port in self._back.outputs):
            findings["final_output_error"] = float(np.sqrt(self._squares[0] / (self._squares[1] or 1.0)))
        if self._integers:
            findings["final_agreement"] = self._same / self._integers
        return findings

    def _packed(self, z: np.ndarray) -> np.ndarray:
        return self._network.ends.packed(apply_heads(self._network, np.ascontiguousarray(z.T)))

    def _add(self, kind: str, y: np.ndarray, y_hat: np.ndarray) -> None:
        if kind == "f":
            y, y_hat = y.astype(np.float64), y_hat.astype(np.float64)
            self._squares += np.sum((y - y_hat) ** 2), np.sum(y**2)
        else:
            self._same += int(np.count_nonzero(y == y_hat))
            self._integers += y.size
