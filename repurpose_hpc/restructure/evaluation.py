"""How far a restructured network is from the original, on calibration data."""

from __future__ import annotations

import numpy as np

from repurpose_hpc.data import Samples
from repurpose_hpc.model.network import Network
from repurpose_hpc.restructure.statistics import calibration_batches, propagate


def evaluate(original: Network, restructured: Network, samples: Samples) -> dict:
    """Errors and accuracies of the restructured network.

    Returns:
        ``relative_error``: mixing name -> |y − ŷ| / |y| over all samples, on the restructured network's own
        inputs; ``output_error``: the same for the output before the head; ``agreement``: share of samples
        whose largest output is the same; with labels ``reference_accuracy`` and ``accuracy``.
    """
    names = {mixing.name: mixing.target for mixing in original.mixings} | {"output": original.output}
    squares = {name: np.zeros(2) for name in names}
    agreeing, right = 0, np.zeros(2, np.int64)
    first = 0
    for batch in calibration_batches(samples):
        y = propagate(original, batch, original.output)
        y_hat = propagate(restructured, batch, restructured.output)
        for name, tensor in names.items():
            squares[name] += np.sum((y[tensor] - y_hat[tensor]) ** 2), np.sum(y[tensor] ** 2)
        classes = y[original.output].argmax(axis=0), y_hat[original.output].argmax(axis=0)
        agreeing += np.count_nonzero(classes[0] == classes[1])
        if samples.labels is not None:
            labels = samples.labels[first : first + batch.shape[1]]
            right += [np.count_nonzero(labels == found) for found in classes]
        first += batch.shape[1]
    errors = {name: float(np.sqrt(error / (total or 1.0))) for name, (error, total) in squares.items()}
    result = {
        "output_error": errors.pop("output"),
        "agreement": int(agreeing) / samples.samples,
        "relative_error": errors,
    }
    if samples.labels is not None:
        result["reference_accuracy"], result["accuracy"] = (right / samples.samples).tolist()
    return result
