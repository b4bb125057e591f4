"""Compares an imported network with the ONNX file that it was made from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.input_shapes import InputShapes
from repurpose_hpc.model.importers.onnx.evaluation import tensor_values
from repurpose_hpc.model.importers.onnx.file import read_graph
from repurpose_hpc.model.importers.opinion.comparison import (
    HALF_PRECISION_TOLERANCE,
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


class _Differs(Exception):
    """The network is not what an evaluator computes; the message says where."""


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
        self._makers = {name: proto for proto in graph.nodes for name in proto.output}

    def run(self, programs: Iterable[Evaluator | CannotRun]) -> tuple[ImportCheck, str]:
        """Compare with what programs compute, the next one where one disagrees or cannot run.

        Args:
            programs: the preferred one first.

        Returns:
            the result, and what the last one found to differ; "": nothing.
        """
        reasons, fault = [], ""
        for evaluator in programs:
            try:
                if isinstance(evaluator, CannotRun):
                    raise evaluator
                with np.errstate(all="ignore"):  # inputs are scaled until something overflows
                    return ImportCheck(evaluator.name, self._largest_difference(evaluator)), ""
            except CannotRun as error:
                reasons.append(str(error))
            except _Differs as error:
                fault = str(error)
        return ImportCheck(None, None, "; ".join(reasons)), fault

    def _largest_difference(self, evaluator: Evaluator) -> float:
        """The largest difference from what ``evaluator`` computes, relative to the outputs of a sample.

        Raises:
            _Differs: rounding does not explain it.
            CannotRun: it does not run.
        """
        x = self._representable(evaluator)
        y = forward(self._network, x)
        return max(self._run_batch(evaluator, x[batch], y[batch]) for batch in _batches(evaluator, len(x)))

    def _run_batch(self, evaluator: Evaluator, x: np.ndarray, y: np.ndarray) -> float:
        expected = self._outputs(evaluator, x)
        parts = self._parts(y, expected)
        errors = [differences(part, value) for part, value in zip(parts, expected, strict=True)]
        if any((error > _tolerance(evaluator)).any() for error in errors):
            self._settle(evaluator, x, dict(zip(self._names, parts, strict=True)))
        return max(float(error.max(initial=0, where=np.isfinite(error))) for error in errors)

    def _settle(self, evaluator: Evaluator, x: np.ndarray, outputs: Tensors) -> None:
        """Raise ``_Differs`` unless rounding or an overflow explains how ``outputs`` differ."""
        judge = _Judge(evaluator, self._feeds(evaluator, x), self._perturbed_feeds(evaluator, x))
        if not any(judge.fault(name, values) for name, values in outputs.items()):
            return
        named = {**dict(tensor_values(self._path, x, self._input_shapes)), **outputs}
        judge.excuse_overflows(named)
        for name, values in named.items():
            if name not in self._shapes and (place := judge.fault(name, values)):
                raise _Differs(self._accusation(evaluator, name, place, judge.expected[name], values))

    def _accusation(
        self,
        evaluator: Evaluator,
        name: str,
        place: tuple[int, ...],
        expected: np.ndarray,
        values: np.ndarray,
    ) -> str:
        proto = self._makers[name]
        return (
            f"the imported network differs from the model in tensor {name!r} of node "
            f"{proto.name or proto.output[0]!r} ({proto.op_type}): at {place[1:]} {evaluator.name} computes "
            f"{float(expected[place]):.7g}, the network {float(values.reshape(expected.shape)[place]):.7g}"
        )

    def _parts(self, y: np.ndarray, expected: list[np.ndarray]) -> list[np.ndarray]:
        """The values of every output, in the shape that an evaluator gives it."""
        sizes = [math.prod(value.shape[1:]) for value in expected]
        if sum(sizes) != y.shape[1]:
            raise _Differs(f"the imported network has {y.shape[1]} outputs, the model {sum(sizes)}")
        parts = np.split(y, np.cumsum(sizes)[:-1], axis=1)
        return [part.reshape(value.shape) for part, value in zip(parts, expected, strict=True)]

    def _outputs(self, evaluator: Evaluator, x: np.ndarray) -> list[np.ndarray]:
        values = evaluator.outputs(self._feeds(evaluator, x))
        for name, value in zip(self._names, values, strict=True):
            if not isinstance(value, np.ndarray) or value.shape[:1] != (len(x),):
                raise CannotRun(f"output {name!r} has no axis of samples in {evaluator.name}")
        return values

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
            name: x[:, columns].reshape(-1, *self._shapes[name]).astype(evaluator.inputs[name])
            for name, columns in self._columns().items()
        }

    def _columns(self) -> dict[str, slice]:
        ends = np.cumsum([math.prod(shape) for shape in self._shapes.values()]).tolist()
        return {
            name: slice(first, last)
            for name, first, last in zip(self._shapes, [0, *ends], ends, strict=False)
        }

    def _perturbed_feeds(self, evaluator: Evaluator, x: np.ndarray) -> Iterator[Tensors]:
        """Inputs that differ by rounding; integers and zeros are what they are."""
        rng = np.random.default_rng(0)
        for _ in range(_PERTURBED):
            noise = rng.choice((-_ROUNDING, _ROUNDING), x.shape)
            feeds = self._feeds(evaluator, x * (1 + noise))
            exact = self._feeds(evaluator, x)
            yield {name: feeds[name] if feeds[name].dtype.kind == "f" else exact[name] for name in feeds}


def _tolerance(evaluator: Evaluator) -> float:
    return HALF_PRECISION_TOLERANCE if evaluator.half_precision else TOLERANCE


def _batches(evaluator: Evaluator, count: int) -> list[slice]:
    """All together and some alone, or as many at a time as the model takes."""
    if evaluator.batch is not None:
        return [slice(first, first + evaluator.batch) for first in range(0, count, evaluator.batch)]
    return [slice(count), *(slice(place, place + 1) for place in range(min(_SINGLES, count)))]


class _Judge:
    """The tensors that an evaluator computes, and how far from them rounding may lead.

    Args:
        evaluator: of the file.
        feeds: inputs by name.
        perturbed: the same, differing by rounding.

    Attributes:
        expected: the tensors by name.
    """

    def __init__(self, evaluator: Evaluator, feeds: Tensors, perturbed: Iterator[Tensors]) -> None:
        self._tolerance = _tolerance(evaluator)
        self.expected = evaluator.tensors(feeds)
        self._perturbed = [evaluator.tensors(each) for each in perturbed]
        self._excused = np.zeros(len(next(iter(feeds.values()))), bool)

    def fault(self, name: str, values: np.ndarray) -> tuple[int, ...] | None:
        """Where a tensor of the network differs most from the evaluator's; None: nowhere, or not known."""
        expected = self.expected.get(name)
        if expected is None or expected.shape[:1] != values.shape[:1] or expected.size != values.size:
            return None
        if not expected.size:
            return None
        perturbed = [tensors[name] for tensors in self._perturbed]
        error = differences(values.reshape(expected.shape), expected)
        excess = error / allowance(expected, perturbed, self._tolerance)
        excess[self._excused] = 0
        place = np.unravel_index(int(excess.argmax()), excess.shape)
        return tuple(map(int, place)) if excess[place] > 1 else None

    def excuse_overflows(self, named: Tensors) -> None:
        """Judge no sample in which the evaluator overflows and the network does not."""
        for name, expected in self.expected.items():
            if expected.dtype.kind == "f" and expected.shape[:1] == self._excused.shape:
                self._excused |= overflown(expected, named.get(name))
