"""The pass: equal neurons are read as one, unread ones go, straight mixings shrink, until nothing changes.

One sweep in the order of execution says of every neuron of every tensor what it is in terms of others
(``values``).  Mixings then read one neuron for all that are multiples of each other, and constants are in
their biases.  A sweep backward finds what nothing reads any more.
"""

from __future__ import annotations

from repurpose_hpc.model.lossless.local import RULES
from repurpose_hpc.model.lossless.mixings import analysed
from repurpose_hpc.model.lossless.straight import straightened
from repurpose_hpc.model.lossless.unread import without_unread
from repurpose_hpc.model.lossless.values import Columns, Numbering, Values, columns_of
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing, Operation
from repurpose_hpc.model.spec import check


def reduced(network: Network) -> Network:
    """A network with the same outputs, in real arithmetic, and no more neurons and weights.

    Inputs and outputs keep their numbers and their order.  Weights are added up in float64, and stay in their
    dtype where it holds the sums exactly.

    Args:
        network: any legal one, of samples or of tokens.

    Returns:
        the smaller one; ``network`` itself if no rule finds anything.
    """
    while (smaller := _once(network)) is not network:
        network = smaller
    return check(network)


def _once(network: Network) -> Network:
    """The network after every rule has been tried once; itself if none found anything."""
    mixings, values, outputs = _analysed(network)
    if any(mixings[mixing.name] is not mixing for mixing in network.mixings):
        network = network.with_mixings(mixings)
    smaller = without_unread(network, outputs)
    # Values are of all neurons, so that a network that has become smaller is looked at anew.
    return straightened(network, values) if smaller is network else smaller


def _analysed(network: Network) -> tuple[dict[str, Mixing], dict[str, Values], dict[str, Columns]]:
    """Mixings that read representatives alone, by name; what is known of every tensor; and of outputs."""
    numbering = Numbering()
    values = {
        tensor: Values.of_classes(numbering.fresh(network.space(tensor).neurons))
        for tensor in network.input_tensors
    }
    mixings: dict[str, Mixing] = {}
    for op in network.operations:
        if op.target in values:  # with another mixing of the same source
            continue
        if isinstance(op, Mixing):
            alike = [
                other for other in network.mixings if (other.source, other.window) == (op.source, op.window)
            ]
            changed, found = analysed(alike, values[op.source], numbering)
            mixings.update({mixing.name: mixing for mixing in changed})
            values.update({mixing.target: of for mixing, of in zip(alike, found, strict=True)})
        else:
            values[op.target] = _of_local(op, network, values, numbering)
    outputs = {tensor: columns_of(values[tensor], False, numbering) for tensor in network.output_tensors}
    return mixings, values, outputs


def _of_local(op: Operation, network: Network, values: dict[str, Values], numbering: Numbering) -> Values:
    rule = RULES.get(type(op))
    if rule is None:
        return Values.of_classes(numbering.fresh(network.space(op.target).neurons))
    return rule(op, numbering, network, *(values[source] for source in op.sources))
