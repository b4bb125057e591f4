"""What the outputs of a spiking network are: trains, or one number for each neuron."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from repurpose_hpc.model.importers.spiking.trains import Train, Trains
from repurpose_hpc.model.operations import Depthwise, Operation, Pool, Rearrange, Window

TRAINS = "trains"


def _count(name: str, source: Train, target: str, window: Window) -> Operation:
    ones = np.ones((source.neurons, window.taps), np.float32)
    return Depthwise(name, source.tensor, target, ones, np.zeros(source.neurons, np.float32), window)


def _last(name: str, source: Train, target: str, window: Window) -> Operation:
    places = np.arange(math.prod(window.positions))
    return Rearrange(name, source.tensor, target, places[-math.prod(window.out) :])


def _largest(name: str, source: Train, target: str, window: Window) -> Operation:
    return Pool(name, source.tensor, target, "max", window)


def _mean(name: str, source: Train, target: str, window: Window) -> Operation:
    return Pool(name, source.tensor, target, "average", window)


# Makes one value of those of all steps.
_READERS: dict[str, Callable[[str, Train, str, Window], Operation]] = {
    "count": _count,
    "last": _last,
    "max": _largest,
    "mean": _mean,
}
READ_OUTS = (*_READERS, TRAINS)


def read_out(trains: Trains, source: Train, kind: str) -> Train:
    """What is read of the last layer, see ``READ_OUTS``; ``count`` is the sum over all steps."""
    if kind == TRAINS or trains.steps == 1:
        return source
    values, steps = math.prod(source.frame), trains.steps
    if values == 1:
        window = Window((steps,), (steps,), (1,), (1,), (0,), (1,))
    else:  # kernels know two axes
        window = Window((steps, values), (steps, 1), (1, 1), (1, 1), (0, 0), (1, values))
    op = _READERS[kind](kind, source, f"{kind}.y", window)
    return Train(trains.builder.add(op, source.frame), source.shape)
