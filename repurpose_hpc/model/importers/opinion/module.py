"""Compares an imported network with the PyTorch module that it was exported from."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.importers.onnx.file import read_graph
from repurpose_hpc.model.importers.opinion.comparison import ImportCheck
from repurpose_hpc.model.importers.opinion.evaluators import (
    CannotRun,
    Evaluator,
    Tensors,
    evaluators,
    in_one_line,
)
from repurpose_hpc.model.importers.opinion.probes import draw_probes
from repurpose_hpc.model.importers.opinion.verdict import REMEDY, Comparison, check_import
from repurpose_hpc.model.network import Network

if TYPE_CHECKING:
    import torch


def check_module(
    module: torch.nn.Module, examples: tuple[torch.Tensor, ...], path: Path, network: Network
) -> ImportCheck:
    """Compare a network with the module that it was exported from, on its example inputs.

    Where the module cannot be called so, the file that it was exported to is compared with.

    Args:
        module: left as it is.
        examples: its inputs, samples first.
        path: of the file that it was exported to.
        network: imported from there.

    Raises:
        UserError: the network is not the module; says whether the file is, and names the first tensor that
            differs.
    """
    samples = Samples.of(np.hstack([_array(example).reshape(len(example), -1) for example in examples]))
    comparison = Comparison(path, network, draw_probes(network, samples))
    result, fault = comparison.run(_programs(module, examples, path))
    if result.evaluator is None and not fault:
        return check_import(path, network, samples)
    if not fault:
        return result
    _, fault_of_importer = comparison.run(evaluators(path))
    name = type(module).__name__
    if fault_of_importer:
        raise UserError(f"{name}: {fault_of_importer}; {REMEDY}")
    raise UserError(
        f"{name}: {fault}; torch.onnx exports something else than the module computes, since the network is "
        "what is in the file: change the module, or export it yourself and give the .onnx file"
    )


def _programs(
    module: torch.nn.Module, examples: tuple[torch.Tensor, ...], path: Path
) -> Iterator[Evaluator | CannotRun]:
    for in_float64 in (False, True):
        try:
            yield TorchModule(module, examples, path, in_float64)
        except CannotRun as error:
            yield error


class TorchModule:
    """A PyTorch module as an evaluator; it shows its outputs alone.

    Args:
        module: copied, and the copy put into evaluation mode.
        examples: what it is called with.
        path: of the file that it was exported to, which names inputs and outputs.
        in_float64: whether to compute in float64, whatever the precision of the module.

    Raises:
        CannotRun: it cannot be copied, or takes what NumPy has no type for.
    """

    batch: int | None = None
    half_precision: bool = False
    has_small_steps: bool = False
    rounding_of_one: float = 3e-7

    def __init__(
        self, module: torch.nn.Module, examples: tuple[torch.Tensor, ...], path: Path, in_float64: bool
    ) -> None:
        import torch

        graph = read_graph(path)
        self.name = f"the module in PyTorch {torch.__version__}"
        self._names, self._devices = graph.outputs, [example.device for example in examples]
        with in_one_line(self.name):
            self._module = copy.deepcopy(module).eval()
            if in_float64:
                self._module = self._module.double()
            convert = _array if in_float64 else _array_as_it_is
            arrays = [convert(example[:1]) for example in examples]
        self.inputs = {name: array.dtype for name, array in zip(graph.inputs, arrays, strict=False)}
        if len(self.inputs) < len(graph.inputs):
            raise CannotRun("the module was exported with other inputs than it is called with")

    def outputs(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """See ``Evaluator``."""
        import torch

        with in_one_line(self.name), torch.no_grad():
            arguments = [
                torch.from_numpy(feeds[name]).to(device)
                for name, device in zip(self.inputs, self._devices, strict=False)
            ]
            values = [value.cpu().numpy() for value in _tensors_in(self._module(*arguments))]
        if len(values) != len(self._names):
            raise CannotRun(f"the module has {len(values)} outputs, the file {len(self._names)}")
        return values

    def tensors(self, feeds: Mapping[str, np.ndarray]) -> Tensors:
        """See ``Evaluator``."""
        return dict(zip(self._names, self.outputs(feeds), strict=True))


def _array_as_it_is(example: torch.Tensor) -> np.ndarray:
    return example.detach().cpu().numpy()


def _array(example: torch.Tensor) -> np.ndarray:
    """An input, floating-point numbers in float64."""
    return _array_as_it_is(example.double() if example.is_floating_point() else example)


def _tensors_in(result: Any) -> Iterator[Any]:
    """The tensors in what a module returns, in order."""
    import torch

    if isinstance(result, torch.Tensor):
        yield result
    elif isinstance(result, (tuple, list, dict)):
        for part in result.values() if isinstance(result, dict) else result:
            yield from _tensors_in(part)
