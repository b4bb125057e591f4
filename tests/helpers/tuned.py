"""Networks to be tuned, and gradients on the ranks of this job, and of the whole of it in one process."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from mpi4py import MPI

from helpers import small_plans
from helpers.roots import by_root
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.backward import backpropagate
from repurpose_hpc.model.forward import outputs, split_values, trace
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Depthwise
from repurpose_hpc.plan.assemble import assemble
from repurpose_hpc.plan.plan import Plan
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.runtime.exchange.transports import DEFAULT_TRANSPORT
from repurpose_hpc.runtime.hosting import hosted_workers
from repurpose_hpc.runtime.resources import EXACT_FORMATS, Formats
from repurpose_hpc.tuning.outputs import Outputs
from repurpose_hpc.tuning.parameters import Update
from repurpose_hpc.tuning.passes import Passes

COMM = MPI.COMM_WORLD


def chain(seed=0):
    return small_plans.random_network(seed, (12, 17, 15, 14, 5), "identity")


@by_root
def relayed(seed=0):
    """A network that is restructured with relays, whose derivatives cross within a mixing."""
    network = chain(seed)
    x = np.random.default_rng(0).standard_normal((200, network.inputs))
    options = Options(max(COMM.size, 2), 0.3, "partitioned", forms=("ghosts", "sums", "relays"))
    cut = restructure(network, Samples.of(x), options)
    assert cut.plan.relays
    return network, cut.network, cut.plan


def random_case(make, more_workers=0, placement="partitioned"):
    """A network, it without the weights for which a random plan does not provide, and the plan."""
    network = make(1)
    plan = small_plans.random_plan(network, COMM.size + more_workers, placement, 1, 0.4)
    return network, small_plans.pruned(network, plan), plan


def assert_near(found, expected, tolerance=1e-8):
    for mine, theirs in zip(found.mixings, expected.mixings, strict=True):
        np.testing.assert_allclose(mine.weights, theirs.weights, rtol=0, atol=tolerance)
        np.testing.assert_allclose(mine.bias, theirs.bias, rtol=0, atol=tolerance)


class RankPasses:
    """This rank's passes of ``network``, with outputs and gradients of all of it."""

    def __init__(
        self,
        network: Network,
        plan: Plan,
        max_batch: int,
        comm=COMM,
        dtype: type = np.float64,
        formats: Formats = EXACT_FORMATS,
        transport: str = DEFAULT_TRANSPORT,
        cuts: tuple[str, ...] = (),
    ):
        ranks, rank = (1, 0) if comm is None else (comm.size, comm.rank)
        hosted = hosted_workers(plan.workers, ranks, rank)
        self.shards = [make_shard(network, plan, worker, dtype) for worker in hosted]
        self.passes, self.comm = Passes(self.shards, comm, max_batch, formats, transport, cuts), comm
        self._outputs = Outputs(comm, self.passes.output_columns, np.dtype(dtype), max_batch)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """All outputs, on every rank, (samples, outputs)."""
        X = np.ascontiguousarray(x.T[self.passes.input_columns], self.shards[0].graph.mixings[0].bias.dtype)
        y = self._outputs.gather(self.passes.forward(X))
        return y if self.comm is None else self.comm.bcast(y, root=0)

    def backward(self, g: np.ndarray, update: Update, others: Mapping[str, np.ndarray] | None = None) -> None:
        """Go back by gᵀ outputs of the last forward, g (samples, outputs) on every rank.

        And by ``others``, derivatives by this rank's neurons of other tensors.
        """
        is_root = self.comm is None or self.comm.rank == 0
        rows = self._outputs.scatter(g if is_root else None, len(g))
        self.passes.backward(rows, update, others or {})

    def tuned(self) -> Network:
        """The network with the weights as they are now, on every rank."""
        shards = self.passes.tuned(self.shards, self.passes.tuned_graph())
        tuned = [replace(shard, blocks=dict(shard.blocks)) for shard in shards]
        parts = [tuned] if self.comm is None else self.comm.allgather(tuned)
        return assemble(shard for part in parts for shard in part)

    def gradients(self, g: np.ndarray, others: Mapping[str, np.ndarray] | None = None) -> Network:
        """The gradients of ``backward``, in the place of the weights, on every rank.

        Those of fixed mixings are not known: they have their weights.  Where nothing leads to they are 0.
        """
        found = {}
        self.backward(g, lambda parameter, gradient: found.update({parameter.name: gradient}), others)
        weights = {}
        for parameter in self.passes.parameters:
            weights[parameter.name] = parameter.values.copy()
            parameter.values[...] = found.get(parameter.name, 0)
        gradients = self.tuned()
        for parameter in self.passes.parameters:
            parameter.values[...] = weights[parameter.name]
        return gradients


def gradients_of(network: Network, x: np.ndarray, g: np.ndarray) -> Network:
    """The same of the whole network in plain NumPy, where weights are not zero."""
    tensors = trace(network, np.ascontiguousarray(x.T))
    assert outputs(network, tensors).shape == g.T.shape
    g = np.ascontiguousarray(g.T)
    by_target = dict(backpropagate(network, tensors, g)) | _by_filtered(network, tensors, g)
    return gradients_by(network, tensors, by_target)


def _by_filtered(network: Network, tensors: Mapping[str, np.ndarray], g: np.ndarray) -> dict[str, np.ndarray]:
    """The derivatives by the targets of depthwise convolutions."""
    parts = split_values(network, network.output_tensors, g)
    adjoints = {name: np.zeros_like(tensor) for name, tensor in tensors.items()}
    for name, part in zip(network.output_tensors, parts, strict=True):
        adjoints[name] += part
    for op in reversed(network.operations):
        sources = [tensors[source] for source in op.sources]
        for source, product in zip(
            op.sources, op.vjp(adjoints[op.target], tensors[op.target], *sources), strict=True
        ):
            adjoints[source] += product
    return {op.name: adjoints[op.target] for op in network.operations if isinstance(op, Depthwise)}


def gradients_by(
    network: Network, tensors: Mapping[str, np.ndarray], by_target: Mapping[str, np.ndarray]
) -> Network:
    """The gradients of all mixings and filters from the derivatives by their targets; others as they are."""
    found = {}
    for op in network.operations:
        if isinstance(op, Depthwise) and op.name in by_target:
            weights, bias = op.gradient(by_target[op.name], tensors[op.source])
            found[op.name] = replace(op, weights=weights, bias=bias)
    for mixing in network.mixings:
        if mixing.fixed:
            continue
        by_weights, by_bias = np.zeros_like(mixing.weights), np.zeros_like(mixing.bias)
        if mixing.name in by_target:
            by_weights, by_bias = mixing.gradient(by_target[mixing.name], tensors[mixing.source])
        by_weights = by_weights * (mixing.weights != 0)
        found[mixing.name] = replace(mixing, weights=by_weights, bias=by_bias)
    return replace(network, operations=tuple(found.get(op.name, op) for op in network.operations))
