"""Graphs as ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.exporters.onnx_model import import_onnx, model_of
from repurpose_hpc.io.atomic import replacing
from repurpose_hpc.model.ends import Subgraph

if TYPE_CHECKING:
    import onnx

# Bytes of constants that one file holds; protobuf ends at 2 GiB.
LARGEST_FILE = 1 << 30
# Constants as large as this, in bytes, lie in the file beside it; and begin at multiples of the other number.
_LARGE, _ALIGNMENT = 1 << 10, 1 << 12


def write_onnx(graph: Subgraph, path: Path, largest: int = LARGEST_FILE) -> list[Path]:
    """Write a graph, with ``NAME.data`` beside it where its constants are too large for one file.

    Args:
        graph: see ``onnx_model.model_of``.
        path: of the file.
        largest: bytes of constants in it.

    Returns:
        the files.

    Raises:
        UserError: it cannot be written, or the onnx package is missing.
    """
    onnx = import_onnx()
    if sum(array.nbytes for array in graph.constants.values()) <= largest:
        with replacing(path) as temporary:
            model = model_of(graph)
            onnx.checker.check_model(model)
            temporary.write_bytes(model.SerializeToString())
        return [path]
    beside = path.with_name(f"{path.name}.data")
    with replacing(path) as temporary:
        with replacing(beside) as data:
            model = model_of(graph, _beside(graph, data, beside.name))
        temporary.write_bytes(model.SerializeToString())
        onnx.checker.check_model(temporary)
    return [path, beside]


def _beside(graph: Subgraph, data: Path, name: str) -> dict[str, onnx.TensorProto]:
    """Write the large constants of a graph to a file; what stands for all of them in the model.

    Args:
        graph: with the constants.
        data: the file.
        name: that it will have.
    """
    onnx = import_onnx()
    tensors = {}
    with open(data, "wb") as file:
        for key, array in graph.constants.items():
            if array.nbytes < _LARGE:
                tensors[key] = onnx.numpy_helper.from_array(array, key)
                continue
            file.seek(-(-file.tell() // _ALIGNMENT) * _ALIGNMENT)
            place = {"location": name, "offset": file.tell(), "length": array.nbytes}
            file.write(np.ascontiguousarray(array).data)
            tensor = onnx.TensorProto(
                name=key,
                data_type=onnx.helper.np_dtype_to_tensor_dtype(array.dtype),
                dims=array.shape,
                data_location=onnx.TensorProto.EXTERNAL,
            )
            for word, value in place.items():
                tensor.external_data.add(key=word, value=str(value))
            tensors[key] = tensor
    return tensors
