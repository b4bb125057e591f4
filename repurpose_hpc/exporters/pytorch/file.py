"""Graphs as files that ``torch.export.load`` reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.atomic import replacing
from repurpose_hpc.model.ends import Port, Subgraph
from repurpose_hpc.model.network import FREE

if TYPE_CHECKING:
    import torch

# Samples, or tokens, of the example with which a module is traced: of one, PyTorch would think that there is
# always one.
_SEVERAL = 2


def write_torch(graph: Subgraph, path: Path) -> None:
    """Write a graph as an exported program of PyTorch.

    Args:
        graph: see ``onnx_model.model_of``.
        path: of the file.

    Raises:
        UserError: PyTorch is missing, has no function for an operator, or the file cannot be written.
    """
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path}: writing it needs PyTorch, which is not installed; pip install 'repurpose-hpc[train]', "
            "or export to an .onnx file"
        ) from None
    examples = tuple(_example(port, graph.batch or _SEVERAL) for port in graph.inputs)
    # Once more in a tuple, as the module takes any number of inputs.
    free = (tuple(_free_axes(port, graph.batch) for port in graph.inputs),)
    program = torch.export.export(_module(graph, path), examples, dynamic_shapes=free)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        torch.export.save(program, file)


def _example(port: Port, samples: int) -> torch.Tensor:
    import torch

    shape = (_SEVERAL if size == FREE else size for size in port.shape)
    return torch.zeros(samples, *shape, dtype=getattr(torch, port.dtype))


def _free_axes(port: Port, batch: int) -> dict[int, Any]:
    """The axes of an input that may have any size."""
    import torch

    tokens = {1 + axis: torch.export.Dim.AUTO for axis, size in enumerate(port.shape) if size == FREE}
    return tokens if batch else {0: torch.export.Dim("samples"), **tokens}


def _module(graph: Subgraph, path: Path) -> torch.nn.Module:
    """The module of a graph, in evaluation mode.

    Raises:
        UserError: PyTorch has no function for an operator.
    """
    from repurpose_hpc.exporters.pytorch.module import GraphModule
    from repurpose_hpc.exporters.pytorch.operators import FUNCTIONS

    for step in graph.steps:
        if step.operator not in FUNCTIONS:
            raise UserError(
                f"{path}: expected operators that can be written for PyTorch, found {step.operator} of "
                f"{step.outputs[0]}; export to an .onnx file"
            )
    return GraphModule(graph).eval()
