"""Networks from modules of snnTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import FieldError
from repurpose_hpc.model.forward import trace
from repurpose_hpc.model.importers.snntorch.layers import is_neuron, make_layer, subtracts_at_once
from repurpose_hpc.model.importers.snntorch.recorded import Recording, layers_of, record
from repurpose_hpc.model.importers.spiking import readout
from repurpose_hpc.model.importers.spiking.trains import Train, Trains
from repurpose_hpc.model.network import Network

if TYPE_CHECKING:
    import torch

_LAYERS_BEFORE = ("Flatten", "Dropout", "Identity")


def from_snntorch(
    module: torch.nn.Module,
    steps: int,
    example: torch.Tensor | None = None,
    read_out: str = "count",
    check: bool = True,
) -> Network:
    """The network that a module of snnTorch computes in evaluation mode, on trains of so many steps.

    Args:
        module: layers one after the other: Linear, convolutions, pooling, Flatten, BatchNorm, Dropout, and
            neurons of snnTorch.  It makes a step when it is called, and its neurons keep their states
            (``init_hidden=True``), or goes through all steps itself.  It is left as it is.
        steps: of a sample.
        example: what the module is called with, samples first; None: random numbers for its first Linear.
        read_out: "count", sums over all steps of what comes out of the last layer, "last", "max" or "mean",
            or "trains", all of it.
        check: refuse what fires otherwise than the module on random input.

    Returns:
        a sample is (steps, features) or (steps, channels, height, width): what the first layer reads in each
        step.

    Raises:
        UserError: snnTorch is missing, or something is not supported; names the layer.  On random input
            a layer fires otherwise than in the module.
    """
    version = _version()
    _check(module, steps, example, read_out)
    recording = record(module, _example(module) if example is None else example, steps)
    first = next(iter(recording.layers))
    trains = Trains(steps)
    name_of_input = "input"
    while name_of_input in recording.layers:
        name_of_input += "_"
    made = trains.input(name_of_input, _input_shape(recording, first))
    tensors: dict[str, Train] = {}
    for name, layer in recording.layers.items():
        made = make_layer(
            trains, name, layer, made._replace(is_flat=True) if name in recording.flattened else made
        )
        tensors[name] = made
    output = readout.read_out(trains, made, read_out)
    network = trains.build(output, read_out == readout.TRAINS)
    if check:
        _compare(network, recording, tensors, f"{type(module).__name__}: ", version)
    return network


def _version() -> str:
    try:
        import snntorch
    except ImportError:
        raise UserError(
            "from_snntorch needs snnTorch, which is not installed; pip install snntorch, or export the "
            "network to a .nir file elsewhere"
        ) from None
    return str(snntorch.__version__)


def _check(module: Any, steps: Any, example: Any, read_out: str) -> None:
    from torch import Tensor
    from torch.nn import Module

    is_example = example is None or isinstance(example, Tensor) and example.ndim > 1
    if not isinstance(module, Module) or not is_example:
        found = f"{type(module).__name__} and {type(example).__name__}"
        raise UserError(
            "from_snntorch: expected a torch.nn.Module and, as an example, a tensor with the samples on the "
            f"first of two or more axes, found {found}"
        )
    if not isinstance(steps, int) or steps < 1:
        raise FieldError("steps", f"expected an integer, 1 or more, got {steps!r}; try steps=100")
    if read_out not in readout.READ_OUTS:
        raise FieldError(
            "read_out",
            f"expected one of {', '.join(readout.READ_OUTS)}, got {read_out!r}; try read_out='count'",
        )
    layers = layers_of(module)
    if not any(is_neuron(layer) for layer in layers.values()):
        kinds = ", ".join(sorted({type(layer).__name__ for layer in layers.values()}))
        raise UserError(
            f"{type(module).__name__}: expected layers of snnTorch's neurons, found {kinds}; from_torch "
            "reads networks without states"
        )


def _example(module: Any) -> Any:
    """An input for a module that begins with a Linear.

    Raises:
        UserError: it begins with something else.
    """
    import torch

    for name, layer in layers_of(module).items():
        if type(layer).__name__ == "Linear":
            return torch.zeros(1, layer.in_features)
        if type(layer).__name__ not in _LAYERS_BEFORE:
            raise UserError(
                f"{type(module).__name__}: expected an example, as the first layer, {name} "
                f"({type(layer).__name__}), reads inputs of any size; give example=…, samples first"
            )
    raise UserError(f"{type(module).__name__}: expected a layer that reads the input, found none")


def _input_shape(recording: Recording, first: str) -> tuple[int, ...]:
    """The shape of a step of the input, flat where it is flattened at once."""
    shape = recording.x[first].shape[2:]
    for name, layer in recording.layers.items():
        if type(layer).__name__ == "Flatten" or name in recording.flattened:
            return (int(np.prod(shape)),)
        if type(layer).__name__ not in _LAYERS_BEFORE:
            break
    return shape


def _compare(
    network: Network, recording: Recording, tensors: dict[str, Train], prefix: str, version: str
) -> None:
    """Refuse a network whose neurons fire otherwise than those of the module."""
    x = next(iter(recording.x.values()))
    found = trace(network, np.ascontiguousarray(x.reshape(len(x), -1).T))
    for name, layer in recording.layers.items():
        tensor = found.get(tensors[name].tensor)
        if tensor is None or not is_neuron(layer):
            continue
        expected = recording.y[name]
        steps, neurons = expected.shape[1:3]
        spikes = tensor.reshape(neurons, len(x), steps, -1).transpose(1, 2, 0, 3).reshape(expected.shape)
        differ = np.argwhere(spikes != expected)
        if not len(differ):
            continue
        remedy = "please report it; check=False goes on regardless"
        if subtracts_at_once(layer):
            remedy = "reset_delay=False is why, see the note; train with True, or go on with check=False"
        raise UserError(
            f"{prefix}{name} ({type(layer).__name__}): expected the spikes of snnTorch {version} on random "
            f"input, found {len(differ)} others of {expected.size}, the first in step {differ[:, 1].min()}; "
            f"{remedy}"
        )
