"""Both ends of a model: what stands before the network that is restructured, and what stands behind it.

The *front* makes the samples of the network, which is the *middle* of the model, from those of a file; the
*back* makes the outputs of the model from those of the middle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import Samples, check_finite, check_shape
from repurpose_hpc.model.ends.call import EMBEDDING
from repurpose_hpc.model.ends.subgraph import Port, Subgraph

# Up to here float64 has every integer.
_EXACT = 1 << 53


@dataclass(frozen=True, eq=False)
class Ends:
    """The subgraphs around the middle of a model.

    Attributes:
        front: from the inputs of the model to those of the middle; None: they are the same.
        back: from the outputs of the middle, their heads applied, to those of the model; None: likewise.
        one_by_one: whether the ends, and the heads, are computed of every sample by itself.  Of several NumPy
            and BLAS may add up in another order.
        input_ports: of the model, as its file has them; (): it has no names for them.  Nothing is computed by
            these: they are for who writes the model again.
        output_names: of the model, likewise.
    """

    front: Subgraph | None = None
    back: Subgraph | None = None
    one_by_one: bool = False
    input_ports: tuple[Port, ...] = ()
    output_names: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.front is not None or self.back is not None

    @property
    def embeddings(self) -> np.ndarray:
        """Of a network of tokens: what each token stands for, (vocabulary, width); of others (0, 0)."""
        nothing = np.empty((0, 0), np.float32)
        return nothing if self.front is None else self.front.constants.get("tokens", nothing)

    @property
    def padding(self) -> int | None:
        """Of a network of tokens: the id that no text may have, that of padding; None: there is none."""
        steps = () if self.front is None else self.front.steps
        found = (step.attributes.get("padding") for step in steps if step.operator == EMBEDDING)
        return next(found, None)

    def fingerprints(self) -> tuple[str, ...]:
        """SHA-256 (hex) of each end that there is."""
        prints = []
        for name in ("front", "back"):
            subgraph = getattr(self, name)
            if subgraph is not None:
                digest = hashlib.sha256(name.encode())
                subgraph.update(digest)
                prints.append(digest.hexdigest())
        return tuple(prints)

    def at(self, positions: int) -> Ends:
        """The ends of sequences of so many positions, of those of one token."""
        return replace(
            self,
            front=None if self.front is None else self.front.at(positions),
            back=None if self.back is None else self.back.at(positions),
        )

    def feed(self, samples: Samples, input_shape: tuple[int, ...]) -> Samples:
        """The samples that the middle takes, of those that the model takes.

        Args:
            samples: of a file or an array, as yet unchecked.
            input_shape: of a sample of the middle.

        Raises:
            UserError: samples of another shape; when they are read, values that the front cannot take.
        """
        self.check(samples, input_shape)
        if self.front is None:
            return samples
        front, name = self.front, samples.name

        def through(block: np.ndarray, first: int) -> np.ndarray:
            if not self.one_by_one:
                return fed(front, block, name, first)
            return np.concatenate(
                [fed(front, block[row : row + 1], name, first + row) for row in range(len(block))]
            )

        dtype = packed_dtype(front.outputs)
        return samples.through(through, input_shape, dtype, f"{name}, behind the front of the model")

    def check(self, samples: Samples, input_shape: tuple[int, ...]) -> None:
        """Refuse samples of another shape than the model takes; ``input_shape`` is that of the middle.

        Raises:
            UserError: see ``io.samples.check_shape``.
        """
        check_shape(samples, input_shape if self.front is None else sample_shape(self.front.inputs))

    def inputs(self, middle: int) -> int:
        """Values of a sample as the model takes it; ``middle``: of one that the middle takes."""
        return middle if self.front is None else sum(port.size for port in self.front.inputs)

    def finish(self, outputs: np.ndarray) -> list[np.ndarray]:
        """The outputs of the model, each (samples, *shape) of its own dtype.

        Args:
            outputs: of the middle, (samples, values), the heads applied.
        """
        if self.back is None:
            return [outputs]
        arrays = split(self.back.inputs, outputs)
        if not self.one_by_one:
            return self.back.compute(arrays)
        parts = [self.back.compute([array[row : row + 1] for array in arrays]) for row in range(len(outputs))]
        return [np.concatenate(samples) for samples in zip(*parts, strict=True)]

    def packed(self, outputs: np.ndarray) -> np.ndarray:
        """``finish`` as one array (samples, values), one output after the other.

        The dtype is one that holds all of them; without a back, that of ``outputs``.

        Raises:
            UserError: integers too large for the floating-point numbers beside them.
        """
        if self.back is None:
            return outputs
        finished = self.finish(outputs)
        dtype = packed_dtype(self.back.outputs)
        if dtype.kind == "f":
            for port, array in zip(self.back.outputs, finished, strict=True):
                if array.dtype.kind in "iu" and (np.abs(array.astype(np.float64)) > _EXACT).any():
                    raise UserError(
                        f"{port.name}: expected integers up to 2^53, as they lie beside real numbers, found "
                        "larger ones; leave one of the outputs out of the model"
                    )
        return np.hstack([array.reshape(len(array), -1).astype(dtype) for array in finished])


def has_scores(back: Subgraph) -> bool:
    """Tell whether the only output is a vector of real numbers, the largest of which tells a class."""
    return len(back.outputs) == 1 and back.outputs[0].kind == "f" and len(back.outputs[0].shape) == 1


def class_column(back: Subgraph) -> int | None:
    """The place among the packed outputs of the only one that is one integer, the class; None: none is."""
    numbers = [place for place, port in enumerate(back.outputs) if port.kind in "iu" and port.size == 1]
    if len(numbers) != 1:
        return None
    return sum(port.size for port in back.outputs[: numbers[0]])


def packed_dtype(ports: Sequence[Port]) -> np.dtype:
    """A dtype that holds the values of all ports."""
    return np.result_type(*(np.dtype(port.dtype) for port in ports))


def sample_shape(ports: Sequence[Port]) -> tuple[int, ...]:
    """Shape of a sample: that of the only input, or the number of values of all."""
    return ports[0].shape if len(ports) == 1 else (sum(port.size for port in ports),)


def split(ports: Sequence[Port], values: np.ndarray) -> list[np.ndarray]:
    """The arrays of ports from their values, one after the other, (samples, values); cast to their dtypes."""
    ends = np.cumsum([port.size for port in ports])[:-1]
    parts = np.split(values, ends, axis=1)
    return [
        part.reshape(len(part), *port.shape).astype(port.dtype)
        for port, part in zip(ports, parts, strict=True)
    ]


def fed(front: Subgraph, block: np.ndarray, name: str, first: int) -> np.ndarray:
    """What a front makes of a block of samples, (samples, values of the middle).

    Args:
        front: of the model.
        block: (samples, ...), in the dtype of the file.
        name: of the file, for messages.
        first: place in the file of the first sample of the block.

    Raises:
        UserError: NaN, infinity, a value that the dtype of an input cannot hold, or that the front refuses.
    """
    rows = block.reshape(len(block), -1)
    check_finite(rows, name, first)
    with np.errstate(all="ignore"):  # what does not fit is refused
        arrays = split(front.inputs, rows)
    _check_held(front.inputs, rows, arrays, name, first)
    try:
        results = front.compute(arrays)
    except UserError as error:
        row, reason = _first_refused(front, arrays, error)
        raise UserError(f"{name}: sample {first + row}: {reason}; check its values") from None
    return np.hstack([result.reshape(len(block), -1) for result in results])


def _first_refused(front: Subgraph, arrays: Sequence[np.ndarray], error: UserError) -> tuple[int, UserError]:
    """The first sample that a front refuses, and why; the first of all and ``error`` if none by itself."""
    for row in range(len(arrays[0])):
        try:
            front.compute([array[row : row + 1] for array in arrays])
        except UserError as own:
            return row, own
    return 0, error


def _check_held(
    ports: Sequence[Port], rows: np.ndarray, arrays: Sequence[np.ndarray], name: str, first: int
) -> None:
    """Refuse values that were cut off or became infinite when they were cast."""
    column = 0
    for port, array in zip(ports, arrays, strict=True):
        given, held = rows[:, column : column + port.size], array.reshape(len(rows), port.size)
        wrong = ~np.isfinite(held) if port.kind == "f" else held != given
        if wrong.any():
            row, place = np.argwhere(wrong)[0]
            raise UserError(
                f"{name}: expected {port.dtype}, as input {port.name!r} of the model is, found "
                f"{given[row, place]} in sample {first + row}, column {column + place} (counted from 0); "
                "check that data and model belong together"
            )
        column += port.size
