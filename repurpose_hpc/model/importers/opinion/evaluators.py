"""Programs that compute what is in an ONNX file: onnxruntime, and the reference of the onnx package."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from repurpose_hpc.model.importers.onnx.file import fixed_batch, inputs_of, read_model

if TYPE_CHECKING:
    import onnx

Tensors = dict[str, np.ndarray]
_LONGEST_REASON = 160
_LARGE = 1 << 10
# Of the numbers that say in what a product with packed weights may be computed.
_FLOAT32 = 1


class CannotRun(Exception):
    """An evaluator cannot run a model; the message says why, in one line."""


class Evaluator(Protocol):
    """A program that runs an ONNX file.

    Attributes:
        name: and version.
        inputs: the type of every input.
        batch: the only number of samples that it takes; None: any.
        half_precision: whether the file has constants in half precision.
        has_small_steps: whether it quantises to 16 bits.
        rounding_of_one: error of functions between -1 and 1.
    """

    name: str
    inputs: dict[str, np.dtype]
    batch: int | None
    half_precision: bool
    has_small_steps: bool
    rounding_of_one: float

    def outputs(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs in their order; raises ``CannotRun``."""

    def tensors(self, feeds: Mapping[str, np.ndarray]) -> Tensors:
        """Outputs and intermediate tensors, by name; raises ``CannotRun``."""


def evaluators(path: Path) -> Iterator[Evaluator | CannotRun]:
    """Those that there are for a file, the preferred one first, or why one cannot run it."""
    model = read_model(path)
    if dynamic := next((node for node in model.graph.node if "Dynamic" in node.op_type), None):
        yield CannotRun(f"{dynamic.op_type} rounds activations by those in the batch, which is left out")
        return
    for kind in (OnnxRuntime, OnnxReference):
        try:
            yield kind(path, model)
        except CannotRun as error:
            yield error


class OnnxRuntime:
    """onnxruntime on one core, in the precision of the file.

    Args:
        path: of the file.
        model: its content.

    Raises:
        CannotRun: it is not installed, or cannot run the model, or does so in half precision.
    """

    rounding_of_one: float = 3e-7

    def __init__(self, path: Path, model: onnx.ModelProto) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise CannotRun("onnxruntime is not installed") from None
        self._runtime = onnxruntime
        self.name = f"onnxruntime {onnxruntime.__version__}"
        self.inputs, self.batch = _input_types(model), fixed_batch(model)
        self.half_precision, self.has_small_steps = _has_half_precision(model), _has_small_steps(model)
        if self.half_precision:
            raise CannotRun(f"{self.name} would round to half precision")
        self._model = _with_exact_activations(model)
        with in_one_line(self.name):  # beyond 2 GiB there are no bytes of it
            self._session = self._open(str(path) if self._model is model else self._model.SerializeToString())

    def _open(self, source: str | bytes) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # Its optimisations round activations in front of quantised weights.
        options.graph_optimization_level = self._runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        self._runtime.set_default_logger_severity(4)
        with in_one_line(self.name):
            return self._runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    def outputs(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """See ``Evaluator``."""
        with in_one_line(self.name):
            return [_rows(value) for value in self._session.run(None, dict(feeds))]

    def tensors(self, feeds: Mapping[str, np.ndarray]) -> Tensors:
        """See ``Evaluator``."""
        session = self._traced
        with in_one_line(self.name):
            values = session.run(None, dict(feeds))
        return dict(zip((item.name for item in session.get_outputs()), values, strict=True))

    @cached_property
    def _traced(self) -> Any:
        """A session that also gives what is in between."""
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        outputs = {item.name for item in model.graph.output}
        names = [name for node in model.graph.node for name in node.output if name and name not in outputs]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        with in_one_line(self.name):  # beyond 2 GiB there are no bytes of it
            return self._open(model.SerializeToString())


class OnnxReference:
    """The evaluator of the onnx package, in float64 whatever the precision of the file.

    Args:
        path: of the file.
        model: its content; left as it is.

    Raises:
        CannotRun: it does not know an operator, or would take minutes.
    """

    rounding_of_one: float = 1e-15

    def __init__(self, path: Path, model: onnx.ModelProto) -> None:
        import onnx
        from onnx.reference import ReferenceEvaluator

        self.name = f"onnx.reference {onnx.__version__}"
        self._outputs = [item.name for item in model.graph.output]
        self.batch, self.half_precision = fixed_batch(model), _has_half_precision(model)
        self.has_small_steps = _has_small_steps(model)
        logging.getLogger("onnx").setLevel(logging.ERROR)
        if any(node.op_type == "ConvTranspose" and _large(model, node.input[1]) for node in model.graph.node):
            raise CannotRun(f"{self.name} takes minutes for a ConvTranspose")
        with in_one_line(self.name):
            exact = in_float64(model)
            self.inputs = _input_types(exact)
            self._evaluator = ReferenceEvaluator(exact)

    def outputs(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """See ``Evaluator``."""
        values = self.tensors(feeds)
        return [values[name] for name in self._outputs]

    def tensors(self, feeds: Mapping[str, np.ndarray]) -> Tensors:
        """See ``Evaluator``."""
        with in_one_line(self.name):
            results = self._evaluator.run(None, dict(feeds), intermediate=True)
            values = {name: np.asarray(value) for name, value in results.items() if value is not None}
        if any(values[name].dtype == object for name in self._outputs):
            raise CannotRun(f"{self.name} gives outputs that are no tensors")
        return values


def _with_exact_activations(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that rounds no activations in front of packed weights: a copy, if this one may."""
    import onnx

    if not any(True for _ in _roundings(model)):
        return model
    exact = onnx.ModelProto()
    exact.CopyFrom(model)
    for level in _roundings(exact):
        level.i = _FLOAT32
    return exact


def _roundings(model: onnx.ModelProto) -> Iterator[onnx.AttributeProto]:
    """The attributes of products with packed weights that let activations be rounded."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level" and attribute.i > _FLOAT32:
                yield attribute


def _rows(output: Any) -> Any:
    """An output; of dictionaries, one for each sample, their values in order."""
    if isinstance(output, list) and output and all(isinstance(row, dict) for row in output):
        return np.array([list(row.values()) for row in output])
    return output


@contextmanager
def in_one_line(name: str) -> Iterator[None]:
    """A block in which ``CannotRun`` stands for whatever a program called ``name`` raises."""
    try:
        yield
    except Exception as error:  # of the program's own kinds
        text = " ".join(str(error).split()) or type(error).__name__
        raise CannotRun(f"{name} cannot run it: {text[:_LONGEST_REASON]}") from None


def _input_types(model: onnx.ModelProto) -> dict[str, np.dtype]:
    from onnx.helper import tensor_dtype_to_np_dtype

    return {
        item.name: np.dtype(tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type))
        for item in inputs_of(model)
    }


def in_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with all floating-point numbers in float64."""
    import onnx
    from onnx import TensorProto, numpy_helper

    exact = onnx.ModelProto()
    exact.CopyFrom(model)
    for tensor in _constants(exact.graph):
        if _is_float(tensor.data_type):
            values = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for graph in _graphs(exact.graph):
        for item in (*graph.input, *graph.output, *graph.value_info):
            kind = item.type.tensor_type
            if _is_float(kind.elem_type):
                kind.elem_type = TensorProto.DOUBLE
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.name in ("to", "dtype") and _is_float(attribute.i):
                    attribute.i = TensorProto.DOUBLE
            _with_float64_constant(node)
    return exact


def _with_float64_constant(node: onnx.NodeProto) -> None:
    """Turn a Constant given as numbers, and the zero that ConstantOfShape has by default, into tensors."""
    from onnx import helper, numpy_helper

    if node.op_type == "ConstantOfShape" and not node.attribute:
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))
    for attribute in node.attribute:
        if node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            numbers = np.asarray(helper.get_attribute_value(attribute), np.float64)
            attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(numbers)))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _graphs(inner)


def _constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Initializers, and the tensors that are attributes of nodes."""
    for part in _graphs(graph):
        yield from part.initializer
        for node in part.node:
            yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def _large(model: onnx.ModelProto, weights: str) -> bool:
    """True if a constant has many values: some operators are loops in Python."""
    return any(math.prod(item.dims) > _LARGE for item in model.graph.initializer if item.name == weights)


def _has_half_precision(model: onnx.ModelProto) -> bool:
    from onnx import TensorProto

    half = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    return any(tensor.data_type in half for tensor in _constants(model.graph))


def _has_small_steps(model: onnx.ModelProto) -> bool:
    from onnx import TensorProto

    kinds = {tensor.name: tensor.data_type for tensor in _constants(model.graph)}
    zeros = (
        node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[2:]
    )
    return any(kinds.get(name) in (TensorProto.INT16, TensorProto.UINT16) for name in zeros)


def _is_float(kind: int) -> bool:
    from onnx import TensorProto

    return kind in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
