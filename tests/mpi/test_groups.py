"""Groups of ranks that share the samples of a batch change all copies as one process with all of it would."""

from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI

from helpers import small_plans
from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.io.spooled import Spooled
from repurpose_hpc.model.network import Network
from repurpose_hpc.mpi.groups import Groups
from repurpose_hpc.plan.assemble import assemble
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.runtime.exchange.transports import DEFAULT_TRANSPORT
from repurpose_hpc.runtime.hosting import hosted_workers
from repurpose_hpc.runtime.resources import EXACT_FORMATS
from repurpose_hpc.tuning.copies import Copies
from repurpose_hpc.tuning.driver import Tuning, parted
from repurpose_hpc.tuning.options import TuneOptions
from repurpose_hpc.tuning.passes import Passes
from repurpose_hpc.tuning.targets import of_original

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
WORKERS = 9
GROUPS = [groups for groups in range(1, COMM.size + 1) if COMM.size % groups == 0]


def tuned(comm, groups: int, optimiser: str) -> tuple[list[float], Network, Copies, Groups]:
    """Losses of two epochs, the last one on held-out samples, and the network of this rank's group."""
    original = small_plans.random_network()
    plan = small_plans.random_plan(original, WORKERS, "replicated", 5)
    network = small_plans.pruned(original, plan)
    samples = Samples.of(np.random.default_rng(3).standard_normal((58, network.inputs)))
    options = TuneOptions(
        epochs=2,
        batch_size=13,
        groups=groups,
        optimiser=optimiser,
        learning_rate=0.01,
        weight_decay=0.1,
    )
    shares = Groups(comm, groups)
    copies = Copies(shares)
    ranks, rank = (1, 0) if copies.comm is None else (copies.comm.size, copies.comm.rank)
    shards = [
        make_shard(network, plan, worker, np.float64) for worker in hosted_workers(WORKERS, ranks, rank)
    ]
    passes = Passes(shards, copies.comm, options.share, EXACT_FORMATS, DEFAULT_TRANSPORT)
    targets = of_original(network, samples, original, np.dtype(np.float64), 16) if passes.is_root else None
    with Spooled(samples, passes.input_columns, np.dtype(np.float64)) as spooled:
        tuning = Tuning(passes, spooled, targets, parted(58, options), options, copies)
        losses = [tuning.epoch(1), tuning.epoch(2), tuning.judged()[0]]
    passes.free()
    mine = [replace(shard, blocks=dict(shard.blocks)) for shard in passes.tuned(shards, passes.tuned_graph())]
    of_group = [mine] if copies.comm is None else copies.comm.allgather(mine)
    return losses, assemble(shard for part in of_group for shard in part), copies, shares


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize("groups", GROUPS)
def test_copies_change_as_one_process_would(groups, optimiser):
    expected, whole, *_ = tuned(None, 1, optimiser)
    losses, network, copies, shares = tuned(COMM, groups, optimiser)
    assert losses == pytest.approx(expected, rel=1e-9)
    for mine, theirs in zip(network.mixings, whole.mixings, strict=True):
        np.testing.assert_allclose(mine.weights, theirs.weights, rtol=0, atol=1e-9)
        np.testing.assert_allclose(mine.bias, theirs.bias, rtol=0, atol=1e-9)
    assert len({*COMM.allgather(network.fingerprint())}) == 1, "copies differ"
    assert bool(copies.bytes) == (groups > 1)
    shares.free()


def test_ranks_that_cannot_be_divided_are_refused():
    with pytest.raises(UserError, match=f"divides the {COMM.size} ranks, got {COMM.size + 1}"):
        Groups(COMM, COMM.size + 1)
