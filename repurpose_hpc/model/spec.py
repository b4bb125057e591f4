"""Rules of a legal network, as functions that find what breaks them.

Builder, importers, the reader of plan files and tests call ``check``.  A rule is a generator over what breaks
it; a later rule may rely on the earlier ones.  ``Network`` itself checks nothing, so that copies stay cheap.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields

import numpy as np

from repurpose_hpc.model.network import HEADS, Network
from repurpose_hpc.model.operations import Attention, PositionTable
from repurpose_hpc.model.weights import values_of

# What breaks a rule: a tensor (or the space or operation itself), and the reason in words.
Violations = Iterator[tuple[str, str]]
Rule = Callable[[Network], Violations]

RULES: dict[str, Rule] = {}


class IllegalNetwork(ValueError):
    """A network breaks a rule; the message names the tensor and the rule."""


def check(network: Network, bare: bool = False) -> Network:
    """Carry out all rules; returns the network.

    Args:
        network: any.
        bare: whether mixings may be without weights, as in the graph of a shard.

    Raises:
        IllegalNetwork: names the first tensor that breaks a rule.
    """
    for name, rule in RULES.items():
        if bare and rule is weights_are_there:
            continue
        for tensor, reason in rule(network):
            raise IllegalNetwork(f"tensor {tensor!r}: {reason} (rule: {name.replace('_', ' ')})")
    return network


def rule(function: Rule) -> Rule:
    """Enter a function into ``RULES``."""
    RULES[function.__name__] = function
    return function


@rule
def names_are_unique(network: Network) -> Violations:
    """Spaces, and operations, are told apart by their names."""
    for name, count in Counter(space.name for space in network.spaces).items():
        if count > 1:
            yield name, f"{count} spaces are called like this"
    for name, count in Counter(op.name for op in network.operations).items():
        if count > 1:
            yield name, f"{count} operations are called like this"


@rule
def tensors_have_one_maker(network: Network) -> Violations:
    """A tensor is an input, or the target of one operation."""
    makers = Counter(op.target for op in network.operations) + Counter(network.input_tensors)
    for tensor, count in makers.items():
        if count > 1:
            yield tensor, f"{count} inputs or operations make it"
    for tensor in network.space_of:
        if tensor not in makers:
            yield tensor, "nothing makes it"


@rule
def operations_can_be_executed_in_order(network: Network) -> Violations:
    """Operations read inputs and what earlier operations have made."""
    available = set(network.input_tensors)
    for op in network.operations:
        for source in op.sources:
            if source not in available:
                yield source, f"operation {op.name!r} reads it before it is made"
        if not op.sources:
            yield op.target, f"operation {op.name!r} reads nothing"
        available.add(op.target)


@rule
def inputs_outputs_and_heads_belong_together(network: Network) -> Violations:
    """There are inputs and outputs; an output has one head, and that of a map is identity."""
    available = {*network.input_tensors, *(op.target for op in network.operations)}
    if not network.input_tensors or not network.output_tensors:
        yield "", f"{len(network.input_tensors)} inputs and {len(network.output_tensors)} outputs"
    for tensor in network.output_tensors:
        if tensor not in available:
            yield tensor, "it is an output and nothing makes it"
    if len(network.heads) != len(network.output_tensors):
        yield "", f"{len(network.heads)} heads for {len(network.output_tensors)} outputs"
    for tensor, head in zip(network.output_tensors, network.heads, strict=False):
        if head not in HEADS:
            yield tensor, f"its head is {head!r}, expected one of {', '.join(HEADS)}"
        elif head != "identity" and network.positions_of.get(tensor):
            yield tensor, f"it has maps and the head {head}"


@rule
def tensors_have_a_space_and_positions(network: Network) -> Violations:
    """Every tensor is of a space that there is; maps have two positions or more."""
    names = {space.name for space in network.spaces}
    for tensor in (*network.input_tensors, *(op.target for op in network.operations)):
        if network.space_of.get(tensor) not in names:
            yield tensor, f"its space is {network.space_of.get(tensor)!r}, which is none of the network's"
        positions = network.positions_of.get(tensor)
        if positions is None or (positions and (min(positions) < 1 or math.prod(positions) < 2)):
            yield tensor, f"its maps have positions {positions}, expected () for a vector"


@rule
def neuron_axes_are_of_inputs_and_outputs(network: Network) -> Violations:
    """Only what a sample has can lie in another order; the axis is one among those of the positions."""
    for tensor, axis in network.neuron_axes.items():
        if tensor not in (*network.input_tensors, *network.output_tensors):
            yield tensor, "it has an axis of neurons and is neither an input nor an output"
        elif not isinstance(axis, int) or not 0 <= axis <= len(network.positions_of[tensor]):
            yield tensor, f"its neurons are on axis {axis} among positions {network.positions_of[tensor]}"


@rule
def tokens_are_vectors(network: Network) -> Violations:
    """A token is a vector, and what it sees of its sequence does not differ from sample to sample."""
    if not network.longest:
        return
    if network.longest < 1 or len(network.input_tensors) > 1:
        yield network.input_tensors[0], f"{network.longest} positions, {len(network.input_tensors)} inputs"
    for tensor, positions in network.positions_of.items():
        if positions:
            yield tensor, f"it has maps of {positions} in a network of tokens"
    for op in network.operations:
        if isinstance(op, Attention) and (op.has_constants or len(op.sources) > 3):
            yield op.target, f"operation {op.name!r} has a mask in a network of tokens"
        if isinstance(op, PositionTable) and op.table.shape[-1] < network.longest:
            yield op.target, f"a table of shape {op.table.shape} for {network.longest} positions"


@rule
def derived_spaces_are_of_free_ones(network: Network) -> Violations:
    """A derived space takes its neurons from free ones; those of inputs are free."""
    free = {space.name: space.neurons for space in network.spaces if not space.parts}
    for space in network.spaces:
        if space.neurons < 1:
            yield space.name, f"the space has {space.neurons} neurons"
        if not space.parts:
            continue
        if any(part not in free for part in space.parts):
            yield space.name, f"the space has the parts {space.parts}, expected free spaces"
            continue
        count = sum(free[part] for part in space.parts)
        if len(space.index) != space.neurons or not 0 <= min(space.index) <= max(space.index) < count:
            yield space.name, f"the space has {space.neurons} of {count} neurons and an index that says else"
    for tensor in network.input_tensors:
        if network.space_of[tensor] not in free:
            yield tensor, "it is an input of a derived space"


@rule
def operations_fit_their_tensors(network: Network) -> Violations:
    """The arrays, windows and parameters of an operation fit the shapes of its tensors."""
    for op in network.operations:
        shapes = [network.shape(source) for source in op.sources]
        for fault in op.faults(shapes, network.shape(op.target)):
            yield op.target, f"operation {op.name!r} ({type(op).__name__}) {fault}"


@rule
def neurons_keep_their_owners(network: Network) -> Violations:
    """Nothing but a mixing moves a neuron: targets have the neurons of sources, joined ones are the same."""
    numbers, count = {}, 0
    for space in network.free_spaces:
        numbers[space.name] = np.arange(count, count + space.neurons)
        count += space.neurons
    of_space = network.derive(numbers)
    for op in network.operations:
        sources = [of_space[network.space_of[source]] for source in op.sources]
        for left, right in op.ties(*sources):
            if not np.array_equal(left, right):
                yield op.target, f"operation {op.name!r} joins neurons of different owners"
        neurons = op.neurons(*sources)
        if neurons is not None and not np.array_equal(neurons, of_space[network.space_of[op.target]]):
            yield op.target, f"operation {op.name!r} makes it from neurons of other owners"


@rule
def weights_are_there(network: Network) -> Violations:
    """Mixings have weights; only the graph of a shard has none."""
    for mixing in network.mixings:
        if mixing.is_bare:
            yield mixing.target, f"mixing {mixing.name!r} has no weights"


@rule
def numbers_are_finite(network: Network) -> Violations:
    """Arrays of operations hold neither NaN nor infinity."""
    for op in network.operations:
        for field in fields(op):
            array = values_of(getattr(op, field.name))
            if isinstance(array, np.ndarray) and not np.isfinite(array).all():
                yield op.target, f"operation {op.name!r} has {field.name} that are NaN or infinite"
