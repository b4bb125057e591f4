"""Whether the network computes numbers on the calibration data, in the precision in which it will run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.forward import Compute, compute, split_inputs
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Operation
from repurpose_hpc.restructure.calibration.moments import CalibrationBatches, map_batches
from repurpose_hpc.restructure.team import Team


def check_activations(
    network: Network,
    samples: Samples,
    dtype: type,
    team: Team,
    compute: Compute = compute,
    subject: str = "the model",
) -> None:
    """Refuse NaN and infinity in what mixings read and make, and in outputs; collective.

    What a condition leaves out, such as the logarithm of a negative number, may be anything.

    Args:
        network: the one that is computed.
        samples: calibration data, finite.
        dtype: in which to compute.
        team: shares the work.
        compute: of every operation.
        subject: the network, for the message.

    Raises:
        UserError: names the first operation that makes such a value, the sample and what it read.
    """
    batches = CalibrationBatches(network, None, samples)
    checked = {*network.output_tensors}.union(*({op.source, op.target} for op in network.mixings))

    def check(number: int, batch: np.ndarray) -> None:
        with np.errstate(all="ignore"):
            tensors = split_inputs(network, batch.astype(dtype))
            for op in network.operations:
                tensors[op.target] = compute(op, *(tensors[source] for source in op.sources))
                if op.target in checked and not np.isfinite(tensors[op.target]).all():
                    raise UserError(
                        f"{samples.name}: {subject}: "
                        + _described(network, tensors, op.target, number * batches.rows, dtype)
                    )

    for _ in map_batches(check, batches, team):
        pass


def _described(
    network: Network, tensors: dict[str, np.ndarray], target: str, first_sample: int, dtype: type
) -> str:
    """The operation behind ``target`` that was the first to make a value that is not finite."""
    op = next(op for op in _behind(network, target) if not np.isfinite(tensors[op.target]).all())
    values = tensors[op.target]
    place = tuple(np.argwhere(~np.isfinite(values))[0])
    read = [tensors[source][:, place[1]] for source in op.sources]
    low, high = _range(read)
    return (
        f"expected finite values in every layer, found {values[place]} made by {op.name!r} "
        f"({_kind(op)}) of values from {low:.3g} to {high:.3g} in sample {first_sample + place[1]}, computed "
        f"in {np.dtype(dtype).name}; scale the data as for training, keep the arguments in its range, or "
        "use --dtype float64 if they are only too large or too small"
    )


def _range(arrays: list[np.ndarray]) -> tuple[float, float]:
    return min(float(array.min()) for array in arrays), max(float(array.max()) for array in arrays)


def _behind(network: Network, target: str) -> Iterator[Operation]:
    """The operations on which ``target`` depends, in order."""
    wanted, behind = {target}, []
    for op in reversed(network.operations):
        if op.target in wanted:
            wanted |= {*op.sources}
            behind.append(op)
    return reversed(behind)


def _kind(op: Operation) -> str:
    activation = getattr(op, "activation", None)
    return type(op).__name__.lower() if activation is None else activation.kind
