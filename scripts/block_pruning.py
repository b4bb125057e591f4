"""A peer of the method for transformers: blocks of weights are pruned, and the others are updated.

SparseGPT (arXiv:2301.00774) with a mask that saves communication: every neuron of the stream has an owner,
D/P neurons for each worker.  What is removed are all weights between a neuron of the stream and those of
another worker: then the neuron need not cross.  Network and plan run as the method's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from repurpose_hpc.model.forward import split_inputs
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Combine, Mixing, Operation
from repurpose_hpc.plan.masks import EVERYBODY, MixingPlan, ghost_plan, partial_plan
from repurpose_hpc.plan.plan import REPLICATED, Plan, block_owners, dense_plan_for, near_owners
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.exact import adding_mixings, common_spaces, with_copied_outputs
from repurpose_hpc.restructure.tokens.budget import dense_values
from repurpose_hpc.restructure.tokens.fits import RIDGE, Moments
from repurpose_hpc.restructure.tokens.halves import halves_of
from repurpose_hpc.restructure.tokens.propagation import embedded
from repurpose_hpc.restructure.tokens.quality import batches

# Behind the names of spaces of which every worker has a copy, being computed from the input alone.
KNOWN = " known"


def block_pruning(network: Network, texts: Sequence[np.ndarray], workers: int, budget: float) -> Cut:
    """Prune what crosses between workers, and fit what is left.

    Every layer that reads the stream or adds to it keeps the same part of its pairs of a neuron of the stream
    and a worker that does not own it, those with the largest *saliency*: what is added to the squared error
    if the weights of this pair alone are removed and the others make up for it, w [H⁻¹]⁻¹ w for each row, H
    the covariance of what the layer reads.  Layer by layer, in the order of execution, the weights that are
    left become those of least squares for what the layers before really make: SparseGPT's update, solved
    exactly.

    What the first half reads is known to every worker, and an output layer keeps all of its pairs.

    Args:
        network: of tokens.
        texts: calibration data.
        workers: P.
        budget: fraction of the dense values that may cross, those of normalisations' means among them.
    """
    network, known = _with_known_input(with_copied_outputs(network))
    plan = _owned_plan(network, known, workers)
    layers = _layers(network, plan)
    pruned = {mixing.name for layer in layers for mixing in layer.mixings}
    others = sum(plan.values_sent(network, mixing) for mixing in network.mixings if mixing.name not in pruned)
    crossing = [layer.crossing(network, plan) for layer in layers]
    pairs = sum(int(mask.sum()) for mask in crossing)
    share = float(np.clip((budget * dense_values(network, workers) - others) / max(pairs, 1), 0, 1))
    at = {layer.mixings[0].name: (layer, mask) for layer, mask in zip(layers, crossing, strict=True)}
    walk = _Walk(network.astype(np.float32), texts)
    for op in network.operations:
        if op.name in at:
            layer, mask = at[op.name]
            moments = walk.moments(layer.source)
            H = _regular(moments.covariance)
            mask = _most_salient(layer.saliency(network, plan, H), mask, int(share * mask.sum()))
            plans = {mixing.name: layer.plan(*plan.ends(network, mixing), mask) for mixing in layer.mixings}
            plan = replace(plan, mixings={**plan.mixings, **plans})
            for mixing in layer.mixings:
                fitted = updated(mixing, plan.allowed(network, mixing), H, moments.mean)
                network = network.with_mixings({mixing.name: fitted})
        walk.go_on(network)
    return Cut(network, plan)


def updated(mixing: Mixing, allowed: np.ndarray, H: np.ndarray, mean: np.ndarray) -> Mixing:
    """The mixing with the weights that are allowed alone, those of least squares for what it computes.

    Args:
        mixing: W, (m, n).
        allowed: the weights that are left, bool (m, n).
        H: covariance of what it reads, regular, (n, n).
        mean: of what it reads, (n,).
    """
    W = mixing.weights.astype(np.float64)
    left = np.zeros_like(W)
    supports, support_of = np.unique(allowed, axis=0, return_inverse=True)
    for number, columns in enumerate(supports):
        rows = np.flatnonzero(support_of.ravel() == number)
        solved = np.linalg.solve(H[np.ix_(columns, columns)], H[columns] @ W[rows].T)
        left[np.ix_(rows, columns)] = solved.T
    bias = mixing.bias + (W - left) @ mean
    dtype = mixing.weights.dtype
    return replace(mixing, weights=left.astype(dtype), bias=bias.astype(dtype))


def _regular(covariance: np.ndarray) -> np.ndarray:
    """The covariance with a little more variance of each neuron; any, where one never varies."""
    variance = np.diag(covariance)
    return covariance + np.diag(np.where(variance > 0, RIDGE * variance, 1.0))


def _most_salient(saliency: np.ndarray, among: np.ndarray, count: int) -> np.ndarray:
    """A mask of so many pairs, of those ``among`` which there are."""
    mask = np.zeros(among.size, bool)
    mask[np.argsort(-np.where(among, saliency, -np.inf), axis=None, kind="stable")[:count]] = True
    return mask.reshape(among.shape)


@dataclass(frozen=True)
class _Layer(ABC):
    """Mixings that read one tensor, of which pairs of a worker and a neuron of the stream may be removed.

    Masks and saliencies of these are (P, D).
    """

    mixings: tuple[Mixing, ...]

    @property
    def source(self) -> str:
        """The tensor."""
        return self.mixings[0].source

    @abstractmethod
    def crossing(self, network: Network, plan: Plan) -> np.ndarray:
        """Mask of the pairs that there are."""

    @abstractmethod
    def saliency(self, network: Network, plan: Plan, H: np.ndarray) -> np.ndarray:
        """What removing each pair by itself adds to the squared error."""

    @abstractmethod
    def plan(self, source: np.ndarray, target: np.ndarray, mask: np.ndarray) -> MixingPlan:
        """Of a mixing between spaces of these owners, with the pairs that are kept."""


class _Reading(_Layer):
    """Its rows read neurons of the stream, which their owners send."""

    def crossing(self, network: Network, plan: Plan) -> np.ndarray:
        source, workers = plan.owner(network, self.source), np.arange(plan.workers)
        reading = np.concatenate([plan.owner(network, mixing.target) for mixing in self.mixings])
        return np.isin(workers, reading)[:, None] & (source != workers[:, None])

    def saliency(self, network: Network, plan: Plan, H: np.ndarray) -> np.ndarray:
        found, of_one = np.zeros((plan.workers, len(H))), np.diag(np.linalg.inv(H))
        for mixing in self.mixings:
            _, target = plan.ends(network, mixing)
            np.add.at(found, target, mixing.weights.astype(np.float64) ** 2 / of_one)
        return found

    def plan(self, source: np.ndarray, target: np.ndarray, mask: np.ndarray) -> MixingPlan:
        return ghost_plan(mask, source, target)


class _Adding(_Layer):
    """Its columns add to neurons of the stream, whose owners receive sums."""

    def crossing(self, network: Network, plan: Plan) -> np.ndarray:
        source, target = plan.ends(network, self.mixings[0])
        workers = np.arange(plan.workers)
        return np.isin(workers, source)[:, None] & (target != workers[:, None])

    def saliency(self, network: Network, plan: Plan, H: np.ndarray) -> np.ndarray:
        (mixing,), inverse = self.mixings, np.linalg.inv(H)
        source, target = plan.ends(network, mixing)
        found = np.zeros((plan.workers, target.size))
        for worker in np.unique(source):
            own = source == worker
            W = mixing.weights[:, own].astype(np.float64)
            found[worker] = (W * np.linalg.solve(inverse[np.ix_(own, own)], W.T).T).sum(axis=1)
        return found

    def plan(self, source: np.ndarray, target: np.ndarray, mask: np.ndarray) -> MixingPlan:
        return partial_plan(mask, source, target)


def _layers(network: Network, plan: Plan) -> list[_Layer]:
    """What may be pruned, in the order of execution: not what reads what all know, and no output layer."""
    added = {mixing.name for mixing in adding_mixings(network)}
    outputs = {*network.output_tensors}
    found: dict[str, list[Mixing]] = {}
    for mixing in network.mixings:
        is_known = (plan.owner(network, mixing.source) == EVERYBODY).all()
        if not (mixing.fixed or is_known or mixing.target in outputs):
            found.setdefault(mixing.source, []).append(mixing)
    return [(_Adding if mixings[0].name in added else _Reading)(tuple(mixings)) for mixings in found.values()]


def _owned_plan(network: Network, known: set[str], workers: int) -> Plan:
    """The dense plan, with owners of the stream, who sum what is added to it."""
    owners = near_owners(network, block_owners(network, REPLICATED, np.ones(workers)))
    owners |= {name: np.full_like(owners[name], EVERYBODY) for name in known}
    return dense_plan_for(network, workers, REPLICATED, owners)


def _with_known_input(network: Network) -> tuple[Network, set[str]]:
    """A network in which what is computed before the first half is not of the stream, but copied into it.

    Also the spaces of that, which may be everybody's.
    """
    inner = halves_of(network)[0].inner
    first = network.operations.index(inner[0])
    early, late = network.operations[:first], network.operations[first:]
    common = common_spaces(network)
    moved = {op.target for op in early if network.space_of[op.target] in common}
    space_of = {tensor: space + KNOWN * (tensor in moved) for tensor, space in network.space_of.items()}
    read = {source for op in late if op not in inner for source in op.sources} & moved
    copies = {tensor: f"{tensor} owned" for tensor in sorted(read)}
    space_of |= {copy: network.space_of[tensor] for tensor, copy in copies.items()}
    operations = (
        *early,
        *(_copy(network, tensor, copy) for tensor, copy in copies.items()),
        *(op if op in inner else _reading(op, copies) for op in late),
    )
    spaces = {space.name: space for space in network.spaces}
    known = {space_of[tensor] for tensor in moved}
    spaces |= {name: replace(spaces[name.removesuffix(KNOWN)], name=name) for name in known}
    used = {part for name in space_of.values() for part in (name, *spaces[name].parts)}
    changed = replace(
        network,
        spaces=tuple(
            sorted((spaces[name] for name in spaces if name in used), key=lambda space: bool(space.parts))
        ),
        operations=operations,
        space_of=space_of,
        positions_of=dict.fromkeys(space_of, ()),
    )
    return changed, known


def _copy(network: Network, tensor: str, copy: str) -> Mixing:
    neurons, dtype = network.space(tensor).neurons, network.mixings[0].weights.dtype
    return Mixing(copy, tensor, copy, np.eye(neurons, dtype=dtype), np.zeros(neurons, dtype), fixed=True)


def _reading(op: Operation, copies: Mapping[str, str]) -> Operation:
    """The operation, which reads copies where there are any."""
    sources = tuple(copies.get(source, source) for source in op.sources)
    if sources == op.sources:
        return op
    return replace(op, **({"sources": sources} if isinstance(op, Combine) else {"source": sources[0]}))


class _Walk:
    """Calibration texts on their way through a network that changes before it is reached.

    Args:
        network: of tokens.
        texts: ids (tokens,) of each.
    """

    def __init__(self, network: Network, texts: Sequence[np.ndarray]) -> None:
        self._last_use = {source: i for i, op in enumerate(network.operations) for source in op.sources}
        self._done = 0
        self._batches = []
        for ids in batches(network, texts):
            at = network.at(ids.shape[1])
            self._batches.append((at, split_inputs(at, embedded(network, ids))))

    def moments(self, tensor: str) -> Moments:
        """Of a tensor that was reached."""
        return Moments(lambda: (x[tensor].reshape(len(x[tensor]), -1) for _, x in self._batches))

    def go_on(self, network: Network) -> None:
        """Compute the next operation, with the weights that it has in ``network`` now."""
        now = network.operations[self._done]
        for at, tensors in self._batches:
            op = at.operations[self._done]
            if isinstance(op, Mixing) and isinstance(now, Mixing):
                op = replace(op, weights=now.weights.astype(np.float32), bias=now.bias.astype(np.float32))
            tensors[op.target] = op.compute(*(tensors[source] for source in op.sources))
            for source in {*op.sources}:
                if self._last_use[source] <= self._done:
                    del tensors[source]
        self._done += 1
