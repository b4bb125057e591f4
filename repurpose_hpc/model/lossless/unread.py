"""Neurons that nothing reads: which these are, and networks without them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from repurpose_hpc.model.lossless.local import RULES
from repurpose_hpc.model.lossless.rows import rows_of
from repurpose_hpc.model.lossless.values import Columns
from repurpose_hpc.model.network import Network, Space
from repurpose_hpc.model.operations import Affine, Mixing, Operation, Rows, Select
from repurpose_hpc.model.weights import column_numbers, picked


def without_unread(network: Network, outputs: dict[str, Columns]) -> Network:
    """The network without neurons that neither an output nor a mixing depends on; itself if it has none.

    Args:
        network: any.
        outputs: by tensor, those neurons of outputs that others stand for.

    Neurons of inputs stay, and those of operations without a rule.  So does one of every space.
    """
    numbers = _numbers(network)
    read = _read(network, outputs, numbers)
    if all(read[of].all() for of in numbers.values()):
        return network
    kept = {tensor: np.flatnonzero(read[numbers[space]]) for tensor, space in network.space_of.items()}
    smaller = _restricted(network, kept, {name: read[of] for name, of in numbers.items()})
    for tensor, columns in outputs.items():
        if len(kept[tensor]) < network.space(tensor).neurons:
            smaller = _with_copies(smaller, tensor, columns, kept[tensor])
    return smaller


def _numbers(network: Network) -> dict[str, np.ndarray]:
    """A number for every neuron of free spaces, by space; those of derived spaces have the same."""
    free, count = {}, 0
    for space in network.free_spaces:
        free[space.name] = np.arange(count, count + space.neurons)
        count += space.neurons
    return network.derive(free)


def _read(network: Network, outputs: dict[str, Columns], numbers: dict[str, np.ndarray]) -> np.ndarray:
    """Which neurons have to stay, by number."""
    read = np.zeros(1 + max(int(of.max()) for of in numbers.values()), bool)
    for tensor in _always_read(network):
        of = numbers[network.space_of[tensor]]
        if tensor in outputs:
            representatives = outputs[tensor].representatives
            of = of[np.unique(representatives[representatives >= 0])]
        read[of] = True
    followed: dict[str, int] = {}  # how many rows of a mixing were read when it was looked at
    while True:
        before = np.count_nonzero(read)
        for mixing in reversed(network.mixings):
            source, target = (numbers[network.space_of[end]] for end in (mixing.source, mixing.target))
            count = int(np.count_nonzero(read[target]))
            if followed.get(mixing.name) == count:
                continue
            followed[mixing.name] = count
            rows = rows_of(mixing.weights, mixing.bias)
            entries = np.flatnonzero(read[target][rows.numbers])
            read[source[np.unique(rows.columns[entries] // mixing.taps)]] = True
        for of in numbers.values():
            read[of[0]] |= not read[of].any()
        if np.count_nonzero(read) == before:
            return read


def _always_read(network: Network) -> Collection[str]:
    """Tensors of which all neurons stay: inputs, outputs, and those of operations without a rule."""
    tensors = {*network.input_tensors, *network.output_tensors}
    for op in network.operations:
        if not isinstance(op, Mixing) and type(op) not in RULES:
            tensors.update((*op.sources, op.target))
    return tensors


def _restricted(network: Network, kept: dict[str, np.ndarray], read: dict[str, np.ndarray]) -> Network:
    """The network on some of its neurons.

    Args:
        network: any.
        kept: of each tensor the neurons that stay, ascending.
        read: bool, of each space.
    """
    operations = tuple(_restricted_operation(network, op, kept) for op in network.operations)
    return replace(
        network, operations=operations, spaces=tuple(_restricted_space(s, read) for s in network.spaces)
    )


def _restricted_space(space: Space, read: dict[str, np.ndarray]) -> Space:
    here = read[space.name]
    if not space.parts:
        return replace(space, neurons=int(np.count_nonzero(here)))
    among = np.cumsum(np.concatenate([read[part] for part in space.parts])) - 1
    index = among[np.array(space.index)[here]]
    return replace(space, neurons=len(index), index=tuple(index.tolist()))


def _restricted_operation(network: Network, op: Operation, kept: dict[str, np.ndarray]) -> Operation:
    tensors = (op.target, *op.sources)
    sizes = {tensor: network.space(tensor).neurons for tensor in tensors}
    if all(len(kept[tensor]) == sizes[tensor] for tensor in tensors):
        return op
    if isinstance(op, Mixing):
        rows, columns = kept[op.target], column_numbers(kept[op.source], op.taps)
        return replace(op, weights=picked(op.weights, rows, columns), bias=op.bias[rows])
    parts = {
        tensor: Rows(kept[tensor], np.zeros(len(kept[tensor]), np.int64), sizes[tensor]) for tensor in tensors
    }
    return op.restricted(parts[op.target], *(parts[source] for source in op.sources))


def _with_copies(network: Network, tensor: str, columns: Columns, kept: np.ndarray) -> Network:
    """The network with all neurons of an output made anew from those that it still has.

    Args:
        network: with a smaller tensor.
        tensor: the output; it keeps its name, and what it was made of gets another one.
        columns: of all its neurons.
        kept: those that it has.
    """
    before = _new_name(f"{tensor}.distinct", network.space_of)
    network = _renamed(network, tensor, before)
    place = np.zeros(len(columns.ratios), np.int64)
    place[kept] = np.arange(len(kept))
    index = np.where(columns.representatives >= 0, place[columns.representatives], 0)
    shared = Space(_new_name(f"{tensor}.neurons", {space.name for space in network.spaces}), len(index))
    source = network.space(before)
    if source.parts:
        among = np.array(source.index)[index]
        shared = replace(shared, parts=source.parts, index=tuple(among.tolist()))
    else:
        shared = replace(shared, parts=(source.name,), index=tuple(index.tolist()))
    taken = {op.name for op in network.operations}
    added: list[Operation] = [Select(_new_name(f"{tensor}.copies", taken), (before,), tensor, index)]
    tensors = [tensor]
    if (columns.ratios != 1).any() or columns.constants.any():
        copies, name = _new_name(f"{tensor}.copied", network.space_of), _new_name(f"{tensor}.scaled", taken)
        scale, shift = columns.ratios[:, None], columns.constants[:, None]
        added = [replace(added[0], target=copies), Affine(name, copies, tensor, scale, shift)]
        tensors.append(copies)
    return replace(
        network,
        spaces=(*network.spaces, shared),
        operations=(*network.operations, *added),
        space_of={**network.space_of, **dict.fromkeys(tensors, shared.name)},
        positions_of={**network.positions_of, **dict.fromkeys(tensors, network.positions_of[before])},
    )


def _renamed(network: Network, tensor: str, name: str) -> Network:
    """The network with another name for a tensor, but among its outputs."""

    def new(old: str) -> str:
        return name if old == tensor else old

    return replace(
        network,
        operations=tuple(
            op.between(op.name, tuple(map(new, op.sources)), new(op.target)) for op in network.operations
        ),
        space_of={new(old): space for old, space in network.space_of.items()},
        positions_of={new(old): positions for old, positions in network.positions_of.items()},
    )


def _new_name(name: str, taken: Collection[str]) -> str:
    """``name``, longer where something is called like this."""
    while name in taken:
        name += "_"
    return name
