"""Graphs as files that ``torch.export.load`` reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.atomic import replacing
from repurpose_hpc.model.ends import Subgraph

if TYPE_CHECKING:
    import torch

# Samples of the example with which a module is traced: of one, PyTorch would think that there is always one.
_SAMPLES = 2


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
    module = _module(graph, path)
    batch = graph.batch or _SAMPLES
    examples = tuple(
        torch.zeros(batch, *port.shape, dtype=getattr(torch, port.dtype)) for port in graph.inputs
    )
    # Once more in a tuple, as the module takes any number of inputs.
    free = None if graph.batch else (tuple({0: torch.export.Dim("samples")} for _ in examples),)
    program = torch.export.export(module, examples, dynamic_shapes=free)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        torch.export.save(program, file)


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
