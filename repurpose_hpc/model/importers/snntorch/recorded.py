"""What a module of snnTorch calls, in which order, and what comes out: of a copy, in float64."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from repurpose_hpc.errors import UserError

# Samples that a module is tried on, and the seed of what they are.
_SAMPLES, _SEED = 4, 0


@dataclass(eq=False)
class Call:
    """A layer in a step: input and output, (samples, ...) float64."""

    name: str
    x: Any
    y: Any


@dataclass(eq=False)
class Recording:
    """A run of a module over some steps.

    Attributes:
        layers: those that are called, in the order of a step, by name.
        x, y: of each layer, (samples, steps, ...).
        flattened: layers in front of which the axes of maps are joined.
    """

    layers: dict[str, Any]
    x: dict[str, np.ndarray] = field(default_factory=dict)
    y: dict[str, np.ndarray] = field(default_factory=dict)
    flattened: set[str] = field(default_factory=set)


def record(module: Any, example: Any, steps: int) -> Recording:
    """Run a copy of a module, in evaluation mode and in float64, on random input.

    Args:
        module: is called with a step, or with one input for all steps, and has no other arguments.
        example: an input, samples first.
        steps: to run.

    Raises:
        UserError: it cannot be run, or does something else with a value than to give it to the next layer.
    """
    import torch

    name = type(module).__name__
    try:
        runner = _Runner(module)
        with torch.no_grad():
            inputs = _random_inputs(example)
            first = runner.run(next(inputs))
            count, period = _period(name, [call.name for call in first], steps)
            calls = first
            for _ in range(steps - 1 if count == 1 else 0):
                calls = calls + runner.run(next(inputs), resets=False)
    except UserError:
        raise
    except Exception as error:  # whatever the user's module raises
        raise UserError(
            f"{name}: expected a module that can be called with an example, {tuple(example.shape)}, found "
            f"{type(error).__name__}: {error}; give another example, or a module whose layers keep their "
            "states (init_hidden=True)"
        ) from error
    return _recording(name, runner.layers, calls, period)


def layers_of(module: Any) -> dict[str, Any]:
    """The modules without others in them, by name; neurons are whole, with what leads back to them."""
    from snntorch import SpikingNeuron

    found: dict[str, Any] = {}

    def visit(prefix: str, part: Any) -> None:
        inner = list(part.named_children())
        if isinstance(part, SpikingNeuron) or not inner:
            found[prefix or type(part).__name__] = part
            return
        for name, child in inner:
            visit(f"{prefix}.{name}" if prefix else name, child)

    visit("", module)
    return found


class _Runner:
    """A copy of a module whose layers write down what they do.

    Args:
        module: left as it is.
    """

    def __init__(self, module: Any) -> None:
        # States of a training belong to a graph of gradients and cannot be copied.
        states = [
            value for part in module.modules() for value in (*vars(part).values(), *part._buffers.values())
        ]
        memo = {
            id(state): state.detach().clone()
            for state in states
            if getattr(state, "grad_fn", None) is not None
        }
        self._module = copy.deepcopy(module, memo).cpu().eval().double()
        self.layers = layers_of(self._module)
        self._calls: list[Call] = []
        for part in self._module.modules():
            part.register_forward_pre_hook(_in_float64)  # spikes of snnTorch are float32
        for name, layer in self.layers.items():
            layer.register_forward_hook(self._listener(name))

    def run(self, x: Any, resets: bool = True) -> list[Call]:
        """Call the module, of which states begin anew or not."""
        if resets:
            for layer in self.layers.values():
                if hasattr(layer, "reset_mem"):
                    layer.reset_mem()
        self._calls = []
        self._module(x)
        return self._calls

    def _listener(self, name: str) -> Any:
        def listen(layer: Any, inputs: tuple[Any, ...], output: Any) -> None:
            result = output[0] if isinstance(output, tuple) else output
            self._calls.append(Call(name, inputs[0].clone(), result.double().clone()))

        return listen


def _in_float64(part: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.double() if hasattr(value, "double") else value for value in inputs)


def _random_inputs(example: Any) -> Any:
    """Inputs like an example, half of them spikes, as long as somebody asks."""
    import torch

    rng = np.random.default_rng(_SEED)
    shape = (_SAMPLES, *example.shape[1:])
    while True:
        values = rng.standard_normal(shape)
        values[::2] = rng.random(values[::2].shape) < 0.5
        yield torch.from_numpy(values)


def _period(name: str, calls: list[str], steps: int) -> tuple[int, int]:
    """How many steps a call of a module makes, and how many layers are called in each."""
    if not calls:
        raise UserError(f"{name}: expected a module with layers, found none that is called; give another one")
    count = calls.count(calls[0])
    period = len(calls) // count
    if calls != calls[:period] * count or len(set(calls[:period])) < period:
        raise UserError(
            f"{name}: expected every step to call each layer once, in one order, found "
            f"{', '.join(calls[: 2 * period])}; call all layers in the loop over steps, and none twice"
        )
    if count not in (1, steps):
        raise UserError(
            f"{name}: expected one step or {steps} steps in a call, found {count}; give steps={count}"
        )
    return count, period


def _recording(name: str, layers: dict[str, Any], calls: list[Call], period: int) -> Recording:
    order = [call.name for call in calls[:period]]
    unused = layers.keys() - set(order)
    if unused:
        raise UserError(f"{name}: expected all layers to be called, found {min(unused)} is not; take it out")
    recording = Recording({layer: layers[layer] for layer in order})
    for before, call in zip(calls, calls[1:], strict=False):
        if call.name != order[0] and _joins(name, before, call):
            recording.flattened.add(call.name)
    for place, layer in enumerate(order):
        those = calls[place::period]
        recording.x[layer] = np.stack([call.x.cpu().numpy() for call in those], axis=1)
        recording.y[layer] = np.stack([call.y.cpu().numpy() for call in those], axis=1)
    return recording


def _joins(name: str, before: Call, call: Call) -> bool:
    """Whether a layer reads what the one before made, flattened.

    Raises:
        UserError: it reads something else.
    """
    same = before.y.numel() == call.x.numel() and bool((before.y.reshape(-1) == call.x.reshape(-1)).all())
    is_flat = call.x.shape == (len(before.y), before.y[:1].numel())
    if same and (is_flat or call.x.shape == before.y.shape):
        return before.y.shape != call.x.shape
    raise UserError(
        f"{name}: expected {call.name} to read what {before.name} makes, of shape {tuple(before.y.shape)}, "
        f"flattened or not, found something else, of shape {tuple(call.x.shape)}; make what is in between a "
        "layer"
    )
