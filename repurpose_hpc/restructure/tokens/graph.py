"""The network in which every half has its form, and the plan by which workers compute it.

The stream is everybody's.  A half that is narrow becomes

    codes     = C_p a_p of every worker p, which owns them
    z         = their sum over the workers, at the owner of each number, or at every worker
    narrow    = U z + b'                        everywhere
    predicted = A x,  shared = V a_s            where there are such terms, everywhere
    y         = narrow + predicted + shared

so that all that crosses are ghosts: neurons of the network.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from repurpose_hpc.model.network import Network, Space
from repurpose_hpc.model.operations import Affine, Combine, Mixing, Operation
from repurpose_hpc.plan.masks import EVERYBODY, MixingPlan, everywhere_plan, ghost_plan, trimmed
from repurpose_hpc.plan.plan import (
    REPLICATED,
    Plan,
    block_owners,
    contiguous_owners,
    dense_plan_for,
    near_owners,
)
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.exact import common_spaces
from repurpose_hpc.restructure.tokens.balance import Balance
from repurpose_hpc.restructure.tokens.fits import Fit
from repurpose_hpc.restructure.tokens.forms import Form, Kind
from repurpose_hpc.restructure.tokens.halves import Half


class Decided(NamedTuple):
    """A half, its form, and the weights of it if it is narrow."""

    half: Half
    form: Form
    fit: Fit | None


def cut_for(network: Network, decided: Sequence[Decided], part_weights: np.ndarray) -> Cut:
    """Give every half its form.

    Args:
        network: of tokens, whose outputs are not of the stream.
        decided: its halves.
        part_weights: relative capacities of the workers, (P,).
    """
    graph = _Graph(network, decided, part_weights)
    for half, form, fit in decided:
        graph.balance(half)
        if form.kind == Kind.SHARED:
            graph.share(half)
        elif form.kind == Kind.GATHERED:
            graph.everywhere.add(half.name)
        elif fit is not None:
            graph.narrow(half, form, fit)
    return graph.cut()


class _Graph:
    """A network whose halves are replaced one by one, and who owns its neurons.

    Attributes:
        everywhere: mixings of which every worker computes all rows.
        fetching: mixings whose rows have owners, who get as ghosts what they need.
    """

    def __init__(self, network: Network, decided: Sequence[Decided], part_weights: np.ndarray) -> None:
        self._network, self._weights = network, part_weights
        self._dtype = network.mixings[0].weights.dtype
        balance = Balance(network, [half for half, _, _ in decided], part_weights)
        self._original_owners = balance.owners
        self._of_perceptrons = balance.perceptrons([form for _, form, _ in decided])
        self._operations = {op.name: [op] for op in network.operations}
        self._spaces = {space.name: space for space in network.spaces}
        self._space_of = dict(network.space_of)
        self._common = common_spaces(network)
        # Of free spaces that are new.
        self._owners: dict[str, np.ndarray] = {}
        self.everywhere: set[str] = set()
        self.fetching: set[str] = set()

    def balance(self, half: Half) -> None:
        """Give workers of the neurons of a perceptron what balances their work."""
        if half.is_divisible:
            space = self._network.space_of[half.out.source]
            self._owners[space] = contiguous_owners(half.neurons, self._of_perceptrons)

    def share(self, half: Half) -> None:
        """Have everybody compute a half."""
        spaces = {part for op in half.inner for part in self._network.parts(op.target)}
        self._common |= spaces
        for space in spaces:
            self._owners.pop(space, None)
        self.everywhere.add(half.name)

    def narrow(self, half: Half, form: Form, fit: Fit) -> None:
        """Put what stands for y in the place of its mixing."""
        name, rest = half.name, fit.rest(half)
        made = self._shared_neurons(half, fit.shared) if fit.shared.size else []
        terms: list[tuple[str, str, np.ndarray]] = []
        if len(fit.C):
            made += self._sums(half, form, fit, rest)
            terms.append((f"{name} narrow", made[-1].target, fit.U))
        if fit.A.shape[1]:
            terms.append((f"{name} predicted", half.read, fit.A))
        if fit.shared.size:
            terms.append((f"{name} shared", _of_shared(half.out.source), fit.V))
        self._keep(half, rest if len(fit.C) else rest[:0])
        self._operations[name] = [*made, *self._added(half, terms, fit.bias)]

    def _sums(self, half: Half, form: Form, fit: Fit, rest: np.ndarray) -> list[Operation]:
        """Codes, and z: their sums over the workers."""
        source, R = half.out.source, len(fit.C)
        owner = self._original_owners[self._network.space_of[source]]
        if half.is_divisible:
            owner = contiguous_owners(rest.size, self._of_perceptrons)
        workers = np.unique(owner)
        C = fit.C @ half.out.W[:, rest].astype(np.float64)
        codes = np.concatenate([C * (owner == worker) for worker in workers])
        sums = np.tile(np.eye(R), workers.size)
        by_all = form.rounds == 1
        directions = np.full(R, EVERYBODY) if by_all else contiguous_owners(R, self._weights)
        return [
            self._made(f"{half.name} codes", source, codes, workers.repeat(R)),
            self._made(f"{half.name} sums", f"{half.name} codes", sums, directions),
        ]

    def _made(self, name: str, source: str, weights: np.ndarray, owner: np.ndarray) -> Mixing:
        """A mixing into a space of its own."""
        self._spaces[name], self._space_of[name] = Space(name, len(weights)), name
        self._owners[name] = owner.astype(np.int32)
        (self.everywhere if (owner == EVERYBODY).all() else self.fetching).add(name)
        return self._mixing(name, source, name, weights, np.zeros(len(weights)))

    def _added(
        self, half: Half, terms: Sequence[tuple[str, str, np.ndarray]], bias: np.ndarray
    ) -> list[Operation]:
        """The terms of y, each a name, what it reads and its weights, and their sum."""
        operations: list[Operation] = []
        target = half.out.target
        if not terms:  # whatever x is
            scale, shift = np.zeros((half.width, 1), self._dtype), bias[:, None].astype(self._dtype)
            return [Affine(f"{half.name} mean", half.read, target, scale, shift)]
        for number, (name, source, weights) in enumerate(terms):
            is_only, is_last = len(terms) == 1, number == len(terms) - 1
            made = target if is_only else self._of_stream(name, target)
            operations.append(self._mixing(name, source, made, weights, bias if number == 0 else 0 * bias))
            self.everywhere.add(name)
            if number:
                total = target if is_last else self._of_stream(f"{name} added", target)
                before = operations[-2].target
                operations.append(Combine(f"{name} added", (before, made), total, "add"))
        return operations

    def _of_stream(self, tensor: str, like: str) -> str:
        """A further tensor of the stream."""
        self._space_of[tensor] = self._space_of[like]
        return tensor

    def _mixing(self, name: str, source: str, target: str, weights: np.ndarray, bias: np.ndarray) -> Mixing:
        return Mixing(name, source, target, weights.astype(self._dtype), bias.astype(self._dtype))

    def _shared_neurons(self, half: Half, shared: np.ndarray) -> list[Operation]:
        """The operations that make some neurons of a perceptron, which all workers compute."""
        space = _of_shared(self._network.space_of[half.out.source])
        self._spaces[space] = Space(space, shared.size)
        self._owners[space] = np.full(shared.size, EVERYBODY, np.int32)
        operations = [_renamed(_restricted(op, shared), half) for op in half.inner]
        self._space_of |= {op.target: space for op in operations}
        return operations

    def _keep(self, half: Half, neurons: np.ndarray) -> None:
        """Keep some neurons of a perceptron alone, or all of a half, or nothing of it."""
        if neurons.size == half.neurons:
            return
        for op in half.inner:
            self._operations[op.name] = [_restricted(op, neurons)] if neurons.size else []
            if not neurons.size:
                del self._space_of[op.target]
        spaces = {part for op in half.inner for part in self._network.parts(op.target)}
        spaces |= {self._network.space_of[op.target] for op in half.inner}
        for name in spaces:
            if neurons.size:
                self._spaces[name] = replace(self._spaces[name], neurons=neurons.size)
                self._owners[name] = contiguous_owners(neurons.size, self._of_perceptrons)
            else:
                del self._spaces[name]
                self._owners.pop(name, None)

    def cut(self) -> Cut:
        """The network and its plan."""
        network = replace(
            self._network,
            spaces=tuple(sorted(self._spaces.values(), key=lambda space: bool(space.parts))),
            operations=tuple(op for group in self._operations.values() for op in group),
            space_of=self._space_of,
            positions_of=dict.fromkeys(self._space_of, ()),
        )
        owners = near_owners(network, block_owners(network, REPLICATED, self._weights))
        free = {space.name: owners[space.name] for space in network.free_spaces}
        free |= {name: np.full_like(free[name], EVERYBODY) for name in self._common}
        free |= self._owners
        plan = dense_plan_for(network, self._weights.size, REPLICATED, network.derive(free))
        return Cut(network, with_own_plans(network, plan, self.everywhere, self.fetching))


def with_own_plans(
    network: Network, plan: Plan, everywhere: Container[str], fetching: Container[str]
) -> Plan:
    """The plan with those of mixings that neither send what they add to all, nor are as they were.

    Args:
        network: of the plan.
        plan: in which common neurons are everybody's.
        everywhere: names of mixings of which every worker computes all rows.
        fetching: of mixings whose rows have owners, who get as ghosts what they need.
    """
    plans: dict[str, MixingPlan] = {}
    for mixing in network.mixings:
        source, target = plan.ends(network, mixing)
        if mixing.name in everywhere:
            plans[mixing.name] = everywhere_plan(source, target, plan.workers)
        elif mixing.name in fetching:
            dense = ghost_plan(np.ones((plan.workers, source.size), bool), source, target)
            plans[mixing.name] = trimmed(dense, mixing.pattern, source, target)
    return replace(plan, mixings={**plan.mixings, **plans})


def _of_shared(name: str) -> str:
    """The name of a tensor, or anything else, of neurons that all workers compute."""
    return f"{name} of all"


def _restricted(op: Operation, neurons: np.ndarray) -> Operation:
    """An operation of a perceptron that makes some of its neurons alone."""
    if isinstance(op, Mixing):
        return replace(op, weights=op.W[neurons], bias=op.bias[neurons])
    if isinstance(op, Affine):
        return replace(op, scale=op.scale[neurons], shift=op.shift[neurons])
    return op


def _renamed(op: Operation, half: Half) -> Operation:
    """An operation of a half under another name, on tensors of other names but for x."""
    names: dict[str, Any] = {"name": _of_shared(op.name), "target": _of_shared(op.target)}
    sources = tuple(source if source == half.read else _of_shared(source) for source in op.sources)
    names |= {"source": sources[0]} if hasattr(op, "source") else {"sources": sources}
    return replace(op, **names)
