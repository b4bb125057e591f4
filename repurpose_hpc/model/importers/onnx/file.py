"""Reads an ONNX file: its graph, constants, inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.errors import UserError

if TYPE_CHECKING:
    import onnx

# The meaning of Add and Mul, and the way in which Reshape is told its shape, are settled since then.
_OLDEST_OPSET = 7

# Stands for a batch of any size: a prime, so that a Reshape that mixes samples with features
# does not keep it by chance.
ANY_BATCH = 7919


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
    """

    path: Path
    nodes: tuple[onnx.NodeProto, ...]
    constants: dict[str, np.ndarray]
    inputs: dict[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    opset: int
    domains: dict[str, int]
    types: dict[str, int]


def read_graph(path: Path) -> Graph:
    """The graph in an ONNX file; external data is looked for beside it.

    Raises:
        UserError: the ``onnx`` package is missing, or the file is not valid.
    """
    graph, opset, domains = _read(path)
    from onnx.numpy_helper import to_array

    constants = {initializer.name: to_array(initializer) for initializer in graph.initializer}
    inputs = [item for item in graph.input if item.name not in constants]
    if not graph.node or not inputs or not graph.output:
        raise UserError(
            f"{path}: expected nodes, inputs and outputs, found {len(graph.node)} nodes, "
            f"{len(inputs)} inputs and {len(graph.output)} outputs; export a model that computes something"
        )
    return Graph(
        path=path,
        nodes=tuple(graph.node),
        constants=constants,
        inputs={item.name: _input_shape(item, path) for item in inputs},
        outputs=tuple(item.name for item in graph.output),
        opset=opset,
        domains=domains,
        types={item.name: item.type.tensor_type.elem_type for item in inputs},
    )


def data_files(path: Path) -> list[Path]:
    """The files beside an ONNX file that hold its large arrays; none if it cannot be read.

    Raises:
        UserError: the ``onnx`` package is missing.
    """
    onnx = _import_onnx(path)
    from google.protobuf.message import DecodeError
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except (OSError, ValueError, DecodeError):
        return []
    infos = [ExternalDataInfo(array) for array in graph.initializer if uses_external_data(array)]
    return sorted({path.parent / info.location for info in infos})


def _import_onnx(path: Path) -> ModuleType:
    try:
        import onnx
        import onnx.inliner
    except ImportError:
        raise UserError(
            f"{path}: reading .onnx needs a package that is not installed; pip install 'repurpose-hpc[onnx]'"
        ) from None
    return onnx


def _read(path: Path) -> tuple[onnx.GraphProto, int, dict[str, int]]:
    """The graph, local functions inlined, its opset, and the versions of other domains."""
    onnx = _import_onnx(path)
    from google.protobuf.message import DecodeError

    try:
        onnx.checker.check_model(str(path))
        model = onnx.load(path)
    except (OSError, ValueError, DecodeError, onnx.checker.ValidationError) as error:
        raise UserError(
            f"{path}: expected a valid ONNX model: {error}; export it again and keep its data files beside it"
        ) from None
    opset = max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0)
    if opset < _OLDEST_OPSET:
        raise UserError(
            f"{path}: expected opset {_OLDEST_OPSET} or later, found {opset}; export with opset_version=17"
        )
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    domains = {item.domain: item.version for item in model.opset_import}
    return model.graph, opset, {name: domains[name] for name in domains if name not in ("", "ai.onnx")}


def _input_shape(item: onnx.ValueInfoProto, path: Path) -> tuple[int, ...]:
    """An input's shape, the samples first."""
    dimensions = item.type.tensor_type.shape.dim
    sizes = [dimension.dim_value for dimension in dimensions]  # 0 where unknown
    if len(sizes) < 2 or 0 in sizes[1:]:
        shown = ", ".join(d.dim_param or str(d.dim_value or "?") for d in dimensions)
        raise UserError(
            f"{path}: input {item.name!r}: expected samples on the first axis and features of known size "
            f"on the others, found shape ({shown}); make only the first axis dynamic when exporting"
        )
    return (sizes[0] or ANY_BATCH, *sizes[1:])
