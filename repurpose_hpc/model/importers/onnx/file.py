"""Reads an ONNX file: its graph, constants, inputs and outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.reading import reading
from repurpose_hpc.model.importers.input_shapes import InputShapes
from repurpose_hpc.model.importers.onnx.inputs import input_sizes
from repurpose_hpc.model.importers.onnx.rewriting.lookups import with_lookups_apart
from repurpose_hpc.model.importers.onnx.rewriting.opset import OLDEST_OPSET, converted
from repurpose_hpc.model.importers.onnx.varying import BATCHES

if TYPE_CHECKING:
    import onnx


# The domain of ONNX's own operators has two names.
_OWN = ("", "ai.onnx")
# Values of a sparse initializer, zeros among them: 1 GiB in float32, as a protocol buffer has 2 at most.
LARGEST_SPARSE = 1 << 28
# Operators that ONNX Runtime writes in that domain, also at opsets that do not have them.
_OF_RUNTIME = ("LayerNormalization", "SimplifiedLayerNormalization")
_DOMAIN_OF_RUNTIME = "com.microsoft"


@dataclass(frozen=True, eq=False)
class Graph:
    """The content of an ONNX file.

    Attributes:
        path: of the file.
        nodes: topologically ordered.
        constants: the initializers by name.
        inputs: name -> shape, the samples first.
        outputs: names.
        opset: version of ONNX's own operators.
        domains: versions of those of other domains.
        types: numbers of ONNX's element types of the inputs, by name.
        fixed_batch: see ``fixed_batch``.
    """

    path: Path
    nodes: tuple[onnx.NodeProto, ...]
    constants: dict[str, np.ndarray]
    inputs: dict[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    opset: int
    domains: dict[str, int]
    types: dict[str, int]
    fixed_batch: int | None


def read_graph(path: Path, input_shapes: InputShapes | None = None) -> Graph:
    """The graph in an ONNX file; external data is looked for beside it.

    Args:
        path: of the file.
        input_shapes: see ``load_model``.

    Raises:
        UserError: the ``onnx`` package is missing, the file is not valid, or sizes of an input are not known.
    """
    return graph_of(read_model(path), path, input_shapes)


def graph_of(model: onnx.ModelProto, path: Path, input_shapes: InputShapes | None = None) -> Graph:
    """The graph of a model that was read; see ``read_graph``."""
    graph, opset = model.graph, opset_of(model)
    from onnx.numpy_helper import to_array

    with _reading(path):
        for array in graph.initializer:
            if any(size < 0 for size in array.dims):  # the checker looks at those in the file itself alone
                raise ValueError(f"the shape of {array.name!r} is {(*array.dims,)}")
        constants = {array.name: to_array(array) for array in graph.initializer}
    inputs = inputs_of(model)
    if not graph.node or not inputs or not graph.output:
        raise UserError(
            f"{path}: expected nodes, inputs and outputs, found {len(graph.node)} nodes, "
            f"{len(inputs)} inputs and {len(graph.output)} outputs; export a model that computes something"
        )
    return Graph(
        path=path,
        nodes=tuple(with_lookups_apart(graph.node, {item.name for item in inputs}, opset)),
        constants=constants,
        inputs={
            name: (samples or BATCHES[0], *sizes)
            for name, (samples, *sizes) in input_sizes(inputs, input_shapes or {}, path).items()
        },
        outputs=tuple(item.name for item in graph.output),
        opset=opset,
        domains={item.domain: item.version for item in model.opset_import if item.domain not in _OWN},
        types={item.name: item.type.tensor_type.elem_type for item in inputs},
        fixed_batch=fixed_batch(model),
    )


def _fill_sparse(model: onnx.ModelProto) -> None:
    """Give sparse initializers all of their values: the converter between opsets does not know of them.

    Raises:
        ValueError: see ``_dense``.
    """
    from onnx.numpy_helper import from_array

    for array in model.graph.sparse_initializer:
        model.graph.initializer.append(from_array(_dense(array), array.values.name))
    del model.graph.sparse_initializer[:]


def _dense(array: onnx.SparseTensorProto) -> np.ndarray:
    """All values of a sparse initializer; its entries are numbered one after the other, or by axis.

    Raises:
        ValueError: they are outside its shape, or all values would be too many.
    """
    from onnx.numpy_helper import to_array

    shape, values, indices = (*array.dims,), to_array(array.values), to_array(array.indices)
    if any(size < 0 for size in shape) or math.prod(shape) > LARGEST_SPARSE:
        raise ValueError(
            f"the shape of {array.values.name!r} is {shape}, expected at most {LARGEST_SPARSE} values, which "
            "are all made at first; store it as a MatrixMarket file"
        )
    places = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape)
    if places.shape != values.shape or ((places < 0) | (places >= math.prod(shape))).any():
        raise ValueError(f"the indices of {array.values.name!r} do not fit its shape {shape}")
    whole = np.zeros(math.prod(shape), values.dtype)
    whole[places] = values
    return whole.reshape(shape)


def inputs_of(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs of a model that are no constants."""
    constants = {array.name for array in model.graph.initializer}
    return [item for item in model.graph.input if item.name not in constants]


def inputs_in(path: Path) -> list[onnx.ValueInfoProto]:
    """The inputs of the model in an ONNX file; none if it cannot be read.

    Raises:
        UserError: the ``onnx`` package is missing.
    """
    onnx = _import_onnx(path)
    try:
        return inputs_of(onnx.load(path, load_external_data=False))
    except Exception:  # damage makes all kinds of them
        return []


def fixed_batch(model: onnx.ModelProto) -> int | None:
    """The only number of samples that a file says it takes; None: any.

    Exporters may fix that of their example without a word: inputs take any, and no size of an output is free.
    """
    inputs = [item.type.tensor_type.shape.dim for item in inputs_of(model)]
    outputs = [item.type.tensor_type.shape.dim for item in model.graph.output]
    if any(sizes[0].dim_value for sizes in inputs if sizes):
        return next(sizes[0].dim_value for sizes in inputs if sizes and sizes[0].dim_value)
    if all(sizes and all(size.dim_value > 0 for size in sizes) for sizes in outputs):
        batches = {sizes[0].dim_value for sizes in outputs}
        return batches.pop() if len(batches) == 1 else None
    return None


def data_files(path: Path) -> list[Path]:
    """The files beside an ONNX file that hold its large arrays; none if it cannot be read.

    Raises:
        UserError: the ``onnx`` package is missing.
    """
    onnx = _import_onnx(path)
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    try:
        graph = onnx.load(path, load_external_data=False).graph
        infos = [ExternalDataInfo(array) for array in graph.initializer if uses_external_data(array)]
        return sorted({path.parent / info.location for info in infos})
    except Exception:  # damage makes all kinds of them
        return []


def _import_onnx(path: Path) -> ModuleType:
    try:
        import onnx
        import onnx.inliner
    except ImportError:
        raise UserError(
            f"{path}: reading .onnx needs a package that is not installed; pip install 'repurpose-hpc[onnx]'"
        ) from None
    return onnx


def _reading(path: Path) -> AbstractContextManager[None]:
    return reading(path, "ONNX model", "export it again and keep its data files beside it")


def read_model(path: Path) -> onnx.ModelProto:
    """The model, local functions inlined, at an opset that is new enough.

    Raises:
        UserError: the ``onnx`` package is missing, the file is not valid, or its opset cannot be converted.
    """
    onnx = _import_onnx(path)
    with _reading(path):
        _check(path, onnx)
        model = onnx.load(path)
        for text in _texts(model.graph):
            if isinstance(text, bytes):  # what protocol buffers give where text is damaged
                text.decode()
        _fill_sparse(model)
    _free_negative_sizes(model)
    if opset_of(model) < OLDEST_OPSET:
        model = converted(model, opset_of(model), path)
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def _check(path: Path, onnx: ModuleType) -> None:
    """Check a file, in which the runtime's operators of normalisation may be in ONNX's own domain.

    Raises:
        onnx.checker.ValidationError: it is not valid.
    """
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError:
        model = onnx.load(path, load_external_data=False)
        foreign = [node for node in model.graph.node if node.op_type in _OF_RUNTIME and node.domain in _OWN]
        if not foreign:
            raise
        for node in foreign:
            node.domain = _DOMAIN_OF_RUNTIME
        model.opset_import.append(onnx.helper.make_opsetid(_DOMAIN_OF_RUNTIME, 1))
        _leave_out_data(model)
        onnx.checker.check_model(model)


def _leave_out_data(model: onnx.ModelProto) -> None:
    """Make inputs of the arrays that are in other files."""
    from onnx.external_data_helper import uses_external_data
    from onnx.helper import make_tensor_value_info

    arrays, inputs = list(model.graph.initializer), {item.name for item in model.graph.input}
    del model.graph.initializer[:]
    for array in arrays:
        if not uses_external_data(array):
            model.graph.initializer.append(array)
        elif array.name not in inputs:
            info = make_tensor_value_info(array.name, array.data_type, array.dims)
            model.graph.input.append(info)


def _texts(graph: onnx.GraphProto) -> Iterator[str | bytes]:
    """The names and texts in a graph; texts of attributes are bytes."""
    for item in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        yield item.name
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            yield from (attribute.name, attribute.s, *attribute.strings)
            if attribute.HasField("g"):
                yield from _texts(attribute.g)


def _free_negative_sizes(model: onnx.ModelProto) -> None:
    """Leave the axes of inputs free that a file gives the size -1, as some exporters do."""
    for item in model.graph.input:
        for axis in item.type.tensor_type.shape.dim:
            if axis.dim_value < 0:
                axis.Clear()


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators."""
    return max((item.version for item in model.opset_import if item.domain in _OWN), default=0)
