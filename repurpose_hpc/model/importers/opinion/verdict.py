"""Compares an imported network with the ONNX file that it was made from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.input_shapes import InputShapes
from repurpose_hpc.model.importers.onnx.evaluation import tensor_values
from repurpose_hpc.model.importers.onnx.file import read_graph
from repurpose_hpc.model.importers.opinion.asking import Differs, ask
from repurpose_hpc.model.importers.opinion.comparison import (
    HALF_PRECISION_TOLERANCE,
    STEP_TOLERANCE,
    TOLERANCE,
    ImportCheck,
    allowance,
    differences,
    overflown,
)
from repurpose_hpc.model.importers.opinion.evaluators import CannotRun, Evaluator, Tensors, evaluators
from repurpose_hpc.model.importers.opinion.probes import draw_probes
from repurpose_hpc.model.network import Network

# Of the probes, that are computed one by one as well.
_SINGLES = 2
# Functions that programs approximate to so much of 1, however small the values, and what keeps values.
_BOUNDED = ("Erf", "HardSigmoid", "Sigmoid", "Softmax", "Softsign", "Tanh")
_LAYOUT = (
    *("Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Resize", "Slice"),
    *("Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
)
# Of those that differ, for which all tensors are compared.
_TRACED = 4
# Runs on inputs that differ by rounding, and by how much.
_PERTURBED, _ROUNDING = 4, 2.0**-22
REMEDY = (
    "write that in another way before exporting, and please report it; --no-check (check=False in Python) "
    "goes on regardless"
)


def check_import(
    path: Path,
    network: Network,
    samples: Samples | None = None,
    input_shapes: InputShapes | None = None,
) -> ImportCheck:
    """Compare a network with the ONNX file that it was made from, on a few inputs.

    They are computed together and one by one.  Where a program that computes in float32 gives something
    else, the reference of the onnx package decides, in float64; what inputs that differ by rounding change
    is no fault.

    Args:
        path: of the file.
        network: imported from it.
        samples: from which inputs are drawn; None: they are normally distributed.
        input_shapes: with which it was imported.

    Raises:
        UserError: the network is not the one in the file; names the first tensor that differs.
    """
    comparison = Comparison(path, network, draw_probes(network, samples), input_shapes)
    result, fault = comparison.run(evaluators(path))
    if fault:
        raise UserError(f"{path}: {fault}; {REMEDY}")
    return result


class _DiffersFor(Differs):
    """The network differs for some samples.

    Args:
        text: says where.
        rows: of the samples in doubt.
    """

    def __init__(self, text: str, rows: list[int]) -> None:
        super().__init__(text)
        self.rows = rows


class Comparison:
    """A network beside evaluators of its file.

    Args:
        path: of the file.
        network: imported from it.
        x: float32, (probes, inputs); the first is a row of the data as it is.
        input_shapes: with which it was imported.
    """

    def __init__(
        self, path: Path, network: Network, x: np.ndarray, input_shapes: InputShapes | None = None
    ) -> None:
        self._path, self._network, self._x, self._input_shapes = path, network, x, input_shapes
        graph = read_graph(path, input_shapes)
        self._shapes = {name: shape[1:] for name, shape in graph.inputs.items()}
        self._names = graph.outputs
        self._axes: dict[str, int] = {}
        self._makers = {name: proto for proto in graph.nodes for name in proto.output}

    def run(self, programs: Iterable[Evaluator | CannotRun]) -> tuple[ImportCheck, str]:
        """Compare with what programs compute; see ``ask``."""
        return ask(programs, self._compare)

    def _compare(self, evaluator: Evaluator) -> float:
        try:
            with np.errstate(all="ignore"):  # inputs are scaled until something overflows
                return self._largest_difference(evaluator)
        except _DiffersFor as error:  # the next program, which may be slow, looks at these
            self._x = self._x[sorted({row % len(self._x) for row in error.rows})]
            raise

    def _largest_difference(self, evaluator: Evaluator) -> float:
        """The largest difference from what ``evaluator`` computes, relative to the outputs of a sample.

        Raises:
            Differs: rounding does not explain it.
            CannotRun: it does not run.
        """
        x = self._representable(evaluator)
        try:
            y = forward(self._network, x)
        except UserError as error:  # of integers, for one, only some are valid
            raise CannotRun(f"the model takes none of the inputs that were tried: {error}") from None
        self._axes = self._sample_axes(evaluator, x)
        return max(self._run_batch(evaluator, x[batch], y[batch]) for batch in _batches(evaluator, len(x)))

    def _run_batch(self, evaluator: Evaluator, x: np.ndarray, y: np.ndarray) -> float:
        expected = self._outputs(evaluator, x)
        parts = self._parts(y, expected)
        errors = [differences(part, value) for part, value in zip(parts, expected, strict=True)]
        tolerance = _tolerance(evaluator)
        if any((error > tolerance).any() for error in errors):
            self._settle(evaluator, x, dict(zip(self._names, parts, strict=True)))
        # What is larger has been explained.
        return max(float(error.max(initial=0, where=error <= tolerance)) for error in errors)

    def _settle(self, evaluator: Evaluator, x: np.ndarray, outputs: Tensors) -> None:
        """Raise ``Differs`` unless rounding or an overflow explains how ``outputs`` differ."""
        expected = dict(zip(self._names, self._outputs(evaluator, x), strict=True))
        perturbed = [self._outputs(evaluator, each) for each in _perturbed(x)]
        doubtful = np.zeros(len(x), bool)
        for name, others in zip(self._names, zip(*perturbed, strict=True), strict=True):
            excess = self._excess(evaluator, name, outputs[name], expected[name], others)
            doubtful |= (excess > 1).reshape(len(x), -1).any(axis=1)
        rows = np.flatnonzero(doubtful)[:_TRACED]
        if not len(rows):
            return
        traced = dict(tensor_values(self._path, x[rows], self._input_shapes))
        doubts = rows.tolist()
        for place, row in enumerate(rows):
            values = {name: value[place : place + 1] for name, value in traced.items()}
            values |= {name: value[row : row + 1] for name, value in outputs.items()}
            # What else is in the batch should not matter.
            block, index = (x, row) if evaluator.batch is not None else (x[row : row + 1], 0)
            alone = self._trace(evaluator, block, index, values, doubts)
            for name in self._names:
                if (differences(alone[name], expected[name][row : row + 1]) > _tolerance(evaluator)).any():
                    raise Differs(f"output {name!r} of {evaluator.name} depends on the rest of the batch")

    def _trace(
        self, evaluator: Evaluator, x: np.ndarray, index: int, values: Tensors, doubts: list[int]
    ) -> Tensors:
        """All that ``evaluator`` computes for sample ``index``.

        Raises:
            Differs: the network computes other ``values`` of that sample, and nothing has overflown.
        """
        expected, *perturbed = (
            {
                name: tensor[index : index + 1]
                for name, tensor in self._tensors(evaluator, each).items()
                if tensor.shape[:1] == (len(x),)
            }
            for each in (x, *_perturbed(x))
        )
        if any(overflown(tensor, values.get(name)) for name, tensor in expected.items()):
            return expected
        for name, value in values.items():
            tensor = expected.get(name)
            if name in self._shapes or tensor is None or not 0 < tensor.size == value.size:
                continue
            value = value.reshape(tensor.shape)
            excess = self._excess(evaluator, name, value, tensor, [others[name] for others in perturbed])
            if excess.max() > 1:
                place = np.unravel_index(int(excess.argmax()), excess.shape)
                text = self._accusation(evaluator, name, place, tensor[place], value[place])
                raise _DiffersFor(text, doubts)
        return expected

    def _excess(
        self,
        evaluator: Evaluator,
        name: str,
        values: np.ndarray,
        expected: np.ndarray,
        perturbed: Iterable[np.ndarray],
    ) -> np.ndarray:
        """Differences as multiples of what is allowed."""
        error = differences(values, expected)
        if self._is_bounded(name):
            error[np.abs(values - expected) < evaluator.rounding_of_one] = 0
        if evaluator.half_precision:  # far out on an activation, rounded constants are much of little
            error[np.abs(values - expected) < HALF_PRECISION_TOLERANCE] = 0
        return error / allowance(expected, perturbed, _tolerance(evaluator))

    def _is_bounded(self, name: str) -> bool:
        """True if a tensor has values of a function between -1 and 1, in whatever layout."""
        proto = self._makers.get(name)
        if proto is None:
            return False
        return proto.op_type in _BOUNDED or (proto.op_type in _LAYOUT and self._is_bounded(proto.input[0]))

    def _accusation(
        self, evaluator: Evaluator, name: str, place: tuple[np.intp, ...], expected: float, value: float
    ) -> str:
        proto = self._makers[name]
        return (
            f"the imported network differs from the model in tensor {name!r} of node "
            f"{proto.name or proto.output[0]!r} ({proto.op_type}): at {tuple(map(int, place[1:]))} "
            f"{evaluator.name} computes {float(expected):.7g}, the network {float(value):.7g}"
        )

    def _parts(self, y: np.ndarray, expected: list[np.ndarray]) -> list[np.ndarray]:
        """The values of every output, in the shape that an evaluator gives it."""
        sizes = [math.prod(value.shape[1:]) for value in expected]
        if sum(sizes) != y.shape[1]:
            raise Differs(f"the imported network has {y.shape[1]} outputs, the model {sum(sizes)}")
        parts = np.split(y, np.cumsum(sizes)[:-1], axis=1)
        return [part.reshape(value.shape) for part, value in zip(parts, expected, strict=True)]

    def _outputs(self, evaluator: Evaluator, x: np.ndarray) -> list[np.ndarray]:
        values = evaluator.outputs(self._feeds(evaluator, x))
        return [np.moveaxis(value, axis, 0) for value, axis in zip(values, self._axes.values(), strict=True)]

    def _sample_axes(self, evaluator: Evaluator, x: np.ndarray) -> dict[str, int]:
        """Where the samples are in every output: on the first axis that is as long as each of two batches."""
        batches = [x[:size] for size in ((2, 1) if evaluator.batch is None else (evaluator.batch,))]
        runs = [evaluator.outputs(self._feeds(evaluator, batch)) for batch in batches]
        axes = {}
        for name, *values in zip(self._names, *runs, strict=True):
            axis = _common_axis(values, list(map(len, batches)))
            if axis is None:
                raise CannotRun(f"output {name!r} has no axis of samples in {evaluator.name}")
            axes[name] = axis
        return axes

    def _tensors(self, evaluator: Evaluator, x: np.ndarray) -> Tensors:
        """All that ``evaluator`` computes for samples ``x``, in outputs with the samples in front."""
        tensors = evaluator.tensors(self._feeds(evaluator, x))
        return tensors | {name: np.moveaxis(tensors[name], axis, 0) for name, axis in self._axes.items()}

    def _representable(self, evaluator: Evaluator) -> np.ndarray:
        """The probes as numbers that the inputs of the model can hold, float64."""
        count = len(self._x)
        if evaluator.batch is not None:
            count = -(-count // evaluator.batch) * evaluator.batch
        x = np.resize(self._x, (count, self._x.shape[1])).astype(np.float64)
        for name, columns in self._columns().items():
            if evaluator.inputs[name].kind in "iub":
                # Of integers, those between the ones in the data may all be valid.
                x[:, columns] = np.rint(x[:, columns]).clip(x[0, columns].min(), x[0, columns].max())
            with np.errstate(over="ignore"):
                x[:, columns] = x[:, columns].astype(evaluator.inputs[name])
        return x

    def _feeds(self, evaluator: Evaluator, x: np.ndarray) -> Tensors:
        return {
            name: _as(x[:, columns], evaluator.inputs[name]).reshape(-1, *self._shapes[name])
            for name, columns in self._columns().items()
        }

    def _columns(self) -> dict[str, slice]:
        ends = np.cumsum([math.prod(shape) for shape in self._shapes.values()]).tolist()
        return {
            name: slice(first, last)
            for name, first, last in zip(self._shapes, [0, *ends], ends, strict=False)
        }


def _as(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return (np.rint(values) if dtype.kind in "iub" else values).astype(dtype)


def _common_axis(values: list[Any], sizes: list[int]) -> int | None:
    """The first axis on which all arrays have their size; None: they have none, or are no arrays."""
    if not all(isinstance(value, np.ndarray) for value in values):
        return None
    places = range(min(value.ndim for value in values))
    fitting = (place for place in places if [value.shape[place] for value in values] == sizes)
    return next(fitting, None)


def _perturbed(x: np.ndarray) -> Iterator[np.ndarray]:
    """Inputs that differ by rounding; zeros are what they are, and integers, once they are rounded."""
    rng = np.random.default_rng(0)
    for _ in range(_PERTURBED):
        yield x * (1 + rng.choice((-_ROUNDING, _ROUNDING), x.shape))


def _tolerance(evaluator: Evaluator) -> float:
    if evaluator.half_precision:
        return HALF_PRECISION_TOLERANCE
    return STEP_TOLERANCE if evaluator.has_small_steps else TOLERANCE


def _batches(evaluator: Evaluator, count: int) -> list[slice]:
    """All together and some alone, or as many at a time as the model takes."""
    if evaluator.batch is not None:
        return [slice(first, first + evaluator.batch) for first in range(0, count, evaluator.batch)]
    return [slice(count), *(slice(place, place + 1) for place in range(min(_SINGLES, count)))]
