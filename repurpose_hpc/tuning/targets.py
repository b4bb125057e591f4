"""What outputs are compared with, on the root: labels, or what the original network makes of the samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.meaning import CLASSES, MULTILABEL, TARGETS
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.labels import ROWS, SUM, last_activations, thresholds
from repurpose_hpc.model.network import Network
from repurpose_hpc.runtime.program import one_process
from repurpose_hpc.runtime.streams.outputs import in_order
from repurpose_hpc.tuning.losses import (
    Loss,
    binary_cross_entropy,
    cross_entropy,
    distillation,
    squared_error,
)


@dataclass(frozen=True, eq=False)
class Targets:
    """What outputs are compared with.

    Attributes:
        name: of the loss, for the report.
        loss: of outputs (batch, outputs), the heads not applied, and of some rows of ``wanted``.
        wanted: a row for each sample.
        classes: the class of each sample that counts as right, (samples,) int64; None: there are no classes.
    """

    name: str
    loss: Callable[[np.ndarray, np.ndarray], Loss]
    wanted: np.ndarray
    classes: np.ndarray | None

    def loss_of(self, outputs: np.ndarray, samples: np.ndarray) -> Loss:
        """The loss of the outputs for some samples, by their numbers."""
        return self.loss(outputs, self.wanted[samples])

    def right(self, outputs: np.ndarray, samples: np.ndarray) -> int:
        """For how many samples the largest output is that of the class."""
        if self.classes is None:
            return 0
        return int(np.count_nonzero(outputs.argmax(axis=1) == self.classes[samples]))


def of_labels(network: Network, samples: Samples) -> Targets:
    """Targets that ``y`` names.

    Args:
        network: any of samples.
        samples: ``understood``.

    Raises:
        UserError: ``y`` is missing or means nothing for the network, or its outputs are not the model's.
    """
    if network.ends.back is not None:
        operators = ", ".join(network.ends.back.operators)
        raise UserError(
            f"{samples.name}: expected labels for what the network gives, found a model that makes something "
            f"else of it ({operators}); leave --labels out, and name the original with --distill"
        )
    if samples.y is None or samples.meaning is None or samples.meaning.kind not in _KINDS:
        reason = "no y" if samples.meaning is None else samples.meaning.note
        raise UserError(
            f"{samples.name}: expected labels or targets y for --labels, found {reason}; mend y, or leave "
            "--labels out, and name the original with --distill"
        )
    y = np.concatenate(list(samples.y.batches(ROWS, dtype=np.float64)))
    if samples.meaning.kind == CLASSES and network.outputs > 1:
        classes = y[:, 0].astype(np.int64) if y.shape[1] == 1 else y.argmax(axis=1)
        if _gives_logits(network):
            return Targets("cross-entropy with labels", cross_entropy, classes, classes)
        rows = np.eye(network.outputs)

        def against_one_hot(outputs: np.ndarray, wanted: np.ndarray) -> Loss:
            return squared_error(outputs, rows[wanted])

        return Targets("squared error against labels", against_one_hot, classes, classes)
    if samples.meaning.kind != TARGETS and np.all(thresholds(network) == 0):
        return Targets("binary cross-entropy with labels", binary_cross_entropy, y, None)
    return Targets(f"squared error against {samples.meaning.kind}", squared_error, y, None)


_KINDS = (CLASSES, MULTILABEL, TARGETS)


def of_original(
    network: Network, samples: Samples, original: Network, dtype: np.dtype, batch_size: int
) -> Targets:
    """``of_outputs`` of the original network, which are computed.

    Args:
        network, samples: as there.
        original: the trained network.
        dtype: to compute in.
        batch_size: samples at a time.
    """
    return of_outputs(network, samples, outputs_of(original, samples, dtype, batch_size))


def of_outputs(network: Network, samples: Samples, outputs: np.ndarray) -> Targets:
    """Targets that the original network's outputs are.

    Args:
        network: what is tuned.
        samples: ``understood``; its labels, if it has any, only say that there are classes.
        outputs: of the original, (samples, outputs), the heads not applied; see ``outputs_of``.
    """
    tells_classes = samples.meaning is not None and samples.meaning.kind == CLASSES
    if _gives_logits(network) and network.outputs > 1 and (tells_classes or network.heads[0] != "identity"):
        return Targets("divergence from the original", distillation, outputs, outputs.argmax(axis=1))
    variance = float(outputs.var(axis=0, dtype=np.float64).sum()) or 1.0

    def relative_error(made: np.ndarray, wanted: np.ndarray) -> Loss:
        value, gradient = squared_error(made, wanted)
        return Loss(value / variance, gradient / made.dtype.type(variance))

    return Targets("squared error against the original, over its variance", relative_error, outputs, None)


def outputs_of(network: Network, samples: Samples, dtype: np.dtype, batch_size: int) -> np.ndarray:
    """The outputs of a network in this process, (samples, outputs), the heads not applied."""
    program = one_process(network, dtype, batch_size)
    columns = program.input_columns
    return np.concatenate(
        [
            in_order(program.forward(np.ascontiguousarray(batch.T)), program.output_columns)
            for batch in samples.batches(batch_size, columns, dtype.type)
        ]
    )


def _gives_logits(network: Network) -> bool:
    """True if the only output is a vector of weighted sums, perhaps with a softmax as its head."""
    ends = last_activations(network)
    return network.has_classes and ends[network.output_tensors[0]] == SUM
