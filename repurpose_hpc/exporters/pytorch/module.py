"""A graph as a PyTorch module."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch

from repurpose_hpc.exporters.pytorch.operators import FUNCTIONS
from repurpose_hpc.model.ends import Step, Subgraph
from repurpose_hpc.model.ends.call import Call

# Constants that may be trained further, by the last part of their names.
_TRAINED = ("weight", "bias")


class GraphModule(torch.nn.Module):
    """The steps of a graph one after the other; its weights are parameters ``LAYER.weight``, ``LAYER.bias``.

    Args:
        graph: all of its operators are in ``FUNCTIONS``.
    """

    def __init__(self, graph: Subgraph) -> None:
        super().__init__()
        self._graph = graph
        self._known: dict[str, Any] = {}
        self._held: dict[str, tuple[torch.nn.Module, str]] = {}
        for name, array in graph.constants.items():
            if not array.ndim:
                self._known[name] = array.item()
            elif array.dtype.kind != "f":
                self._known[name] = array
            else:
                self._held[name] = self._hold(name, array)

    def _hold(self, name: str, array: np.ndarray) -> tuple[torch.nn.Module, str]:
        """Make an array a parameter or a buffer of the module of its layer: that, and the name there."""
        *layers, last = (_attribute(part) for part in name.split("."))
        module: torch.nn.Module = self
        for layer in layers:
            if layer not in dict(module.named_children()):
                module.add_module(layer, torch.nn.Module())
            module = module.get_submodule(layer)
        while hasattr(module, last):
            last += "_"
        tensor = torch.from_numpy(np.array(array, order="C"))  # a copy: arrays of shards may be read-only
        if last in _TRAINED:
            module.register_parameter(last, torch.nn.Parameter(tensor))
        else:
            module.register_buffer(last, tensor)
        return module, last

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """The outputs of the graph, from its inputs, samples first."""
        values = self._known | {name: getattr(*place) for name, place in self._held.items()}
        values |= dict(zip((port.name for port in self._graph.inputs), inputs, strict=True))
        for step in self._graph.steps:
            values |= _computed(step, values)
        outputs = tuple(values[port.name] for port in self._graph.outputs)
        return outputs[0] if len(outputs) == 1 else outputs


def _computed(step: Step, values: dict[str, Any]) -> dict[str, Any]:
    call = Call(step.attributes, step.opset, len(step.outputs))
    result = FUNCTIONS[step.operator](call, *(values[name] if name else None for name in step.inputs))
    return {step.outputs[0]: result}


def _attribute(part: str) -> str:
    """Part of a name as one of an attribute that no module has already."""
    name = re.sub(r"\W", "_", part) or "_"
    return f"{name}_" if hasattr(torch.nn.Module, name) else name
