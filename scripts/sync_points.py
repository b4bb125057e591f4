"""Peers of the method for transformers: tensor parallelism, and fewer all-reduces without training.

``dense`` is tensor parallelism as it is, an all-reduce behind each half of a block.  ``sync_point_drop``
leaves out those behind the least sensitive attentions, as SPD (arXiv:2502.20727) does without training.  Both
are networks and plans that the same runtime runs as the method's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from repurpose_hpc.model.network import Network, Space
from repurpose_hpc.model.operations import Affine, Combine, Elementwise, Mixing, Operation
from repurpose_hpc.plan.masks import EVERYBODY
from repurpose_hpc.plan.plan import REPLICATED, block_owners, contiguous_owners, dense_plan_for, near_owners
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.exact import common_spaces, with_copied_outputs
from repurpose_hpc.restructure.tokens.graph import with_own_plans
from repurpose_hpc.restructure.tokens.halves import Half, halves_of
from repurpose_hpc.restructure.tokens.quality import first_texts, measure

# Tokens on which the sensitivity of a block is measured, at least.
SENSING = 2_048


def dense(network: Network, workers: int) -> Cut:
    """Split a network of tokens as it is; owners sum what is added to the stream, in two rounds."""
    return drop_sync_points(network, workers, ())


def sync_point_drop(network: Network, texts: Sequence[np.ndarray], workers: int, budget: float) -> Cut:
    """Drop the all-reduce behind the attentions of the least sensitive blocks.

    Sensitivities are measured as in the paper: attentions are dropped one after the other, the last one
    first, and the sensitivity of each is what it adds to the log-perplexity of calibration texts, or of an
    encoder to the squared error of the outputs.

    Args:
        network: of tokens.
        texts: calibration data.
        workers: P.
        budget: fraction of the all-reduces that may be left, at least a half: those of perceptrons stay.
    """
    blocks = [attention.name for attention, _ in _blocks(halves_of(with_copied_outputs(network)))]
    count = int(np.ceil(2 * len(blocks) * (1 - budget) - 1e-9))
    if count > len(blocks):
        raise ValueError(f"expected a budget of a half or more, got {budget}")
    some = first_texts(texts, SENSING)
    losses = [0.0]
    for place in reversed(range(len(blocks))):
        quality = measure(network, drop_sync_points(network, workers, blocks[place:]), some)
        if quality.perplexity is None:
            losses.append(quality.output_error**2)
        else:
            losses.append(float(np.log(quality.perplexity_increase / 100 + 1)))
    order = np.argsort(np.diff(losses), kind="stable")  # 0: the last block
    return drop_sync_points(network, workers, [blocks[-1 - place] for place in order[:count]])


def drop_sync_points(network: Network, workers: int, dropped: Sequence[str]) -> Cut:
    """Drop the all-reduce behind these attentions.

    Every worker goes on with a stream of its own, to which its own heads alone have added.  Its part of the
    perceptron reads that.  What its heads and its neurons of the perceptron add crosses together, in the
    all-reduce behind the perceptron, so that nothing that is added to the stream is lost.

    Where a normalisation stands between the sum behind attention and the residual path (normalisation behind
    sums, as in BERT), what heads add must be summed by itself.  It crosses in the same rounds as what
    perceptrons add: there are fewer rounds, and as many values.

    Args:
        network: of tokens.
        workers: P.
        dropped: names of the mixings behind the attentions.
    """
    network = with_copied_outputs(network)
    graph, halves = _Streams(network, workers), halves_of(network)
    behind = {attention.name: perceptron for attention, perceptron in _blocks(halves)}
    for half in halves:
        graph.sum(half)
    for attention in halves:
        if attention.name in dropped:
            graph.drop(attention, behind[attention.name])
    return graph.cut()


def _blocks(halves: Sequence[Half]) -> list[tuple[Half, Half]]:
    """Attention and the perceptron that follows, of every block."""
    pairs = zip(halves, halves[1:], strict=False)
    return [(first, second) for first, second in pairs if not first.is_divisible and second.is_divisible]


class _Streams:
    """A network whose workers may go on with streams of their own, and who owns its neurons.

    A *private* tensor has P times the neurons of one of the stream, those of each worker one after the other.
    """

    def __init__(self, network: Network, workers: int) -> None:
        self._network, self._workers = network, workers
        self._dtype = network.mixings[0].weights.dtype
        owners = near_owners(network, block_owners(network, REPLICATED, np.ones(workers)))
        self._original_owners = owners
        self._owners = {space.name: owners[space.name] for space in network.free_spaces}
        self._owners |= {name: np.full_like(self._owners[name], EVERYBODY) for name in common_spaces(network)}
        self._operations: dict[str, list[Operation]] = {op.name: [op] for op in network.operations}
        self._spaces = {space.name: space for space in network.spaces}
        self._space_of = dict(network.space_of)
        # Of these, every worker computes all rows, or their rows have owners, who get ghosts.
        self._everywhere: set[str] = set()
        self._fetching: set[str] = set()

    def sum(self, half: Half) -> None:
        """What the workers add, private; its sums at owners; and the sums everywhere."""
        own = self._own(half)
        self._operations[half.name] = [own, *self._sums(half, own.target, half.out.bias)]

    def _own(self, half: Half) -> Mixing:
        """What each worker adds, without the bias."""
        owner = self._original_owners[self._network.space_of[half.out.source]]
        weights = np.concatenate([half.out.weights * (owner == worker) for worker in range(self._workers)])
        target = self._private(half.out.target, f"{half.name} own")
        return self._mixing(f"{half.name} own", half.out.source, target, weights)

    def _sums(self, half: Half, source: str, bias: np.ndarray) -> list[Operation]:
        name, D = f"{half.name} sums", half.width
        self._spaces[name], self._space_of[name] = Space(name, D), name
        self._owners[name] = contiguous_owners(D, np.ones(self._workers))
        self._fetching.add(name)
        self._everywhere.add(half.name)
        return [
            self._mixing(name, source, name, np.tile(np.eye(D), self._workers)),
            replace(self._mixing(half.name, name, half.out.target, np.eye(D)), bias=bias),
        ]

    def drop(self, attention: Half, perceptron: Half) -> None:
        """Let the perceptron of a worker read what its own heads add."""
        way = self._way(attention.out.target, perceptron.read)
        (own, *_) = self._operations[attention.name]
        own_bias = self._private(attention.out.target, _each(attention.out.target))
        scale, shift = np.ones((attention.width, 1)), attention.out.bias[:, None]
        with_bias = Affine(own_bias, own.target, own_bias, *(self._tiled(array) for array in (scale, shift)))
        private = {attention.out.target, *(op.target for op in way)}
        for op in way:
            self._operations[op.name] += self._privately(op, private)
        for op in perceptron.inner:
            if isinstance(op, Mixing) and op.source == perceptron.read:
                self._operations[op.name] = [self._of_own_columns(op)]
        self._operations[attention.name].insert(1, with_bias)
        rejoining = self._rejoining(attention, perceptron, way)
        if rejoining is not None:
            self._add_together(attention, perceptron, way, rejoining)

    def _add_together(
        self, attention: Half, perceptron: Half, way: Sequence[Operation], rejoining: Combine
    ) -> None:
        """Let what heads add cross with what the perceptron adds; what all had before goes on until then."""
        own, with_bias, *_ = self._operations[attention.name]
        self._operations[attention.name] = [own, with_bias]
        before = next(source for source in way[0].sources if source != attention.out.target)
        sources = (before, perceptron.out.target)
        self._operations[rejoining.name] = [replace(rejoining, sources=sources)]
        for op in way:
            self._operations[op.name].remove(op)
        added, both = self._operations[perceptron.name][0], f"{perceptron.name} and {attention.name}"
        together = Combine(both, (own.target, added.target), self._private(attention.out.target, both), "add")
        sums = self._sums(perceptron, both, attention.out.bias + perceptron.out.bias)
        self._operations[perceptron.name] = [added, together, *sums]

    def _way(self, first: str, last: str) -> list[Operation]:
        """The operations behind one tensor that another needs, in order."""
        behind: list[Operation] = []
        for op in self._network.operations:
            if {first, *(other.target for other in behind)} & {*op.sources}:
                behind.append(op)
        needed, way = {last}, []
        for op in reversed(behind):
            if op.target in needed:
                needed |= {*op.sources}
                way.append(op)
        return way[::-1]

    def _rejoining(self, attention: Half, perceptron: Half, way: Sequence[Operation]) -> Combine | None:
        """What adds the perceptron to the sum behind attention, if nothing else reads what is on the way."""
        tensors = {attention.out.target, *(op.target for op in way)}
        readers = [op for op in self._network.operations if tensors & {*op.sources}]
        others = [op for op in readers if op not in (*way, *perceptron.inner)]
        if len(others) == 1 and isinstance(op := others[0], Combine) and op.kind == "add":
            return op if {*op.sources} == {way[0].target, perceptron.out.target} else None
        return None

    def _privately(self, op: Operation, private: set[str]) -> list[Operation]:
        """The operation by each worker for itself, behind copies of what it reads of the stream."""
        copied = [tensor for tensor in op.sources if tensor not in private]
        made: list[Operation] = [
            self._copy(tensor) for tensor in copied if _each(tensor) not in self._space_of
        ]
        names: dict[str, object] = {
            "name": _each(op.name),
            "target": self._private(op.target, _each(op.target)),
        }
        sources = tuple(_each(source) for source in op.sources)
        if isinstance(op, Combine):
            return [*made, replace(op, **names, sources=sources)]
        names["source"] = sources[0]
        if isinstance(op, Mixing):
            weights, bias = np.kron(np.eye(self._workers), op.weights), self._tiled(op.bias)
            names |= {"weights": weights.astype(self._dtype), "bias": bias}
        elif isinstance(op, Affine):
            names |= {"scale": self._tiled(op.scale), "shift": self._tiled(op.shift)}
        elif not isinstance(op, Elementwise):
            raise TypeError(f"{op.name}: expected what stands in a normalisation, found {type(op).__name__}")
        return [*made, replace(op, **names)]

    def _copy(self, tensor: str) -> Mixing:
        """A copy for each worker."""
        copies = np.tile(np.eye(self._network.space(tensor).neurons), (self._workers, 1))
        name = self._private(tensor, _each(tensor))
        return replace(self._mixing(name, tensor, name, copies), fixed=True)

    def _of_own_columns(self, op: Mixing) -> Mixing:
        """A mixing whose rows read the stream of their owner."""
        owner = self._original_owners[self._network.space_of[op.target]][:, None]
        weights = np.concatenate([op.weights * (owner == worker) for worker in range(self._workers)], axis=1)
        return replace(op, source=_each(op.source), weights=weights)

    def _private(self, like: str, name: str) -> str:
        """A tensor of that name, which has a neuron of each worker for every one of another tensor."""
        space = self._network.space(like)
        self._spaces[_each(space.name)] = Space(_each(space.name), self._workers * space.neurons)
        self._owners[_each(space.name)] = np.arange(self._workers, dtype=np.int32).repeat(space.neurons)
        self._space_of[name] = _each(space.name)
        return name

    def _tiled(self, array: np.ndarray) -> np.ndarray:
        return np.concatenate([array.astype(self._dtype)] * self._workers)

    def _mixing(self, name: str, source: str, target: str, weights: np.ndarray) -> Mixing:
        return Mixing(name, source, target, weights.astype(self._dtype), np.zeros(len(weights), self._dtype))

    def cut(self) -> Cut:
        """The network and its plan."""
        operations = tuple(op for group in self._operations.values() for op in group)
        made = {*self._network.input_tensors, *(op.target for op in operations)}
        space_of = {tensor: space for tensor, space in self._space_of.items() if tensor in made}
        used = {part for name in space_of.values() for part in (name, *self._spaces[name].parts)}
        spaces = [space for space in self._spaces.values() if space.name in used]
        network = replace(
            self._network,
            spaces=tuple(sorted(spaces, key=lambda space: bool(space.parts))),
            operations=operations,
            space_of=space_of,
            positions_of=dict.fromkeys(space_of, ()),
        )
        owners = network.derive({space.name: self._owners[space.name] for space in network.free_spaces})
        plan = dense_plan_for(network, self._workers, REPLICATED, owners)
        return Cut(network, with_own_plans(network, plan, self._everywhere, self._fetching))


def _each(name: str) -> str:
    """The name of what each worker has for itself."""
    return f"{name} of each"
